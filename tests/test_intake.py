"""Difficult real files and hostile variants of good ones: each ends as an independent reader says, and no file is lost."""

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from index.catalog import Catalogue, scan
from index.ledger import Rejection
from index.options import ScanOptions
from index.reading import read_volume

SHARED = Path(__file__).resolve().parents[2] / "shared"
ZOO = SHARED / "dicom-zoo"
OPTIONS = ScanOptions(min_slices=3)
CODES = {
    "not_mr": {"not_mr", "secondary_capture", "report", "not_grayscale"},
    "too_few_slices": {"too_few_slices", "projection", "missing_tags"},
    "localizer": {"localizer"},
    "missing_geometry": {"no_geometry"},
    "no_pixels": {"no_pixels"},
    "missing_tags": {"missing_tags", "no_pixels"},
    "undecodable": {"undecodable", "truncated", "no_pixels"},
}
pytestmark = pytest.mark.skipif(not ZOO.is_dir(), reason="no difficult files beside the checkout")


def hostile_module() -> ModuleType | None:
    path = ZOO / "make_hostile.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("make_hostile", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOSTILE = hostile_module()
VARIANTS = sorted(HOSTILE.VARIANTS) if HOSTILE else []
CASES = sorted(path.parent.name for path in ZOO.glob("*/expected.json"))


def accounted(found: Catalogue) -> bool:
    used = {file for files in found.records["files"] for file in files}
    told = found.rejects["path"].to_list()
    return used.isdisjoint(told) and len(set(told)) == len(told) and len(used) + len(told) == found.files


def corners(shape: list[Any], affine: list[Any]) -> np.ndarray:
    """(8, 3) centres of the corner voxels in RAS+ mm."""
    ends = np.array(list(itertools.product(*((0, int(size) - 1) for size in shape[:3]))))
    matrix = np.array(affine, dtype=float).reshape(4, 4)
    return ends @ matrix[:3, :3].T + matrix[:3, 3]


def apart_mm(left: np.ndarray, right: np.ndarray) -> float:
    """The largest distance from a corner of one box to the nearest corner of the other, both ways."""
    distances = np.linalg.norm(left[:, None] - right[None], axis=2)
    return float(max(distances.min(axis=0).max(), distances.min(axis=1).max()))


def placed(found: Catalogue, one: dict[str, Any], tolerance_mm: float) -> list[dict[str, Any]]:
    """The records that lie where `one` is expected."""
    wanted = corners(one["shape"], one["affine_ras_mm"])
    rows = found.records.iter_rows(named=True)
    return [row for row in rows if apart_mm(corners(row["shape"], row["affine_mm"]), wanted) < tolerance_mm]


@pytest.mark.parametrize("case", CASES)
def test_a_case_of_the_zoo(case: str) -> None:
    expected = json.loads((ZOO / case / "expected.json").read_text())
    found = scan(ZOO / case / "input", OPTIONS)
    assert accounted(found)
    codes = set(found.rejects["code"])
    may_be_more = False
    explained: set[str] = set()
    for one in expected["series"] + expected.get("nifti", []):
        outcome = one.get("outcome") or "any"
        if outcome == "encode":
            volumes = placed(found, one, 2e-3 + 1.8 * (one.get("header_check_max_mm") or 0))
            assert volumes, one.get("series_instance_uid") or one.get("file")
            assert {tuple(sorted(row["shape"])) for row in volumes} == {tuple(sorted(int(n) for n in one["shape"][:3]))}
            explained |= {row["series_id"] for row in volumes}
        elif outcome.startswith(("skip:", "reject:")):
            assert codes & CODES[outcome.split(":")[1]], outcome
        else:
            may_be_more |= outcome.startswith(("encode_or", "split_or", "any"))
    assert may_be_more or explained == set(found.records["series_id"])
    told = set(found.rejects["path"])
    used = {file for files in found.records["files"] for file in files}
    assert all(bad["file"] in told for bad in expected.get("bad_files", []) if bad["file"] not in used)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    volume = next(path for path in sorted((SHARED / "mri/nifti").rglob("*.nii.gz")) if "_mask" not in path.name)
    command = [sys.executable, str(ZOO / "make_hostile.py"), "--out", str(folder)]
    command += ["--dicom", str(SHARED / "mri/dicom/brain_t2_siemens"), "--nifti", str(volume)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_hostile_variant(hostile: Path, variant: str) -> None:
    expected = json.loads((hostile / variant / "expected.json").read_text())
    found = scan(hostile / variant / "input", OPTIONS)
    assert accounted(found)
    accepts = set(expected["accept"])
    got = {"encode", "encode_with_warning", "split"} if found.records.height else {"reject", "skip"}
    assert accepts & got or expected["outcome"] == "any"
    if not found.records.height:
        assert found.rejects.height
        return
    if expected["corner_centres_ras_mm"] and "encode" in accepts:
        assert placed(found, expected, 2e-3)
    if expected["n_volumes"] == 1:
        assert found.records["series_id"].n_unique() == 1
    told = {Path(path).name for path in found.rejects["path"]}
    used = {Path(file).name for files in found.records["files"] for file in files}
    assert all(Path(bad).name in told for bad in expected["bad_files"] if Path(bad).name not in used)
    if expected["same_as_base"] and "encode" in accepts:
        same_voxels(found, hostile / variant, hostile / variant.split("/")[0].replace("tree", "dicom") / "base")


def same_voxels(found: Catalogue, variant: Path, base: Path) -> None:
    """The one volume of a variant has the base's voxels where it has the base's geometry."""
    good = scan(base / "input", OPTIONS).records.row(0, named=True)
    wanted = read_volume(base / "input", good)
    for record in found.records.iter_rows(named=True):
        try:
            volume = read_volume(variant / "input", record)
        except Rejection as rejection:
            pytest.fail(f"encoded, but not readable: {rejection}")
        if volume.data.shape == wanted.data.shape:
            np.testing.assert_allclose(volume.data, wanted.data, rtol=1e-5, atol=1e-3)
