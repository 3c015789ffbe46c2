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

from index.reading import volume_at
from index.store import Index
from models.config import PrepareConfig
from models.decipher import Decipher
from models.prepare import canvas
from models.vision import VisionEncoder
from training.decode import FINEST_MM
from training.phantom.archive_dicom import dicom_slices
from training.phantom.archive_nifti import nifti_bytes
from training.phantom.series import make_patient
from training.sheet import GAP, STRIP, TILE
from training.windows import laid

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


def windows_of(path: Path) -> int:
    """How many volumes an encoder with a box of 32 voxels is shown of a file: its box, and the windows of its canvas."""
    config = PrepareConfig(box=(32, 32, 32))
    count = len(laid(canvas(volume_at(path)[0], config, FINEST_MM), config.box).starts)
    return count if count == 1 else count + 1


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
    once = sum(map(windows_of, sorted(lesions.rglob("*_FLAIR.nii.gz"))))
    assert sum(calls) == once, "each box and window once, whatever the epochs and folds"
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
    assert again.code == 0 and sum(calls) == once, "the second fit reads the cache"
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
    assert (tmp_path / "out/sheet.png").read_bytes()[16:24] == (4 * TILE + 3 * GAP).to_bytes(4) + (
        TILE + STRIP
    ).to_bytes(4)
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


def test_detect_gives_boxes_with_scores(decipher: Command, lesions: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = decipher(*FIT, "--task", "detect", "-m", tiny_model, "-o", tmp_path / "d")
    assert run.code == 0, run.err
    (report,) = run.json_lines()
    names = {"average_precision", "froc", "sensitivity", "false_positives", "found", "false_alarms"}
    assert set(report["metrics"]) == names and set(report["baselines"]["intensity"]) == {"average_precision"}
    counts = [sum(case[f"{kind}_lesions"] for case in report["cases"]) for kind in ("true", "missed", "false")]
    assert report["metrics"]["sensitivity"]["value"] == pytest.approx(counts[0] / (counts[0] + counts[1]))
    assert report["metrics"]["false_positives"]["value"] == pytest.approx(counts[2] / 4)
    rows = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "out", "--json").json_lines()
    for row in rows:
        scores = [box["score"] for box in row["boxes"]]
        assert len(scores) == row["components"] and scores == sorted(scores, reverse=True)
        threshold = json.loads((tmp_path / "d/config.json").read_text())["threshold"]
        assert all(threshold < score <= 1 for score in scores)
    table = pl.read_csv(tmp_path / "out/boxes.csv")
    assert table["score"].to_list() == [box["score"] for row in rows for box in row["boxes"]]
    assert table.select("r_mm", "a_mm", "s_mm").rows() == [
        tuple(box["centre_mm"]) for row in rows for box in row["boxes"]
    ]
    shown = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "out")
    assert "score" in shown.out and f"{rows[0]['boxes'][0]['score']:.2f}" in shown.out
    assert (
        "average_precision"
        in decipher(*(word for word in FIT if word != "--json"), "--task", "detect", "-m", tiny_model).out
    )


@pytest.fixture(scope="module")
def clinic(folder: Path) -> Path:
    """An archive of a DICOM series of FLAIR and one of T1, of a patient with a name."""
    place = folder / "clinic"
    for number, sequence in enumerate(["FLAIR", "T1"]):
        (place / sequence).mkdir(parents=True)
        series = make_patient(31, "brain", [sequence], diagnosis="brain tumour", voxel_mm=4.0, max_voxels=48)[0]
        for slice_number, content in enumerate(dicom_slices(series, "MRN-4711", "20200101", number + 1)):
            (place / sequence / f"{slice_number:03d}.dcm").write_bytes(content)
    return place


@pytest.fixture
def fitted(decipher: Command, lesions: Path, tiny_model: Path, tmp_path: Path) -> Path:
    assert decipher(*FIT, "-m", tiny_model, "-o", tmp_path / "fitted").code == 0
    return tmp_path / "fitted"


def test_dicom_sources_get_dicom_seg(decipher: Command, clinic: Path, fitted: Path, tmp_path: Path) -> None:
    import highdicom

    run = decipher("decode", "apply", fitted, "clinic/FLAIR", "-o", tmp_path / "out", "--json")
    assert run.code == 0 and "1 mask, 1 DICOM SEG, volumes.csv and sheet.png" in run.err, run.err
    (row,) = run.json_lines()
    assert (row["mask"], row["seg"]) == (f"{row['series_id']}.nii.gz", f"{row['series_id']}.dcm")
    seg = highdicom.seg.segread(tmp_path / "out" / row["seg"])
    assert seg.SegmentSequence[0].SegmentLabel == "lesion"
    mask = nib.load(tmp_path / "out" / row["mask"])
    assert int(seg.pixel_array.sum()) == int(np.asarray(mask.dataobj).sum()) > 0
    assert seg.PatientID == "", "the hash of an archive without an index has no key"
    assert b"MRN-4711" not in (tmp_path / "out" / row["seg"]).read_bytes()
    (row,) = decipher(
        "decode", "apply", fitted, "clinic/FLAIR", "-o", tmp_path / "n", "--format", "nifti", "--json"
    ).json_lines()
    assert row["seg"] is None and not list((tmp_path / "n").glob("*.dcm"))
    (row,) = decipher(
        "decode", "apply", fitted, "clinic/FLAIR", "-o", tmp_path / "s", "--format", "seg", "--json"
    ).json_lines()
    assert (
        row["mask"] is None and not list((tmp_path / "s").glob("*.nii.gz")) and (tmp_path / "s" / row["seg"]).is_file()
    )


def test_an_index_gives_its_hash_as_patient(
    decipher: Command, clinic: Path, fitted: Path, tiny_model: Path, tmp_path: Path
) -> None:
    import pydicom

    assert decipher("encode", "clinic", "-i", tmp_path / "index", "-m", tiny_model).code == 0
    (row,) = decipher("decode", "apply", fitted, tmp_path / "index", "-o", tmp_path / "out", "--json").json_lines()
    known = Index.open(tmp_path / "index").records["patient_id"].unique().to_list()
    assert [pydicom.dcmread(tmp_path / "out" / row["seg"]).PatientID] == known and len(known[0]) == 16


def test_other_sequences_are_passed_over(decipher: Command, clinic: Path, fitted: Path, tmp_path: Path) -> None:
    assert json.loads((fitted / "config.json").read_text())["fitted_on"] == {
        "sequence": ["FLAIR"],
        "body_region": ["brain"],
    }
    run = decipher("decode", "apply", fitted, "clinic", "-o", tmp_path / "out", "--json")
    assert run.code == 0 and [row["path"] for row in run.json_lines()] == ["FLAIR"]
    assert "1 series of other sequences or body regions passed over; --all takes them" in run.err
    whole = decipher("decode", "apply", fitted, "clinic", "-o", tmp_path / "all", "--all", "--json")
    assert [row["path"] for row in whole.json_lines()] == ["FLAIR", "T1"] and "passed over" not in whole.err
    named = decipher("decode", "apply", fitted, "clinic/T1/000.dcm", "-o", tmp_path / "one", "--json")
    assert named.code == 0 and len(named.json_lines()) == 1
    none = decipher("decode", "apply", fitted, "clinic/T1", "-o", tmp_path / "none")
    assert none.code == 1 and "like those that the decoder was fitted on: FLAIR of brain" in none.err
    assert "--all" in none.err and not (tmp_path / "none").exists()


def test_formats_that_cannot_be(decipher: Command, lesions: Path, clinic: Path, fitted: Path, tmp_path: Path) -> None:
    for words, said in (
        (("lesions", "--format", "seg"), "4 of 4 series came from no DICOM images"),
        (("lesions", "--format", "dcm"), "There is no format 'dcm'"),
    ):
        run = decipher("decode", "apply", fitted, *words, "-o", tmp_path / "out")
        assert run.code == 1 and said in run.err and "Hint" in run.err and not (tmp_path / "out").exists()
    card = json.loads((fitted / "config.json").read_text())
    (fitted / "config.json").write_text(json.dumps({**card, "labels": ["tumour " * 12]}))
    run = decipher("decode", "apply", fitted, "clinic/FLAIR", "-o", tmp_path / "out")
    assert run.code == 1 and "cannot stand in DICOM: 64 characters" in run.err and not (tmp_path / "out").exists()
    assert decipher("decode", "apply", fitted, "clinic/FLAIR", "-o", tmp_path / "out", "--format", "nifti").code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    run = decipher("decode", "apply", fitted, "lesions", "-o", tmp_path / "mine")
    assert run.code == 1 and "something else than masks" in run.err and len(list((tmp_path / "mine").iterdir())) == 1


def test_what_no_seg_can_refer_to_keeps_its_nifti(
    decipher: Command, clinic: Path, fitted: Path, folder: Path, tmp_path: Path
) -> None:
    import pydicom

    (folder / "bare").mkdir()
    for path in (clinic / "FLAIR").iterdir():
        one = pydicom.dcmread(path)
        del one.FrameOfReferenceUID
        one.save_as(folder / "bare" / path.name)
    for format in ("both", "seg"):
        run = decipher("decode", "apply", fitted, "bare", "-o", tmp_path / format, "--format", format, "--json")
        (row,) = run.json_lines()
        assert run.code == 0 and row["seg"] is None and (tmp_path / format / row["mask"]).is_file()
        assert "No DICOM SEG can refer to the series: its images have no FrameOfReferenceUID" in run.err


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
    assert report["labels"] == ["head", "lesion"] and report["n"] == 8
    assert sum(calls) == sum(map(windows_of, sorted(lesions.rglob("*_FLAIR.nii.gz"))))
    assert set(report["by_label"]) == {"head", "lesion"}
    both = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "out", "--json").json_lines()
    assert len(both) == 8 and sorted({row["label"] for row in both}) == ["head", "lesion"]
    asked = decipher("decode", "apply", tmp_path / "d", "lesions", "-o", tmp_path / "b", "--text", "head", "--json")
    volumes = [row["volume_ml"] for row in both if row["label"] == "head"]
    assert [row["volume_ml"] for row in asked.json_lines()] == pytest.approx(volumes, rel=1e-3)


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
    assert decipher(*FIT, "--task", "count").code == 1
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
