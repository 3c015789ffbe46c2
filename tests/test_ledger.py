"""Each reject code: an archive whose file ends with it. No code without a case, no case without a code."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1
from test_dicom import image, write, write_stack
from test_nifti import AFFINE, noise, save

from index.catalog import scan
from index.ledger import CODES, Rejection, count_codes, rejects_frame, row
from index.options import ScanOptions
from index.reading import read_volume

Make = Callable[[Path], object]


def stack(**tags: object) -> Make:
    return lambda root: write_stack(root, **tags)


def slices(*places_mm: tuple[float, float]) -> Make:
    """Axial slices at these (x, z)."""

    def make(root: Path) -> None:
        for number, (x, z) in enumerate(places_mm):
            tags = {"ImagePositionPatient": [x, 0.0, z], "InstanceNumber": number}
            write(root / f"{number}.dcm", image("1.2", number, np.arange(20).reshape(5, 4) + number, **tags))

    return make


def file(name: str, content: bytes) -> Make:
    return lambda root: (root / name).write_bytes(content)


def nifti(data: np.ndarray, name: str = "v.nii.gz") -> Make:
    return lambda root: save(root / name, data)


def dicom(change: Callable[[Dataset], object], keep: int | None = None) -> Make:
    """One slice, changed; of its file only the first `keep` bytes where that is given."""

    def make(root: Path) -> None:
        dataset = image("1.2", 0, np.arange(20).reshape(5, 4))
        change(dataset)
        write(root / "a.dcm", dataset)
        (root / "a.dcm").write_bytes((root / "a.dcm").read_bytes()[:keep])

    return make


def garbled(root: Path) -> None:
    from pydicom.encaps import encapsulate

    for place in range(6):
        dataset = image("1.2", place, np.arange(20).reshape(5, 4))
        write(root / f"{place}.dcm", dataset)
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.PixelData = encapsulate([b"\xff\xd8\xff\xc3" + bytes(range(200))])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(root / f"{place}.dcm")


def copied(root: Path) -> None:
    write_stack(root / "a")
    (root / "b.dcm").write_bytes((root / "a/0.dcm").read_bytes())


def crossing(root: Path) -> None:
    for place in range(6):
        tags = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0] if place < 3 else [1, 0, 0, 0, 0, -1]}
        write(root / f"{place}.dcm", image("1.2", place, np.arange(20).reshape(5, 4), **tags))


def several(times: int, slices_of: Callable[[int], int]) -> Make:
    def make(root: Path) -> None:
        for time in range(times):
            for place in range(slices_of(time)):
                tags = {"TemporalPositionIdentifier": time + 1}
                write(root / f"{time}-{place}.dcm", image("1.2", place, np.arange(20).reshape(5, 4), **tags))

    return make


def without_forms(root: Path) -> None:
    picture = nib.Nifti1Image(noise(), AFFINE)
    picture.set_sform(None, 0)
    picture.set_qform(None, 0)
    (root / "v.nii").write_bytes(picture.to_bytes())


def report_of(text: str) -> Make:
    def make(root: Path) -> None:
        write_stack(root / "study")
        (root / "study/report.txt").write_text(text)

    return make


def delete(name: str) -> Callable[[Dataset], object]:
    return lambda dataset: delattr(dataset, name)


def put(**tags: object) -> Callable[[Dataset], object]:
    return lambda dataset: [setattr(dataset, name, value) for name, value in tags.items()]


EVEN = [(0.0, 4.0 * place) for place in range(6)]
CASES: dict[str, Make] = {
    "not_an_image": file("a.bin", b"hello" * 200),
    "companion": file("notes.txt", b"hello"),
    "report": report_of("Findings: normal."),
    "unreadable": lambda root: os.mkfifo(root / "pipe.dcm"),
    "empty_file": file("a.dcm", b""),
    "empty_folder": lambda root: (root / "a/b").mkdir(parents=True),
    "packed": file("a.zip", b"PK\x03\x04" + bytes(40)),
    "dicomdir": dicom(put(SOPClassUID="1.2.840.10008.1.3.10")),
    "bad_header": stack(Rows=1),
    "missing_tags": dicom(delete("SeriesInstanceUID")),
    "not_mr": stack(Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
    "no_pixels": dicom(delete("PixelData")),
    "truncated": dicom(lambda dataset: None, keep=-7),
    "undecodable": garbled,
    "corrupt": file("v.nii.gz", gzip.compress(nib.Nifti1Image(noise(), AFFINE).to_bytes())[:-8] + bytes(8)),
    "secondary_capture": stack(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
    "not_grayscale": nifti(noise().astype(np.complex64)),
    "localizer": stack(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "projection": stack(ImageType=["DERIVED", "SECONDARY", "MIP"]),
    "burned_in": stack(BurnedInAnnotation="YES"),
    "mask": nifti(noise(), "t1_mask.nii.gz"),
    "too_few_slices": slices(*EVEN[:2]),
    "duplicate": copied,
    "duplicate_position": slices(*EVEN, EVEN[2]),
    "missing_slice": slices(*EVEN[:3], *EVEN[4:]),
    "uneven_spacing": slices(*EVEN[:3], (0.0, 13.5), *EVEN[4:]),
    "mixed_orientation": crossing,
    "sheared": slices(*((z / 4, z) for _, z in EVEN)),
    "incomplete_volume": several(2, lambda time: 6 - time),
    "no_geometry": without_forms,
    "bad_geometry": stack(PixelSpacing=[0, 0]),
    "unsupported_shape": nifti(noise((6, 6, 6, 1, 2))),
    "part_not_chosen": several(9, lambda time: 6),
    "constant_image": nifti(noise() * 0 + 5),
    "no_finite_voxels": nifti(np.full((9, 9, 9), np.nan, dtype="<f4")),
}
AT_READING = {"changed"}


def test_every_code_has_a_case() -> None:
    assert set(CASES) | AT_READING == set(CODES)


@pytest.mark.parametrize("code", CASES)
def test_the_file_ends_with_its_code(tmp_path: Path, code: str) -> None:
    CASES[code](tmp_path)
    found = scan(tmp_path)
    assert set(found.rejects["code"]) == {code}
    assert set(found.rejects["reason"]) == {CODES[code]}
    used = found.records["files"].explode().n_unique() if found.records.height else 0
    assert used + found.rejects.height == found.files


def test_changed_is_told_at_reading(tmp_path: Path) -> None:
    write_stack(tmp_path)
    record = scan(tmp_path).records.row(0, named=True)
    (tmp_path / "5.dcm").write_bytes((tmp_path / "0.dcm").read_bytes())
    with pytest.raises(Rejection, match="changed"):
        read_volume(tmp_path, record)


@pytest.mark.parametrize("code", ["localizer", "projection", "secondary_capture", "burned_in", "mask", "not_mr"])
def test_a_person_may_let_it_in(tmp_path: Path, code: str) -> None:
    CASES[code](tmp_path)
    found = scan(tmp_path, ScanOptions(include=frozenset({code})))
    assert found.records.height == 1 and found.rejects.is_empty()
    assert read_volume(tmp_path, found.records.row(0, named=True)).data.std() > 0


def test_codes_are_counted_most_first() -> None:
    frame = rejects_frame([row("b", "mask"), row("a", "mask"), row("c", "packed", "zip")])
    assert frame["path"].to_list() == ["a", "b", "c"]
    assert list(count_codes(frame).items()) == [("mask", 2), ("packed", 1)]
    with pytest.raises(KeyError):
        row("a", "no such code")
