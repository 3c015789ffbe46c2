"""`decipher probe` and `decipher predict PROBE`, as typed."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index.store import Index

PLAIN = ("--no-pixels", "--json")


@pytest.fixture
def findings(folder: Path, tmp_path: Path) -> Path:
    """A table of labels of the archive: two of yes and no, one of lists, one of sites, and two rows of nobody."""
    own = pl.read_csv(folder / "archive" / "labels.csv")
    table = own.select(
        "path",
        brain=pl.col("body_region") == "brain",
        t1=pl.when(pl.col("body_region") != "knee").then((pl.col("sequence") == "T1").cast(pl.Int64)),
        both=pl.concat_str(["body_region", "sequence"], separator=";"),
        site=pl.col("subject_id").hash(0) % 3,
    )
    path = tmp_path / "findings.csv"
    pl.concat([table, pl.DataFrame({"path": ["no/such", "nor/this"]})], how="diagonal").write_csv(path)
    return path


def test_several_columns_are_labels_that_may_hold_together(decipher, index: Path, findings: Path) -> None:  # type: ignore[no-untyped-def]
    run = decipher("probe", "--task", "brain,t1", "--labels", findings, *PLAIN)
    (found,) = run.json_lines()
    assert (found["task"], found["kind"], found["classes"]) == ("brain,t1", "multilabel", ["brain", "t1"])
    assert set(found["labels"]) == {"brain", "t1"} and "2 not" in run.err
    assert found["labels"]["brain"].keys() == found["metrics"].keys() == {"auroc", "auprc", "balanced_accuracy", "f1"}
    (alone,) = decipher("probe", "--task", "brain", "--labels", findings, *PLAIN).json_lines()
    assert found["labels"]["brain"] == alone["metrics"] and "labels" not in alone
    (listed,) = decipher("probe", "--task", "both", "--labels", findings, *PLAIN).json_lines()
    assert listed["kind"] == "multilabel" and {"brain", "T1", "T2"} <= set(listed["classes"])


def test_units_groups_curve_and_parts(decipher, index: Path, findings: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("--unit", "patient", "--pool", "vote", "--group", "site", "--curve", "--by", "sex,site", "--seed", "1")
    (found,) = decipher("probe", "--task", "age", "--labels", findings, *words, *PLAIN).json_lines()
    assert (found["unit"], found["pool"], found["n"]) == ("patient", "vote", found["groups"])
    assert found["folds"] == {"n": 3, "seed": 1, "apart": ["site"]}
    assert "folds leave out whole groups of 'site': 3, so 3 folds instead of 5" in found["notes"]
    assert found["curve"][-1]["metrics"] == found["metrics"] and found["curve"][-1]["share"] == 1
    assert sum(one["n"] for one in found["by"]["sex"].values()) == found["n"]
    assert all((one["metrics"] is None) == (one["groups"] < 5) for one in found["by"]["site"].values())
    shown = decipher("probe", "--task", "age", "--labels", findings, "--curve", "--by", "site", "--no-pixels")
    assert {"100%", "too few patients", "geometry"} <= {
        one.strip() for one in shown.out.replace("  ", "\n").splitlines()
    }
    quiet = decipher("probe", "--task", "age", "--labels", findings, "--no-pixels", "-q")
    assert quiet.code == 0 and not quiet.err and "encoder" in quiet.out


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--task", "agee"), "no column 'agee'", "--task age"),
        (("--task", "age", "--by", "sex,vendro"), "no column 'vendro'", "--by vendor"),
        (("--task", "age", "--group", "vendro"), "no column 'vendro'", "--group vendor"),
        (("--task", "age", "--group", "format", "--unit", "patients"), "no unit 'patients'", "series, study, patient"),
        (("--task", "age", "--unit", "study", "--pool", "max"), "no pool 'max'", "mean, vote"),
        (("--task", "age", "--head", "forest"), "no head 'forest'", "linear"),
        (("--task", "age", "--head", "attentive"), "keeps no patch vectors", "encode ARCHIVE --patches"),
        (("--task", "age", "--group", "report_nobody"), "no column 'report_nobody'", ""),
        (("--task", "body_part"), "needs two classes with two patients each", "more patients"),
    ],
)
def test_what_cannot_be_probed_is_one_sentence_and_a_hint(
    decipher, index: Path, words, message: str, hint: str
) -> None:  # type: ignore[no-untyped-def]
    run = decipher("probe", *words, "--no-pixels")
    assert run.code == 1 and not run.out and message in run.err and hint in run.err
    assert "Hint: " in run.err and "Traceback" not in run.err


def test_labels_of_nobody_are_told(decipher, index: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "other.csv").write_text("participant_id,grade\nsub-nobody,1\nsub-noone,2\n")
    run = decipher("probe", "--task", "grade", "--labels", tmp_path / "other.csv")
    assert run.code == 1 and "No row of other.csv is about a series" in run.err and "participant_id" in run.err


def test_what_cannot_be_saved_is_told_before_the_fit(decipher, index: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("training.probe.fit_probe", None)
    run = decipher("probe", "--task", "age", "--head", "knn", "-o", tmp_path / "p")
    assert run.code == 1 and "'knn' cannot be saved" in run.err and "--head linear" in run.err
    assert not (tmp_path / "p").exists()


def test_numbers_are_predicted_with_an_interval_and_saved_for_where(decipher, index: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ("--task", "echo_time_ms", "-o", tmp_path / "p", *PLAIN)
    run = decipher("probe", *words)
    card = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert run.code == 0 and (tmp_path / "p" / "predicted.svg").is_file()
    half = card["interval"]["half_width"]
    rows = decipher("predict", tmp_path / "p", "--save", "echo_guess", "--json").json_lines()
    for row in rows:
        assert row["task"] == "echo_time_ms" and isinstance(row["value"], float)
        assert half is None or row["high"] - row["low"] == pytest.approx(2 * half, abs=1e-3)
    middle = float(np.median([row["value"] for row in rows]))
    found = decipher("search", "--where", f"echo_guess > {middle}", "-k", "500", "--ids").out.split()
    assert sorted(found) == sorted(row["series_id"] for row in rows if row["value"] > middle)
    assert decipher("index", "verify").code == 0
    origin = json.loads(decipher("info", "decipher-index", "--json").out)["columns"]["echo_guess"]
    assert origin["by"] == "predict" and origin["probe"]["task"] == "echo_time_ms"


def test_an_archive_and_a_volume_are_predicted_as_in_the_index(decipher, index: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    decipher("probe", "--task", "sequence", "-o", tmp_path / "p", *PLAIN)
    stored = {row["series_id"]: row for row in decipher("predict", tmp_path / "p", "--json").json_lines()}
    read = {row["series_id"]: row for row in decipher("predict", tmp_path / "p", "archive", "--json").json_lines()}
    assert read.keys() == stored.keys()
    for name, row in stored.items():
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
        assert row["probabilities"] == pytest.approx(read[name]["probabilities"], abs=1e-4)
    one = next(row for row in stored.values() if row["path"].endswith(".nii.gz"))
    (found,) = decipher("predict", tmp_path / "p", Path("archive") / one["path"], "--json").json_lines()
    assert found["probabilities"] == pytest.approx(one["probabilities"], abs=1e-4)
    for words in (("archive", "-m", "mini"), ("archive", "--save", "guess")):
        run = decipher("predict", tmp_path / "p", *words)
        assert run.code == 1 and not run.out and "Hint: " in run.err
    assert "guess" not in Index.open(index).schema


def test_a_probe_of_patients_says_the_same_of_all_their_series(
    decipher, index: Path, findings: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    run = decipher("probe", "--task", "sex", "--unit", "patient", "-o", tmp_path / "p", *PLAIN)
    assert run.code == 0, run.err
    rows = decipher("predict", tmp_path / "p", "--json").json_lines()
    said: dict[str, set[float]] = {}
    for row in rows:
        said.setdefault(row["patient_id"] or row["series_id"], set()).add(row["probability"])
    assert len(rows) > len(said) and all(len(values) == 1 for values in said.values())
    shown = decipher("predict", tmp_path / "p").out
    assert sum(shown.count(row["path"]) for row in rows) == len(said)
    decipher("probe", "--task", "brain,t1", "--labels", findings, "-o", tmp_path / "q", *PLAIN)
    (first, *_) = decipher("predict", tmp_path / "q", "--json", "--save", "findings").json_lines()
    assert first["labels"] == [name for name, p in first["probabilities"].items() if p > 0.5]
    assert Index.open(index).schema["findings"] == pl.String
