"""Tables of masks: joined, checked against their volumes; results written in the geometry of the source file."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff

from index.contents import Contents, contents_of
from index.reading import read_volume
from index.writing import from_ras, write_mask
from models.errors import DecipherError
from models.volume import to_ras
from training.masks import Cases, read_cases

TURN = np.array([[0.96, 0.2, -0.19], [-0.17, 0.97, 0.18], [0.22, -0.14, 0.965]])
SHAPE = (18, 22, 14)
CODES = ["RAS", "LPS", "LAS", "PIR", "SRA", "AIL"]


def turned(codes: str, oblique: bool) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the same grid, its axes stored in another order and direction."""
    affine = np.eye(4)
    affine[:3, :3] = (TURN if oblique else np.eye(3)) @ np.diag([2.0, 1.5, 3.0])
    affine[:3, 3] = (-31.5, 20.25, 7.125)
    orientation = axcodes2ornt(codes)
    shape = apply_orientation(np.zeros(SHAPE), nib.orientations.ornt_transform(axcodes2ornt("RAS"), orientation)).shape
    change = nib.orientations.ornt_transform(axcodes2ornt("RAS"), orientation)
    return shape, affine @ inv_ornt_aff(change, SHAPE)


def save(path: Path, data: np.ndarray, affine: np.ndarray, kind: type = nib.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(data, affine)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


def noisy(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2, 100, shape).astype(np.int16)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("codes", CODES)
def test_from_ras_undoes_to_ras(codes: str, oblique: bool) -> None:
    shape, affine = turned(codes, oblique)
    data = noisy(shape)
    assert np.array_equal(from_ras(to_ras(data, affine).data[0], affine), data)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("codes", CODES)
def test_a_mask_is_written_in_the_geometry_of_its_file(codes: str, oblique: bool, tmp_path: Path) -> None:
    shape, affine = turned(codes, oblique)
    data = noisy(shape)
    source = save(tmp_path / "a" / "v.nii.gz", data, affine)
    record, root = only(contents_of(tmp_path / "a"))
    write_mask(tmp_path / "m.nii.gz", read_volume(root, record).data[0] > 200, root, record)
    first, found = nib.load(source), nib.load(tmp_path / "m.nii.gz")
    assert np.array_equal(found.affine, first.affine) and found.shape == first.shape
    assert np.array_equal(np.asarray(found.dataobj), data > 200) and found.get_data_dtype() == np.uint8


def only(contents: Contents) -> tuple[dict, Path]:
    (record,) = contents.records.to_dicts()
    return record, contents.root_of(record)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair])
def test_headers_of_every_kind_keep_their_place(kind: type, tmp_path: Path) -> None:
    shape, affine = turned("LPS", True)
    image = kind(noisy(shape), affine)
    quaternion = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    rigid = affine.copy()
    rigid[:3, :3] = (quaternion[0] @ quaternion[2]) * np.linalg.norm(affine[:3, :3], axis=0)
    image.set_qform(rigid, 1)
    image.set_sform(None, 0)
    image.header["descrip"] = b"MILLER^JANE"
    image.header["cal_max"] = 700
    name = "v.hdr" if kind is nib.Nifti1Pair else "v.nii"
    (tmp_path / "a").mkdir()
    nib.save(image, tmp_path / "a" / name)
    record, root = only(contents_of(tmp_path / "a"))
    write_mask(tmp_path / "m.nii.gz", np.ones(record["shape"], bool), root, record)
    first, found = nib.load(tmp_path / "a" / name), nib.load(tmp_path / "m.nii.gz")
    assert np.array_equal(found.affine, first.affine) and found.shape == first.shape
    assert int(found.header["qform_code"]) == 1 and int(found.header["sform_code"]) == 0
    assert b"MILLER" not in found.header.binaryblock and found.header["cal_max"] == 0


def test_of_dicom_the_mask_is_on_the_grid_that_was_read(phantom_archive: Path, tmp_path: Path) -> None:
    contents = contents_of(phantom_archive)
    record = next(row for row in contents.records.iter_rows(named=True) if row["format"] == "dicom")
    root = contents.root_of(record)
    volume = read_volume(root, record)
    write_mask(tmp_path / "m.nii.gz", volume.data[0] > volume.data.mean(), root, record)
    found = nib.load(tmp_path / "m.nii.gz")
    np.testing.assert_allclose(found.affine, volume.affine_mm, atol=1e-4)
    assert np.array_equal(np.asarray(found.dataobj), volume.data[0] > volume.data.mean())


def test_the_same_mask_makes_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a" / "v.nii", noisy(SHAPE), np.diag([2.0, 2, 2, 1]))
    record, root = only(contents_of(tmp_path / "a"))
    for name in ("one.nii.gz", "two.nii.gz"):
        write_mask(tmp_path / name, np.ones(SHAPE, bool), root, record)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


# --- tables

Table = Callable[..., Cases]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Two oblique volumes of two patients and a mask of each; called with columns, it reads the table that they make."""
    shape, affine = turned("LPS", True)
    for number in (1, 2):
        save(tmp_path / f"a/sub-{number}/v.nii", noisy(shape, number), affine)
        save(tmp_path / f"masks/{number}.nii", (noisy(shape, number) > 300 * number).astype(np.uint8), affine)
    save(tmp_path / "masks/empty.nii", np.zeros(shape, np.uint8), affine)

    def read(**columns: list) -> Cases:
        pl.DataFrame(columns).write_csv(tmp_path / "masks.csv")
        return read_cases(tmp_path / "masks.csv", contents_of(tmp_path / "a"))

    return read


PATHS = ["sub-1/v.nii", "sub-2/v.nii"]
MASKS = ["masks/1.nii", "masks/2.nii"]


def test_a_table_is_joined_by_path_or_series(table: Table, tmp_path: Path) -> None:
    found = table(path=PATHS, mask=MASKS)
    assert [case.record["path"] for case in found.cases] == PATHS and found.labels == [""] and not found.notes
    assert len(set(found.patients)) == 2
    shape, affine = turned("LPS", True)
    for number, case in enumerate(found.cases, start=1):
        assert np.array_equal(case.read_mask(), to_ras(noisy(shape, number) > 300 * number, affine).data[0] > 0)
    ids = [case.record["series_id"] for case in found.cases]
    assert [c.record["path"] for c in table(series_id=ids[::-1], mask=MASKS).cases] == PATHS[::-1]
    beside = table(path=[f"a/{path}" for path in PATHS], mask=MASKS)
    assert [case.record["path"] for case in beside.cases] == PATHS


def test_labels_values_and_rows_that_say_nothing(table: Table, tmp_path: Path) -> None:
    shape, affine = turned("LPS", True)
    save(tmp_path / "masks/organs.nii", np.arange(np.prod(shape)).reshape(shape).astype(np.uint8) % 3, affine)
    found = table(
        path=[PATHS[0], PATHS[0], PATHS[1], "sub-9/v.nii"],
        mask=["masks/organs.nii", "masks/organs.nii", None, "masks/1.nii"],
        label=["liver", "left kidney", None, "liver"],
        value=[1, 2, None, 1],
    )
    assert found.labels == ["left kidney", "liver"] and len(found.cases) == 2
    assert found.notes == ["1 of 3 rows name no series here: sub-9/v.nii"]
    counts = [int(case.read_mask().sum()) for case in found.cases]
    assert counts == [int((np.arange(np.prod(shape)).astype(np.uint8) % 3 == v).sum()) for v in (1, 2)]


def test_the_same_grid_stored_in_another_order_is_the_same(table: Table, tmp_path: Path) -> None:
    shape, affine = turned("PIR", True)
    save(tmp_path / "masks/other.nii", (noisy(shape) > 300).astype(np.uint8), affine)
    (case,) = table(path=PATHS[:1], mask=["masks/other.nii"]).cases
    assert case.read_mask().shape == tuple(case.record["shape"])


def test_masks_of_another_grid_are_refused_by_name(table: Table, tmp_path: Path) -> None:
    shape, affine = turned("LPS", True)
    save(tmp_path / "masks/short.nii", np.ones((shape[0], shape[1], shape[2] - 1), np.uint8), affine)
    save(tmp_path / "masks/many.nii", np.ones((*shape, 2), np.uint8), affine)
    moved = affine.copy()
    moved[0, 3] += 2
    save(tmp_path / "masks/moved.nii", np.ones(shape, np.uint8), moved)
    for name, said in (("short", "short.nii has shape 18 x 22 x 13, but sub-1/v.nii has 18 x 22 x 14"),
                       ("many", "and 2 volumes"), ("moved", "moved.nii has another affine")):  # fmt: skip
        with pytest.raises(DecipherError, match=said):
            table(path=PATHS[:1], mask=[f"masks/{name}.nii"])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"path": PATHS, "mask": ["masks/empty.nii"] * 2}, "All 2 masks of .* are empty"),
        ({"path": PATHS, "mask": ["masks/1.nii", "masks/9.nii"]}, "no mask masks/9.nii"),
        ({"path": ["x", "y"], "mask": MASKS}, "None of the 2 rows"),
        ({"path": PATHS, "labels": MASKS}, "no table of masks"),
        ({"path": PATHS, "mask": [None, None]}, "No row of .* names a mask"),
        ({"path": [PATHS[0]] * 2, "mask": MASKS}, "Two rows of .* are about series"),
        ({"path": PATHS, "mask": MASKS, "label": ["lesion", None]}, "Some rows of .* have a label"),
        ({"path": PATHS, "mask": MASKS, "value": ["one", "two"]}, "'one' is no value"),
        ({"path": PATHS, "mask": ["masks.csv", "masks.csv"]}, "mask .*masks.csv cannot be read"),
    ],
)
def test_bad_tables_are_told_in_a_sentence(table: Table, columns: dict, said: str) -> None:
    with pytest.raises(DecipherError, match=said) as told:
        table(**columns)
    assert told.value.hint


def test_an_empty_mask_is_a_negative(table: Table) -> None:
    found = table(path=PATHS, mask=["masks/empty.nii", "masks/2.nii"])
    assert [case.read_mask().any() for case in found.cases] == [False, True]


def test_public_masks_are_taken_as_they_are(shared: Path, tmp_path: Path) -> None:
    folder = shared / "mri" / "nifti" / "openms-cs-patient07"
    contents = contents_of(folder)
    paths = contents.records["path"].to_list()
    masks = [str(folder / path.replace(".nii.gz", "_mask.nii.gz")) for path in paths]
    pl.DataFrame({"path": paths, "mask": masks}).write_csv(tmp_path / "masks.csv")
    found = read_cases(tmp_path / "masks.csv", contents)
    assert len(found.cases) == 4 and len(set(found.patients)) == 1
    for case, mask in zip(found.cases, masks, strict=True):
        assert case.read_mask().sum() == np.count_nonzero(np.asarray(nib.load(mask).dataobj)) > 0
