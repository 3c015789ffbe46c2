"""Mutated headers and bodies: whatever the bytes, one record or one ledger row, soon, and in little memory."""

import gzip
import resource
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from test_dicom import enhanced, image, write
from test_nifti import AFFINE, noise

from index.catalog import scan
from index.ledger import CODES, Rejection
from index.options import ScanOptions
from index.reading import read_volume

OPTIONS = ScanOptions(min_slices=1)
MOST_GROWTH_GB = 1.0
Change = tuple[str, float, int]
CHANGES = st.lists(
    st.tuples(st.sampled_from(["byte", "length", "cut", "drop", "repeat"]), st.floats(0, 1), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=6,
)
STARTS = [b"", bytes(128) + b"DICM", struct.pack("<i", 348), b"\x1f\x8b\x08"]
fuzzed = settings(max_examples=350, deadline=5000, suppress_health_check=list(HealthCheck))


def mutated(raw: bytes, changes: list[Change], header_bytes: int) -> bytes:
    """The bytes with a few changed, most of them in the header, a length made absurd, a piece cut off, dropped or repeated."""
    found = bytearray(raw)
    for kind, where, value in changes:
        reach = header_bytes if value % 4 else len(found)
        at = min(int(where * reach), max(0, len(found) - 5))
        if kind == "byte" and found:
            found[at] = value % 256
        elif kind == "length":
            found[at : at + 4] = struct.pack("<I", value if value % 3 else 0xFFFFFFFF)
        elif kind == "cut":
            del found[at + value % 1000 :]
        elif kind == "drop":
            del found[at : at + value % 40]
        else:
            found[at:at] = found[at : at + value % 200]
    return bytes(found)


def ends_well(folder: Path, name: str, raw: bytes) -> None:
    (folder / name).write_bytes(raw)
    found = scan(folder, OPTIONS)
    told = found.rejects["path"].to_list()
    assert found.files == 1 and set(found.rejects["code"]) <= set(CODES)
    assert told == [name] or (told == [] and all(files == [name] for files in found.records["files"].to_list()))
    for record in found.records.iter_rows(named=True):
        assert np.isfinite(record["affine_mm"]).all() and min(record["shape"]) >= 1
        try:
            volume = read_volume(folder, record)
        except Rejection as rejection:
            assert rejection.code in CODES
        else:
            assert np.isfinite(volume.data).all() and list(volume.data.shape[1:]) == record["shape"]


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20 < MOST_GROWTH_GB


@pytest.fixture(scope="module")
def dicoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    pixels = np.arange(48 * 40).reshape(48, 40) % 900
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless):
        write(folder / syntax, image("1.2", 0, pixels, EchoTime="90", RepetitionTime="4000", PatientAge="033Y"), syntax)
    write(folder / "enhanced", enhanced([(3.0 * place, 20.0, 1.0 + place, pixels) for place in range(4)]))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "kind", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, "enhanced"]
)
def test_mutated_dicom(tmp_path: Path, dicoms: dict[str, bytes], kind: str) -> None:
    raw = dicoms[kind]
    header_bytes = len(raw) - 48 * 40 * 2 if kind != RLELossless and kind != "enhanced" else len(raw) // 2

    @fuzzed
    @given(changes=CHANGES)
    def fuzz(changes: list[Change]) -> None:
        ends_well(tmp_path, "a.dcm", mutated(raw, changes, header_bytes))

    fuzz()


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("packed", ["plain", "packed", "packed and then changed"])
def test_mutated_nifti(tmp_path: Path, version: type, packed: str) -> None:
    picture = version(noise((14, 13, 12)), AFFINE)
    picture.set_sform(AFFINE, 1)
    raw = picture.to_bytes()

    @fuzzed
    @given(changes=CHANGES)
    def fuzz(changes: list[Change]) -> None:
        if packed == "plain":
            ends_well(tmp_path, "v.nii", mutated(raw, changes, 544))
        elif packed == "packed":
            ends_well(tmp_path, "v.nii.gz", gzip.compress(mutated(raw, changes, 544), 1))
        else:
            ends_well(tmp_path, "v.nii.gz", mutated(gzip.compress(raw, 1), changes, 400))

    fuzz()


@fuzzed
@given(
    raw=st.binary(max_size=4096),
    start=st.sampled_from([b"", bytes(128) + b"DICM", struct.pack("<i", 348), b"\x1f\x8b\x08"]),
)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, raw: bytes, start: bytes) -> None:
    if start + raw:
        ends_well(tmp_path_factory.getbasetemp() / "any", "a", start + raw)


@pytest.fixture(autouse=True, scope="module")
def any_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    (tmp_path_factory.getbasetemp() / "any").mkdir(exist_ok=True)
