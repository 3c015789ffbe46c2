"""`decipher decode fit` and `decode apply`, as they are typed, on digital patients with a lesion each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest
from conftest import Run

from models.decipher import Decipher
from models.vision import VisionEncoder
from training.phantom.archive_nifti import nifti_bytes
from training.phantom.series import make_patient

Command = Callable[..., Run]
FIT = ("decode", "fit", "--masks", "lesions/masks.csv", "--data", "lesions", "--epochs", "2", "--folds", "2",
       "--decoder", "linear", "--json")  # fmt: skip


@pytest.fixture(scope="module")
def lesions(folder: Path) -> Path:
    """An archive of four patients, and masks.csv beside it; one of them is well."""
    place = folder / "lesions"
    rows = []
    for number in range(4):
        diagnosis = "healthy" if number == 3 else "brain tumour"
        series = make_patient(20 + number, "brain", ["FLAIR"], diagnosis=diagnosis, voxel_mm=4.0, max_voxels=48)[0]
        path = f"sub-{number:02d}/anat/sub-{number:02d}_FLAIR.nii.gz"
        (place / path).parent.mkdir(parents=True)
        (place / path).write_bytes(nifti_bytes(series))
        (place / "masks").mkdir(exist_ok=True)
        mask = nib.Nifti1Image(series.lesion_mask[0].astype(np.uint8), nib.load(place / path).affine)
        nib.save(mask, place / f"masks/{number}.nii.gz")
        rows.append({"path": path, "mask": f"masks/{number}.nii.gz"})
    pl.DataFrame(rows).write_csv(place / "masks.csv")
    return place


@pytest.fixture(scope="module")
def calls() -> list[int]:
    """How many volumes the encoder has seen, a number a call."""
    return []


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    before = VisionEncoder.forward
    calls.clear()

    def forward(self: VisionEncoder, batch: object, *rest: object) -> object:
        calls.append(len(batch.pixels))  # type: ignore[attr-defined]
        return before(self, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(VisionEncoder, "forward", forward)


def test_fit_measures_saves_and_encodes_once(
    decipher: Command, lesions: Path, tiny_model: Path, calls: list[int], tmp_path: Path
) -> None:
    words = (*FIT, "--decoder", "resnet", "-m", tiny_model, "-o", tmp_path / "tumour", "--cache", tmp_path / "cache")
    run = decipher(*words)
    assert run.code == 0, run.err
    assert sum(calls) == 4, "each series once, whatever the epochs and folds"
    (report,) = run.json_lines()
    assert (report["task"], report["n"], report["groups"], report["empty"], report["folds"]) == ("segment", 4, 4, 1, 2)
    assert set(report["metrics"]) == {"dice", "hd95_mm", "surface_mm", "lesion_f1", "found", "false_alarms"}
    told = [case["dice"] for case in report["cases"] if case["dice"] is not None]
    assert len(told) == 3 and report["metrics"]["dice"]["value"] == pytest.approx(np.mean(told))
    assert set(report["baselines"]) == {"mean_shape", "intensity"} and 0 <= report["one_epoch"]["dice"]["value"] <= 1
    assert json.loads((tmp_path / "tumour/metrics.json").read_text()) == report
    config = json.loads((tmp_path / "tumour/config.json").read_text())
    assert config["model"] == str(tiny_model) and config["passport"]["name"] == "tiny"
    again = decipher(*words)
    assert again.code == 0 and sum(calls) == 4, "the second fit reads the cache"
    assert again.json_lines()[0]["metrics"] == report["metrics"]


def test_apply_keeps_geometry_and_tells_volumes(
    decipher: Command, lesions: Path, tiny_model: Path, tmp_path: Path
) -> None:
    assert decipher(*FIT, "-m", tiny_model, "-o", tmp_path / "d").code == 0
    run = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "out", "--json")
    assert run.code == 0, run.err
    rows = run.json_lines()
    assert len(rows) == 4
    for row in rows:
        source, found = nib.load(lesions / row["path"]), nib.load(tmp_path / "out" / row["mask"])
        assert np.array_equal(found.affine, source.affine) and found.shape == source.shape
        ml = np.asarray(found.dataobj).sum() * np.prod(source.header.get_zooms()) / 1000
        assert row["volume_ml"] == pytest.approx(ml, rel=1e-4, abs=1e-3)
    table = pl.read_csv(tmp_path / "out/volumes.csv")
    assert table["volume_ml"].to_list() == [row["volume_ml"] for row in rows]
    assert (tmp_path / "out/sheet.png").read_bytes()[16:24] == (4 * 192).to_bytes(4) + (192).to_bytes(4)
    one = decipher("decode", "apply", tmp_path / "d", lesions / rows[1]["path"], "-o", tmp_path / "one", "--json")
    assert one.json_lines()[0]["volume_ml"] == rows[1]["volume_ml"]
    shown = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "out")
    assert shown.code == 0 and "components" in shown.out


def test_localise_gives_boxes(decipher: Command, lesions: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = decipher(*FIT, "--task", "localise", "-m", tiny_model, "-o", tmp_path / "d")
    assert run.code == 0, run.err
    (report,) = run.json_lines()
    assert set(report["metrics"]) == {"box_iou", "centre_error_mm", "lesion_f1", "found", "false_alarms"}
    assert set(report["baselines"]["mean_shape"]) == {"box_iou"}
    rows = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "out", "--json").json_lines()
    for row in rows:
        mask = nib.load(tmp_path / "out" / row["mask"])
        marked = np.argwhere(np.asarray(mask.dataobj) > 0)
        assert bool(row["boxes"]) == bool(len(marked))
        for box in row["boxes"]:
            centre = nib.affines.apply_affine(mask.affine, (np.array(box["low"]) + np.array(box["high"]) - 1) / 2)
            np.testing.assert_allclose(centre, box["centre_mm"], atol=0.01)


def test_one_decoder_serves_several_labels(
    decipher: Command, lesions: Path, tiny_model: Path, tmp_path: Path, calls: list[int]
) -> None:
    rows = pl.read_csv(lesions / "masks.csv").to_dicts()
    head = [{**row, "label": "head", "mask": row["mask"].replace("masks", "heads")} for row in rows]
    (lesions / "heads").mkdir()
    for row in head:
        image = nib.load(lesions / row["path"])
        nib.save(
            nib.Nifti1Image((np.asarray(image.dataobj) > 60).astype(np.uint8), image.affine), lesions / row["mask"]
        )
    pl.DataFrame([*({**row, "label": "lesion"} for row in rows), *head]).write_csv(lesions / "two.csv")
    words = [str(word).replace("masks.csv", "two.csv") for word in FIT]
    run = decipher(*words, "-m", tiny_model, "-o", tmp_path / "d")
    shutil.rmtree(lesions / "heads")
    assert run.code == 0, run.err
    (report,) = run.json_lines()
    assert report["labels"] == ["head", "lesion"] and report["n"] == 8 and sum(calls) == 4
    assert set(report["by_label"]) == {"head", "lesion"}
    both = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "out", "--json").json_lines()
    assert len(both) == 8 and sorted({row["label"] for row in both}) == ["head", "lesion"]
    asked = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "b", "--text", "head", "--json")
    assert [row["volume_ml"] for row in asked.json_lines()] == [r["volume_ml"] for r in both if r["label"] == "head"]


def test_another_encoder_is_refused(decipher: Command, lesions: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert decipher(*FIT, "-m", tiny_model, "-o", tmp_path / "d").code == 0
    shutil.copytree(tiny_model, tmp_path / "other")
    Decipher(_config(tiny_model)).save(tmp_path / "other")
    run = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "out", "-m", tmp_path / "other")
    assert run.code == 1 and "was fitted on model tiny" in run.err and not (tmp_path / "out").exists()
    text = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "out", "--text", "head")
    assert text.code == 1 and "not guided" in text.err and not (tmp_path / "out").exists()


def _config(folder: Path):
    from models.config import ModelConfig

    return ModelConfig.from_json(json.loads((folder / "config.json").read_text()))


def test_nothing_is_half_written(decipher: Command, lesions: Path, tiny_model: Path, tmp_path: Path) -> None:
    pl.DataFrame({"path": ["sub-00/anat/sub-00_FLAIR.nii.gz"], "mask": ["masks/0.nii.gz"]}).write_csv(
        lesions / "few.csv"
    )
    words = [str(word).replace("masks.csv", "few.csv") for word in FIT]
    run = decipher(*words, "-m", tiny_model, "-o", tmp_path / "d", "--cache", tmp_path / "cache")
    assert run.code == 1 and "at least 2 patients" in run.err and not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    run = decipher(*FIT, "-m", tiny_model, "-o", tmp_path / "mine")
    assert run.code == 1 and "something else" in run.err and len(list((tmp_path / "mine").iterdir())) == 1
    assert decipher(*FIT, "--task", "detect").code == 1
    assert decipher(*FIT, "--decoder", "unet", "-m", tiny_model).code == 1


def test_folds_never_part_a_patient(decipher: Command, lesions: Path, tiny_model: Path, monkeypatch) -> None:
    from training import decode

    seen = []
    before = decode._fold

    def fold(config, lesson, cases, parts, *rest):
        train, test = ({cases[i].patient for i in part} for part in parts)
        seen.append((train, test))
        return before(config, lesson, cases, parts, *rest)

    monkeypatch.setattr(decode, "_fold", fold)
    assert decipher(*FIT, "-m", tiny_model).code == 0
    assert len(seen) == 2 and all(not train & test for train, test in seen)
    assert set.union(*(test for _, test in seen)) == set.union(*(train for train, _ in seen))
