"""NIfTI: the affine that counts, the values that count, what is no image, and what damage is called."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.bids import entities
from index.catalog import read_volume, scan
from index.ledger import Rejection
from index.nifti import read_header
from index.voxels import check_voxels, is_label_map

AFFINE = np.array([[-2.0, 0.1, 0, 30], [0, 2.5, 0.2, -40], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def save(path: Path, data: np.ndarray, version: type = nib.Nifti1Image) -> None:
    picture = version(data, AFFINE)
    picture.set_sform(AFFINE, 1)
    picture.set_qform(AFFINE, 1)
    raw = picture.to_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def noise(shape: tuple[int, ...] = (12, 11, 10), dtype: str = "<i2") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, shape).astype(dtype)


def code_of(path: Path) -> str:
    found = scan(path.parent)
    assert found.records.is_empty()
    return ",".join(found.rejects["code"])


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<u4", "<f4", ">f8"])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "no extension"])
def test_volume_and_record_are_what_nibabel_reads(tmp_path: Path, name: str, dtype: str, version: type) -> None:
    save(tmp_path / name, noise(dtype=dtype), version)
    record = scan(tmp_path).records.row(0, named=True)
    volume = read_volume(tmp_path, record)
    raw = (tmp_path / name).read_bytes()
    expected = nib.as_closest_canonical(version.from_bytes(gzip.decompress(raw) if name.endswith("gz") else raw))
    np.testing.assert_allclose(volume.data[0], expected.get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(volume.affine_mm, expected.affine, atol=1e-5)
    assert record["shape"] == list(expected.shape)
    np.testing.assert_allclose(record["affine_mm"], volume.affine_mm.ravel())


def test_a_pair_is_one_series_of_two_files(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(noise(), AFFINE), tmp_path / "v.img")
    found = scan(tmp_path)
    assert found.records["files"].to_list() == [["v.hdr", "v.img"]] and found.rejects.is_empty()
    assert read_volume(tmp_path, found.records.row(0, named=True)).data.sum() == noise().sum()
    (tmp_path / "v.img").unlink()
    assert code_of(tmp_path / "v.hdr") == "no_pixels"


def test_the_sform_wins_then_the_qform_then_nothing(tmp_path: Path) -> None:
    other = np.diag([4.0, 4, 4, 1])
    for sform, qform, expected in ((2, 1, AFFINE), (0, 1, other), (0, 0, None)):
        picture = nib.Nifti1Image(noise(), AFFINE)
        picture.set_sform(AFFINE, sform)
        picture.set_qform(other, qform)
        picture.header["sform_code"], picture.header["qform_code"] = sform, qform
        (tmp_path / "v.nii").write_bytes(picture.to_bytes())
        if expected is None:
            assert code_of(tmp_path / "v.nii") == "no_geometry"
        else:
            np.testing.assert_allclose(read_header(tmp_path / "v.nii").affine_mm, expected, atol=1e-5)


def test_scaling_is_applied_once_and_the_record_stays(tmp_path: Path) -> None:
    save(tmp_path / "v.nii", noise())
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    raw[112:120] = struct.pack("<ff", 0.5, -7.0)
    (tmp_path / "v.nii").write_bytes(raw)
    volume = read_volume(tmp_path, scan(tmp_path).records.row(0, named=True))
    np.testing.assert_allclose(np.sort(volume.data.ravel()), np.sort(noise().ravel() * 0.5 - 7))


def test_nan_and_inf_become_zero_and_nothing_else_changes(tmp_path: Path) -> None:
    data = noise(dtype="<f4") + 1
    data[0, 0, 0], data[1, 0, 0], data[2, 0, 0] = np.nan, np.inf, -np.inf
    save(tmp_path / "v.nii.gz", data)
    volume = read_volume(tmp_path, scan(tmp_path).records.row(0, named=True))
    assert (volume.data == 0).sum() == 3
    assert volume.data.sum() == pytest.approx(data[np.isfinite(data)].sum(), rel=1e-6)


def test_four_volumes_of_a_long_run_stand_for_it(tmp_path: Path) -> None:
    save(tmp_path / "v.nii.gz", np.stack([noise() + 1000 * t for t in range(10)], axis=-1).astype("<i2"))
    records = scan(tmp_path).records.sort("part")
    assert records["part"].to_list() == ["t=0", "t=3", "t=6", "t=9"]
    for record in records.iter_rows(named=True):
        volume = read_volume(tmp_path, record)
        assert volume.data.min() // 1000 == int(record["part"][2:])


@pytest.mark.parametrize(
    "name", ["sub-1_dseg", "T1_brain_mask", "lesionmask", "T2_label", "a-seg", "sub-1_desc-x_mask"]
)
def test_masks_are_known_by_their_names(tmp_path: Path, name: str) -> None:
    save(tmp_path / f"{name}.nii.gz", noise())
    assert code_of(tmp_path / f"{name}.nii.gz") == "mask"


@pytest.mark.parametrize("name", ["T1_masked", "segment7", "sub-1_T1w", "labelled"])
def test_images_are_not_taken_for_masks_by_their_names(tmp_path: Path, name: str) -> None:
    save(tmp_path / f"{name}.nii.gz", noise())
    assert len(scan(tmp_path).records) == 1


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("labels", [2, 90])
def test_label_maps_are_known_by_their_voxels(tmp_path: Path, labels: int, ending: str) -> None:
    blocks = np.random.default_rng(0).integers(0, labels, (4, 4, 4))
    save(tmp_path / f"v.{ending}", np.kron(blocks, np.ones((8, 8, 8))).astype("u1"))
    assert code_of(tmp_path / f"v.{ending}") == "mask"


def test_a_noisy_image_of_few_grey_levels_is_no_label_map() -> None:
    assert not is_label_map(np.random.default_rng(0).integers(0, 200, (40, 40, 8)))


def test_real_masks_and_images_are_told_apart_by_voxels_alone(shared: Path) -> None:
    wrong = []
    for path in sorted((shared / "mri/nifti").rglob("*.nii.gz"))[::3]:
        try:
            check_voxels(read_header(path))
            code = ""
        except Rejection as rejection:
            code = rejection.code
        if (code == "mask") != ("_mask" in path.name):
            wrong.append((path.name, code))
    assert wrong == []


def patched(offset: int, fmt: str, *values: float) -> bytes:
    raw = bytearray(nib.Nifti1Image(noise(), AFFINE).to_bytes())
    struct.pack_into("<" + fmt, raw, offset, *values)
    return bytes(raw)


PACKED = gzip.compress(nib.Nifti1Image(noise(), AFFINE).to_bytes())
DAMAGED = {
    "dim0": (patched(40, "h", 9), "bad_header"),
    "negative": (patched(42, "h", -4), "bad_header"),
    "datatype": (patched(70, "h", 9999), "bad_header"),
    "magic": (patched(344, "4s", b"xxxx"), "bad_header"),
    "huge": (patched(42, "3h", 32767, 32767, 32767), "truncated"),
    "offset": (patched(108, "f", 1e9), "truncated"),
    "slope": (patched(112, "f", float("inf")), "bad_header"),
    "metres": (patched(123, "b", 1), "bad_geometry"),
    "flat": (patched(280, "4f", 0, 0, 0, 0), "bad_geometry"),
    "plane": (patched(40, "8h", 3, 12, 11, 1, 1, 1, 1, 1), "too_few_slices"),
    "five": (patched(40, "8h", 5, 6, 11, 10, 1, 2, 1, 1), "unsupported_shape"),
    "short": (nib.Nifti1Image(noise(), AFFINE).to_bytes()[:1000], "truncated"),
    "cut": (PACKED[: len(PACKED) // 2], "truncated"),
    "checksum": (PACKED[:-8] + bytes([PACKED[-8] ^ 255]) + PACKED[-7:], "corrupt"),
    "constant": (nib.Nifti1Image(np.full((9, 9, 9), 5, "<i2"), AFFINE).to_bytes(), "constant_image"),
    "nan": (nib.Nifti1Image(np.full((9, 9, 9), np.nan, "<f4"), AFFINE).to_bytes(), "no_finite_voxels"),
    "complex": (nib.Nifti1Image(noise().astype("<c8"), AFFINE).to_bytes(), "not_grayscale"),
    "empty": (b"", "empty_file"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n" * 20, "not_an_image"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_each_damage_is_refused_by_name(tmp_path: Path, case: str) -> None:
    raw, code = DAMAGED[case]
    (tmp_path / "v.nii").write_bytes(raw)
    assert code_of(tmp_path / "v.nii") == code


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_header_stops_a_scan(tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]) -> None:
    raw = bytearray(nib.Nifti1Image(noise(), AFFINE).to_bytes())
    for place, byte in flips:
        raw[place] = byte
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "v.nii").write_bytes(raw)
    found = scan(folder)
    assert (len(found.records) > 0) != (len(found.rejects) > 0)
    for record in found.records.iter_rows(named=True):
        assert np.isfinite(read_volume(folder, record).data).all()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sub-01_ses-2_T1w.nii.gz", {"sub": "01", "ses": "2", "suffix": "T1w"}),
        ("sub-01/ses-b/anat/sub-01_ses-b_acq-hi_FLAIR.nii", {"sub": "01", "ses": "b", "acq": "hi", "suffix": "FLAIR"}),
        ("T1_post.nii.gz", {}),
        ("sub-9/T1.nii", {"sub": "9"}),
    ],
)
def test_bids_entities(path: str, expected: dict[str, str]) -> None:
    assert entities(Path(path)) == expected


def test_a_sidecar_tells_times_in_milliseconds_and_a_broken_one_nothing(tmp_path: Path) -> None:
    save(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz", noise())
    save(tmp_path / "sub-2/anat/sub-2_T2w.nii.gz", noise())
    (tmp_path / "sub-1/anat/sub-1_T1w.json").write_text(
        '{"EchoTime": 0.00298, "RepetitionTime": 2.3, "InversionTime": 0.9, "FlipAngle": 9, "Manufacturer": "Siemens",'
        ' "PatientAge": "044Y", "PatientSex": "F", "MagneticFieldStrength": 3, "BodyPartExamined": "BRAIN"}'
    )
    (tmp_path / "sub-2/anat/sub-2_T2w.json").write_text('{"EchoTime": 0.1,,')
    first, second = scan(tmp_path).records.iter_rows(named=True)
    assert [first[name] for name in ("echo_time_ms", "repetition_time_ms", "inversion_time_ms")] == [2.98, 2300, 900]
    assert (first["age_years"], first["sex"], first["vendor"], first["body_region"]) == (44.0, "F", "Siemens", "brain")
    assert (first["age_years_from"], first["body_region_from"]) == ("sidecar", "sidecar")
    assert (first["sequence"], first["sequence_from"]) == ("T1", "physics")
    assert (second["sequence"], second["sequence_from"], second["echo_time_ms"]) == ("T2", "name", None)
    assert first["patient_id"] != second["patient_id"] and first["study_id"] != second["study_id"]
