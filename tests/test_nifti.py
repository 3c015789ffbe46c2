"""NIfTI: the affine that counts, the values that count, what is no image, and what damage is called."""

import gzip
import itertools
import struct
import tracemalloc
from io import BufferedIOBase
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from nibabel.orientations import inv_ornt_aff, io_orientation, ornt_transform

from index import voxels
from index.catalog import scan
from index.finding import open_unpacked, opened
from index.geometry import orientation_of, ras_geometry
from index.ledger import Rejection
from index.nifti import parse_header, read_header, read_part
from index.options import ScanOptions
from index.reading import read_volume
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


def code_of(path: Path, options: ScanOptions | None = None) -> str:
    found = scan(path.parent, options)
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


def look_at(path: Path) -> str:
    """The code of what a look at the voxels says; empty for an image."""
    file = opened(str(path), path.stat().st_size)
    try:
        check_voxels(read_header(path), file)
    except Rejection as rejection:
        return rejection.code
    return ""


def test_real_masks_and_images_are_told_apart_by_voxels_alone(shared: Path) -> None:
    paths = sorted((shared / "mri/nifti").rglob("*.nii.gz"))[::3]
    wrong = [path.name for path in paths if (look_at(path) == "mask") != ("_mask" in path.name)]
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


ROTATIONS = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)
SPACINGS = st.tuples(*[st.floats(0.05, 20)] * 3)


def rotation(quaternion: tuple[float, ...]) -> np.ndarray:
    return nib.quaternions.quat2mat(np.array(quaternion) / np.linalg.norm(quaternion))


@st.composite
def headers(draw: st.DrawFn) -> nib.Nifti1Header:
    """Headers of both versions and byte orders, some with one form, some with both, some with neither."""
    version = draw(st.sampled_from([nib.Nifti1Header, nib.Nifti2Header]))
    header = version(endianness=draw(st.sampled_from("<>")))
    header.set_data_dtype(draw(st.sampled_from(["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])))
    header.set_data_shape(draw(st.lists(st.integers(2, 300), min_size=3, max_size=4)))
    affine = np.eye(4)
    affine[:3, :3] = rotation(draw(ROTATIONS)) * draw(SPACINGS) * draw(st.sampled_from([1, -1]))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    header.set_qform(affine, draw(st.integers(0, 2)))
    sheared = affine.copy()
    sheared[:3, 2] += draw(st.floats(-0.3, 0.3)) * sheared[:3, 0] * np.divide(*header["pixdim"][[3, 1]])
    header.set_sform(sheared, draw(st.integers(0, 4)))
    header["qform_code"], header["sform_code"] = draw(st.integers(-1, 3)), draw(st.integers(-1, 4))
    header["scl_slope"], header["scl_inter"] = draw(st.sampled_from([(0, 0), (1, 0), (2.5, -7), (np.nan, 3), (-1, 2)]))
    header["xyzt_units"] = draw(st.sampled_from([0, 2, 10, 18]))
    if draw(st.booleans()):
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = draw(
            st.sampled_from([(1, 0, 0), (0, 0, 1), (0, 0, 0), (0.6, 0.8, 0), (0.5, 0.5, 0.5), (0.9999999, 2e-4, 0)])
        )
    header["pixdim"][0] = draw(st.sampled_from([1, -1]))
    return header


@settings(max_examples=400, deadline=None)
@given(header=headers())
def test_headers_are_read_as_nibabel_reads_them(header: nib.Nifti1Header) -> None:
    counts = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not any(counts):
        with pytest.raises(Rejection, match="no_geometry"):
            parse_header(header.binaryblock, "v.nii")
        return
    header["magic"] = header.single_magic
    found = parse_header(header.binaryblock, "v.nii")
    expected = header.get_sform() if counts[0] else header.get_qform()
    np.testing.assert_allclose(found.affine_mm, expected, rtol=0, atol=1e-6)
    assert (*found.shape, found.volumes)[: len(header.get_data_shape())] == header.get_data_shape()
    assert found.dtype == header.get_data_dtype()
    slope, intercept = header.get_slope_inter()
    assert (found.slope, found.intercept) == ((1, 0) if slope is None else (slope, intercept))


@pytest.mark.parametrize(
    ("qfac", "spacing", "quaternion", "code"),
    [
        (-1, (1, 2, 3), (0, 0, 0), ""),
        (0, (1, 2, 3), (0, 0, 0), ""),
        (2, (1, 2, 3), (0, 0, 0), "bad_header"),
        (1, (1, -2, 3), (0, 0, 0), "bad_header"),
        (1, (1, 0, 3), (0, 0, 0), "bad_geometry"),
        (1, (1, np.nan, 3), (0, 0, 0), "bad_geometry"),
        (1, (1, 2, 3), (0.9, 0.9, 0), "bad_header"),
        (1, (1, 2, 3), (np.nan, 0, 0), "bad_geometry"),
    ],
)
def test_an_odd_qform_is_refused_and_not_guessed(
    qfac: float, spacing: tuple[float, ...], quaternion: tuple[float, ...], code: str
) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((4, 5, 6))
    header["qform_code"], header["magic"] = 1, b"n+1"
    header["pixdim"][:4] = (qfac, *spacing)
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = quaternion
    if code:
        with pytest.raises(Rejection, match=code):
            parse_header(header.binaryblock, "v.nii")
    else:
        expected = np.diag([1, 2, -3 if qfac == -1 else 3, 1])
        np.testing.assert_array_equal(parse_header(header.binaryblock, "v.nii").affine_mm, expected)


@settings(max_examples=300, deadline=None)
@given(
    quaternion=st.one_of(ROTATIONS, st.sampled_from([(1, 0, 0, 0), (1, 1, 0, 0), (1, 0, 0.4142135, 0), (0, 1, 1, 0)])),
    spacing_mm=SPACINGS,
    shear=st.tuples(*[st.floats(-1, 1)] * 3),
    sheared=st.sampled_from([0, 0.05, 1]),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    shape=st.tuples(*[st.integers(1, 400)] * 3),
)
def test_orientation_is_that_of_nibabel(
    quaternion: tuple[float, ...],
    spacing_mm: tuple[float, ...],
    shear: tuple[float, ...],
    sheared: float,
    flips: tuple[int, ...],
    shape: tuple[int, int, int],
) -> None:
    tilt = np.eye(3)
    tilt[0, 1], tilt[0, 2], tilt[1, 2] = np.array(shear) * sheared
    affine = np.eye(4)
    affine[:3, :3] = rotation(quaternion) @ tilt * spacing_mm * flips
    affine[:3, 3] = -17, 30, 4
    expected = io_orientation(affine)
    assert orientation_of(affine) == tuple((int(axis), int(sign)) for axis, sign in expected)
    turned, canonical = ras_geometry(shape, affine)
    np.testing.assert_allclose(canonical, affine @ inv_ornt_aff(expected, shape), rtol=1e-12, atol=1e-12)
    assert [turned[int(axis)] for axis in expected[:, 0]] == list(shape)


def test_every_way_an_array_may_lie_is_brought_to_ras(tmp_path: Path) -> None:
    picture = nib.Nifti1Image(noise((5, 6, 7)), np.diag([2.0, 3, 4, 1]))
    upright = io_orientation(picture.affine)
    for axes, signs in itertools.product(itertools.permutations(range(3)), itertools.product((-1, 1), repeat=3)):
        turned = picture.as_reoriented(ornt_transform(upright, np.array(list(zip(axes, signs, strict=True)))))
        turned.header["sform_code"] = 1
        nib.save(turned, tmp_path / "v.nii")
        volume = read_part(tmp_path / "v.nii", 0)
        np.testing.assert_array_equal(volume.data[0], noise((5, 6, 7)))
        np.testing.assert_allclose(volume.affine_mm, picture.affine, atol=1e-5)
        assert volume.data.flags.c_contiguous


def both_forms(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...] = (12, 11, 10)) -> bytes:
    picture = nib.Nifti1Image(noise(shape), sform)
    picture.set_sform(sform, 2)
    picture.set_qform(qform, 1)
    return picture.to_bytes()


def test_forms_that_disagree_are_told_and_the_sform_counts(tmp_path: Path) -> None:
    (tmp_path / "v.nii").write_bytes(both_forms(np.diag([2.0, 2, 2, 1]), np.diag([2.0, 2, 2.2, 1])))
    (tmp_path / "w.nii").write_bytes(both_forms(np.diag([2.0, 2, 2, 1]), np.diag([2.0, 2, 2, 1])))
    records = scan(tmp_path).records.sort("path")
    assert records["spacing_mm"].to_list() == [[2, 2, 2], [2, 2, 2]]
    assert records["contradictions"].to_list() == ["sform and qform differ by up to 1.8 mm (sform used)", None]
    (tmp_path / "v.nii").write_bytes(both_forms(np.diag([2.0, 2, 2, 1]), np.diag([-2.0, 2, 2, 1])))
    assert read_header(tmp_path / "v.nii").disagreement_mm == pytest.approx(2 * 2 * 11)


@settings(max_examples=200, deadline=None)
@given(
    quaternion=st.one_of(ROTATIONS, st.tuples(st.floats(0, 1e-3), *[st.floats(-1, 1)] * 3)),
    spacing_mm=st.tuples(*[st.floats(0.3, 1.5)] * 3),
    offset_mm=st.tuples(*[st.floats(-400, 400)] * 3),
)
def test_single_precision_is_no_disagreement(
    quaternion: tuple[float, ...], spacing_mm: tuple[float, ...], offset_mm: tuple[float, ...]
) -> None:
    assume(np.linalg.norm(quaternion) > 0.1)
    affine = np.eye(4)
    affine[:3, :3] = rotation(quaternion) * spacing_mm
    affine[:3, 3] = offset_mm
    header = nib.Nifti1Header()
    header.set_data_shape((256, 256, 180))
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header["magic"] = b"n+1"
    assert parse_header(header.binaryblock, "v.nii").disagreement_mm == 0
    header["qoffset_y"] += 3
    assert parse_header(header.binaryblock, "v.nii").disagreement_mm == pytest.approx(3, abs=0.5)


def test_as_many_volumes_stand_for_a_run_as_are_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "v.nii.gz", np.stack([noise()] * 10, axis=-1))
    assert scan(tmp_path, ScanOptions(parts=2)).records["part"].to_list() == ["t=0", "t=9"]


def test_one_slice_is_let_in_where_one_is_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "v.nii.gz", noise((12, 11, 1)))
    assert code_of(tmp_path / "v.nii.gz", ScanOptions(min_slices=2)) == "too_few_slices"
    record = scan(tmp_path, ScanOptions(min_slices=1)).records.row(0, named=True)
    assert record["shape"] == [12, 11, 1] and read_volume(tmp_path, record).data.shape == (1, 12, 11, 1)


def test_masks_are_let_in_where_they_are_asked_for(tmp_path: Path) -> None:
    blocks = np.kron(np.random.default_rng(0).integers(0, 2, (4, 4, 4)), np.ones((8, 8, 8))).astype("u1")
    for name in ("sub-1_dseg.nii", "v.nii.gz"):
        save(tmp_path / name, blocks)
    save(tmp_path / "scout.nii", noise())
    assert code_of(tmp_path / "v.nii.gz") == "localizer,mask,mask"
    assert len(scan(tmp_path, ScanOptions(include=frozenset({"mask"}))).records) == 2
    assert scan(tmp_path, ScanOptions(include=frozenset({"localizer"}))).records["path"].to_list() == ["scout.nii"]


def members(raw: bytes, *cuts: int) -> bytes:
    edges = (0, *cuts, len(raw))
    return b"".join(gzip.compress(raw[start:end], 1) for start, end in itertools.pairwise(edges))


RAW = nib.Nifti1Image(noise((20, 30, 40)), AFFINE).to_bytes()
LARGE = nib.Nifti1Image(noise((90, 90, 120)), AFFINE).to_bytes()
PACKINGS = {
    "members": members(RAW, 352, 9000),
    "small first member": members(RAW, 10, 100),
    "padded": gzip.compress(RAW) + bytes(500),
    "more bytes": gzip.compress(RAW + b"appended"),
    "large": gzip.compress(LARGE, 1),
    "large members": members(LARGE, 100, 900_000),
    "large padded": gzip.compress(LARGE, 1) + bytes(512),
    "large more bytes": gzip.compress(LARGE + b"appended", 1),
}


@pytest.mark.parametrize("case", PACKINGS)
def test_every_valid_gzip_is_read(tmp_path: Path, case: str) -> None:
    (tmp_path / "v.nii.gz").write_bytes(PACKINGS[case])
    assert (len(PACKINGS[case]) > voxels.SMALL_BYTES) == case.startswith("large")
    assert look_at(tmp_path / "v.nii.gz") == ""
    expected = noise((90, 90, 120) if case.startswith("large") else (20, 30, 40))
    assert len(scan(tmp_path).records) == 1
    assert read_part(tmp_path / "v.nii.gz", 0).data.sum(dtype=np.float64) == expected.sum()


@pytest.mark.parametrize("keep", [len(PACKINGS["large"]) // 2, -1, -8, -9, -1000])
def test_a_large_file_that_is_cut_is_refused(tmp_path: Path, keep: int) -> None:
    (tmp_path / "v.nii.gz").write_bytes(PACKINGS["large"][:keep])
    assert look_at(tmp_path / "v.nii.gz") == "truncated"


def test_a_large_file_that_leaves_no_doubt_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v.nii.gz").write_bytes(PACKINGS["large"])
    (tmp_path / "w.nii.gz").write_bytes(PACKINGS["large padded"])
    read: list[str] = []

    def told(place: str) -> BufferedIOBase:
        read.append(Path(place).name)
        return open_unpacked(place)

    monkeypatch.setattr(voxels, "open_unpacked", told)
    assert (look_at(tmp_path / "v.nii.gz"), look_at(tmp_path / "w.nii.gz"), read) == ("", "", ["w.nii.gz"])


@pytest.mark.parametrize(("start", "code"), [(b"\0", "constant_image"), (bytes(range(256)) * 99, "")])
def test_a_file_that_unpacks_to_far_more_is_looked_at_in_little_memory(tmp_path: Path, start: bytes, code: str) -> None:
    from isal import igzip

    header = patched(40, "8h", 3, 1024, 1024, 128, 1, 1, 1, 1)[:352]
    with igzip.open(tmp_path / "v.nii.gz", "wb") as stream:
        stream.write(header + start + bytes((1 << 20) - len(start)))
        for _ in range(256):
            stream.write(bytes(1 << 20))
    assert (tmp_path / "v.nii.gz").stat().st_size < 2_000_000
    tracemalloc.start()
    assert look_at(tmp_path / "v.nii.gz") == code
    assert tracemalloc.get_traced_memory()[1] < 120_000_000
    tracemalloc.stop()


def test_zeros_of_both_signs_are_one_value(tmp_path: Path) -> None:
    data = np.zeros((20, 20, 20), "<f4")
    data[::2] = -0.0
    data[3, 3] = np.nan
    save(tmp_path / "v.nii", data)
    assert code_of(tmp_path / "v.nii") == "constant_image"


def test_a_plain_image_of_equal_slices_is_no_constant_image(tmp_path: Path) -> None:
    save(tmp_path / "v.nii", np.repeat(noise((120, 120, 1)), 60, axis=2))
    assert look_at(tmp_path / "v.nii") == ""
