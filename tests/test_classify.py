"""`decipher classify` as a person uses it: classes, findings, calibration, and a column that stays."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index.store import Index

CLASSES = ("T1|T1-weighted MRI", "T2|T2-weighted MRI", "FLAIR|FLAIR MRI")


@pytest.fixture(scope="module")
def vectors(index: Path, tiny_model: Path) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """The index's vectors, vectors of words, and the scale."""
    from models.decipher import load

    model = load(str(tiny_model))
    words = ["T1", "T1-weighted MRI", "T2", "T2-weighted MRI", "FLAIR", "FLAIR MRI", "a lesion", "no lesion"]
    texts = {word: model.encode_texts([word])[0].double().numpy() for word in words}
    return Index.open(index).vectors.astype(np.float64), texts, model.scale.item()


def mean_of(texts: dict[str, np.ndarray], *words: str) -> np.ndarray:
    total = np.sum([texts[word] for word in words], axis=0)
    return total / np.linalg.norm(total)


def told(run) -> bool:
    return run.code == 1 and not run.out and "Error: " in run.err and "\nHint: " in run.err


def test_classes_of_a_file_are_the_softmax(decipher, index, vectors, tmp_path):
    rows, texts, scale = vectors
    file = tmp_path / "sequence.yaml"
    file.write_text("T1: [T1, T1-weighted MRI]\nT2: T2-weighted MRI\n")
    logits = scale * rows @ np.stack([mean_of(texts, "T1", "T1-weighted MRI"), texts["T2-weighted MRI"]], axis=1)
    expected = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    said = decipher("classify", "--prompts", file, "--json").json_lines()
    np.testing.assert_allclose([row["probabilities"]["T1"] for row in said], expected, atol=1e-4)
    assert [row["label"] for row in said] == ["T1" if share > 0.5 else "T2" for share in expected]
    assert [row["series_id"] for row in said] == Index.open(index).columns(["series_id"])["series_id"].to_list()


def test_a_finding_is_a_sigmoid_of_its_own(decipher, index, vectors):
    rows, texts, scale = vectors
    z = scale * rows @ (texts["a lesion"] - texts["no lesion"])
    said = decipher("classify", "a lesion", "FLAIR", "--against", "no lesion", "--against", "T2", "--json").json_lines()
    np.testing.assert_allclose([row["probabilities"]["a lesion"] for row in said], 1 / (1 + np.exp(-z)), atol=1e-4)
    for row in said:
        shares = row["probabilities"]
        assert row["labels"] == [name for name, share in shares.items() if share > 0.5]
        assert row["label"] == max(shares, key=shares.get)


def test_where_holds_before(decipher, index):
    said = decipher("classify", *CLASSES, "--where", "body_region = 'knee'", "--json").json_lines()
    ids = decipher("search", "--where", "body_region = 'knee'", "-k", "500", "--ids").out.split()
    assert sorted(row["series_id"] for row in said) == sorted(ids)


def test_a_saved_column_is_searched_exported_probed_and_survives_encode(decipher, index, tmp_path):
    said = decipher("classify", *CLASSES, "--save", "guess", "--json").json_lines()
    short = {row["series_id"]: row["label"].split("|")[0] for row in said}
    sure = {row["series_id"]: max(row["probabilities"].values()) for row in said}
    commit = (index / "manifest.json").read_bytes()
    run = decipher("encode", "./archive", "--json")
    assert run.json_lines()[-1]["unchanged"] == len(said) and (index / "manifest.json").read_bytes() == commit
    label = said[0]["label"].split("|")[0]
    where = f"guess = '{label}' and guess_probability > 0"
    ids = decipher("search", "--where", where, "-k", "500", "--ids").out.split()
    assert sorted(ids) == sorted(one for one, own in short.items() if own == label)
    decipher("search", "--where", "1=1", "-k", "500", "--export", tmp_path / "all.parquet")
    frame = pl.read_parquet(tmp_path / "all.parquet")
    assert dict(zip(frame["series_id"], frame["guess"], strict=True)) == short
    assert dict(zip(frame["series_id"], frame["guess_probability"], strict=True)) == pytest.approx(sure, abs=1e-6)
    (info,) = decipher("info", index, "--json").json_lines()
    assert info["columns"]["guess"]["prompts"]["T1|T1-weighted MRI"] == ["T1", "T1-weighted MRI"]
    assert info["columns"]["guess"]["encoder"]["hash"] == info["passport"]["hash"]
    assert info["columns"]["guess"]["calibrated"] is None
    assert "guess (by classify 20" in decipher("info", index).out
    assert decipher("index", "verify").code == 0
    assert told(decipher("classify", *CLASSES, "--calibrate", "guess"))


def test_calibration_is_told_and_saved(decipher, index, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    plain = decipher("classify", *CLASSES, "--json").json_lines()
    run = decipher("classify", *CLASSES, "--calibrate", "sequence", "--save", "surely", "--json")
    shares = np.array([list(row["probabilities"].values()) for row in run.json_lines()])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert np.abs(shares - [list(row["probabilities"].values()) for row in plain]).max() > 0.01
    assert "as they come" in run.err and "calibrated" in run.err and "balanced accuracy" in run.err
    (info,) = decipher("info", index, "--json").json_lines()
    fitted = info["columns"]["surely"]["calibrated"]
    records = Index.open(index).records
    assert fitted["n"] == records["sequence"].is_in(["T1", "T2", "FLAIR"]).sum()
    logits = np.log([list(row["probabilities"].values()) for row in plain])
    again = fitted["scale"] * logits + fitted["bias"]
    again = np.exp(again - again.max(1, keepdims=True))
    np.testing.assert_allclose(again / again.sum(1, keepdims=True), shares, atol=1e-4)
    table = decipher("classify", *CLASSES, "--calibrate", "sequence")
    assert "class shares" in table.out and "surest" in table.out


def test_a_finding_is_calibrated_by_yes_and_no(decipher, index, tmp_path):
    records = Index.open(index).records
    labels = records.select("series_id", wanted=pl.when(pl.col("sequence") == "FLAIR").then(1).otherwise(0))
    labels.write_csv(tmp_path / "labels.csv")
    words = (
        "a lesion",
        "--against",
        "no lesion",
        "--calibrate",
        "wanted",
        "--labels",
        tmp_path / "labels.csv",
        "--json",
    )
    run = decipher("classify", *words)
    shares = [row["probabilities"]["a lesion"] for row in run.json_lines()]
    assert np.mean(shares) == pytest.approx(labels["wanted"].mean(), abs=0.05)
    assert [bool(row["labels"]) for row in run.json_lines()] == [share > 0.5 for share in shares]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "two classes"),
        (("a", " A "), "the same"),
        (("a", "b", "--prompts", "none.yaml"), "a file of prompts"),
        (("--prompts", "none.yaml"), "cannot be read"),
        (("a", "b", "--where", "age_years > 900"), "No series passes"),
        (("a", "b", "--save", "sequence"), "already"),
        (("a", "b", "--save", "a b"), "no name"),
        (("T1-weighted MRI", "T2-weighted MRI", "--calibrate", "sequence"), '"T1|T1-weighted MRI"'),
        (("T1", "T2", "--calibrate", "sequenze"), "--calibrate sequence?"),
        (("T1", "not this", "--calibrate", "sequence"), "10 labelled series"),
        (("T1", "T2", "--calibrate", "sequence", "--where", "patient_id is null"), "No series passes"),
        (("T1", "T2", "--against", "a", "--against", "b", "--calibrate", "sequence"), "several findings"),
    ],
)
def test_bad_input_is_told(decipher, index, words, said):
    run = decipher("classify", *words)
    assert told(run), (run.code, run.out, run.err)
    assert said in run.err
    assert not (index / "columns" / "sequence.parquet").exists()


def test_labels_without_calibrate_are_wrong_usage(decipher, index):
    assert decipher("classify", "a", "b", "--labels", "x.csv").code == 2


def test_an_empty_index_is_told(decipher, tmp_path):
    made = Index.create(tmp_path / "empty", {"name": "small", "hash": "h", "dim": 4})
    run = decipher("classify", "a", "b", "-i", made.folder)
    assert told(run) and "no series" in run.err


def test_an_early_end_of_the_stream_does_not_keep_from_saving(decipher, index, monkeypatch):
    from decipher_cli import output

    def closed(row: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(output, "put_json", closed)
    monkeypatch.setattr("os.dup2", lambda *handles: None)
    decipher("classify", *CLASSES, "--save", "piped", "--json")
    assert "piped" in Index.open(index).saved
    assert Index.open(index).records["piped"].null_count() == 0
