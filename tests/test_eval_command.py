"""`decipher eval retrieval` and `decipher eval all`: what stands on stdout, what is in the folder, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from decipher_cli.evaluated import OWN_NAMES, PLOTS, markdown, show_retrieval
from index.store import Index

TOP = {name for name in OWN_NAMES if "/" not in name}
METRICS = {"recall@1", "recall@5", "recall@10", "precision@10", "map", "median_rank"}


@pytest.fixture(scope="module")
def evaluation(index: Path):
    from training.evaluation import evaluate

    return evaluate(Index.open(index), 40)


@pytest.fixture(scope="module")
def evaluated(evaluation, folder: Path) -> Path:
    """A folder that `evaluate` and `write` filled from the phantom's index."""
    from decipher_cli.evaluated import write

    write(evaluation, folder / "measured")
    return folder / "measured"


@pytest.fixture
def at_once(evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    """`eval all` writes what was measured already; of the probes' pictures those of one."""
    fewer = replace(evaluation, probes=[probe for probe in evaluation.probes if probe.task == "sex"])
    monkeypatch.setattr("training.evaluation.evaluate", lambda *asked: fewer)


def test_retrieval_tells_a_line_a_kind_with_chance_and_intervals(decipher, index) -> None:
    lines = decipher("eval", "retrieval", "--json", "--queries", "40").json_lines()
    kinds = [line["kind"] for line in lines]
    assert kinds[:2] == ["text_to_volume", "volume_to_text"]
    assert {"label:sequence", "identity", "identity_other_sequence"} <= set(kinds)
    series = len(Index.open(index))
    for line in lines:
        assert {"kind", "queries", "pool", "patients", "metrics", "chance"} <= set(line)
        assert set(line["metrics"]) == set(line["chance"]) == METRICS
        assert 1 <= line["queries"] <= 40 and line["pool"] <= series
        for figure in line["metrics"].values():
            assert figure["low"] <= figure["value"] <= figure["high"]
    assert lines[0]["pool"] == series


def test_the_table_fits_eighty_columns(decipher, index) -> None:
    run = decipher("eval", "retrieval", "--queries", "40")
    assert run.code == 0
    assert "Report to volume: " in run.out and "chance" in run.out
    assert max(len(line.rstrip()) for line in (run.out + run.err).splitlines()) <= 80


def test_the_indexed_figures_stand_below_the_exact_ones(capfd) -> None:
    figure = {"value": 0.5, "low": 0.25, "high": 0.75}
    row = {
        "kind": "identity", "queries": 7, "pool": 9, "patients": 3, "left_out": {"without_patient": 2},
        "metrics": dict.fromkeys(METRICS, figure), "chance": dict.fromkeys(METRICS, 0.125),
        "indexed": {"recall@1": {**figure, "value": 0.375}},
    }  # fmt: skip
    show_retrieval([row])
    said = capfd.readouterr()
    lines = {line.split()[0]: line.split()[1:] for line in said.out.splitlines() if line.strip()}
    assert lines["exact"][:5] == ["0.50"] * 5
    assert lines["95"][1:6] == ["0.25-0.75"] * 5
    assert lines["indexed"] == ["0.38", *["-"] * 5]
    assert "2 without patient" in said.err


def test_a_label_of_ones_own_and_a_wrong_one(decipher, index) -> None:
    lines = decipher("eval", "retrieval", "--label", "plane", "--json").json_lines()
    assert [line["kind"] for line in lines if line["kind"].startswith("label")] == ["label:plane"]
    wrong = decipher("eval", "retrieval", "--label", "plain")
    assert wrong.code == 1 and "Did you mean --label plane?" in wrong.err and "Traceback" not in wrong.err


def test_an_index_without_reports_and_one_of_one_patient(decipher, index, tmp_path) -> None:
    opened = Index.open(index)
    records = opened.records.drop("report")
    alone = np.flatnonzero(records["patient_id"] == records["patient_id"][0])
    for name, rows in (("silent", np.arange(len(opened))), ("one", alone)):
        made = Index.create(tmp_path / name, opened.passport, opened.archives.values())
        made.append(records[rows], opened.gather(rows))
    run = decipher("eval", "retrieval", "-i", tmp_path / "silent", "--json")
    assert run.code == 0 and "no reports" in run.err
    assert not any("text" in line["kind"] for line in run.json_lines())
    run = decipher("eval", "retrieval", "-i", tmp_path / "one")
    assert run.code == 1 and "one patient" in run.err and "Hint: " in run.err


def test_another_encoder_leaves_the_text_parts_out(decipher, index, tmp_path) -> None:
    opened = Index.open(index)
    made = Index.create(tmp_path / "other", {**opened.passport, "hash": "0" * 32}, opened.archives.values())
    made.append(opened.records, opened.vectors)
    made.update_card(model=opened.card["model"])
    run = decipher("eval", "retrieval", "-i", tmp_path / "other", "--json")
    assert run.code == 0 and "another encoder" in run.err
    assert run.json_lines()[0]["kind"].startswith("label")


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_all_writes_tables_plots_and_a_readme(evaluated, index) -> None:
    files = files_in(evaluated)
    assert files >= TOP and files <= OWN_NAMES
    found = json.loads((evaluated / "evaluation.json").read_text())
    table = pl.read_parquet(evaluated / "retrieval.parquet")
    assert table.filter(search="exact").height == len(METRICS) * len(found["retrieval"])
    line = table.row(by_predicate=(pl.col("kind") == "identity") & (pl.col("metric") == "map"), named=True)
    (told,) = (row for row in found["retrieval"] if row["kind"] == "identity")
    assert (line["value"], line["chance"]) == (told["metrics"]["map"]["value"], told["chance"]["map"])
    probes = pl.read_parquet(evaluated / "probes.parquet")
    assert {"sequence", "sex", "age_years"} <= set(probes["task"])
    for task in probes.partition_by("task"):
        assert {"encoder", "geometry", "tags", "histogram", "random_encoder"} <= set(task["features"])
    health = dict(pl.read_parquet(evaluated / "health.parquet").select("figure", "value").iter_rows())
    vectors = Index.open(index).vectors.astype(float)
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    assert health["mean_cosine"] == pytest.approx(cosines.mean(), abs=1e-4)
    for name in ("retrieval", "quality", "probes", "health"):
        assert (evaluated / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (evaluated / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        rows = pl.read_parquet(evaluated / f"{name}.parquet").height
        lines = (evaluated / f"{name}.md").read_text().splitlines()
        assert sum(line.startswith("| ") for line in lines) == rows + 2


def test_each_probe_has_its_pictures(evaluation, evaluated) -> None:
    for probe in evaluation.found["probes"]:
        numbers, classes = {"predicted"}, {"roc", "calibration", "confusion"}
        wanted = numbers if probe["kind"] == "regression" else classes
        names = {path.name for path in (evaluated / "probes" / probe["task"]).iterdir()}
        assert names == {f"{name}.{end}" for name in wanted for end in ("png", "svg")}
    assert len(list((evaluated / "probes").iterdir())) == len(evaluation.found["probes"]) >= 3


def test_the_readme_says_what_was_measured_and_names_nobody(evaluated, index) -> None:
    said, opened = (evaluated / "README.md").read_text(), Index.open(index)
    assert f"- series: {len(opened)}" in said and f"- hash: {opened.passport['hash']}" in said
    everything = b"".join((evaluated / name).read_bytes() for name in files_in(evaluated))
    for column in ("patient_id", "study_id", "series_id", "path"):
        assert not any(value.encode() in everything for value in opened.records[column].drop_nulls())


def test_all_as_typed_replaces_its_own_and_refuses_what_is_not(decipher, index, at_once) -> None:
    (told,) = decipher("eval", "all", "--queries", "10", "--json").json_lines()
    home = Path(f"{index}-eval")
    assert told["folder"] == str(home) and set(told["files"]) == files_in(home) >= TOP
    before = (home / "README.md").stat().st_ino
    run = decipher("eval", "all", "--queries", "10")
    assert run.code == 0 and str(home / "README.md") in run.out
    assert (home / "README.md").stat().st_ino != before
    for mine in (home / "probes" / "sex" / "mine.txt", home / "mine.txt"):
        mine.write_text("mine")
        run = decipher("eval", "all")
        assert run.code == 1 and "holds something else" in run.err and mine.read_text() == "mine"
        mine.unlink()
    assert decipher("eval", "all", "-o", index).code == 1, "the index itself"
    shutil.rmtree(home)


def test_a_folder_is_written_whole_or_not_at_all(decipher, index, at_once, tmp_path, monkeypatch) -> None:
    def broken(evaluation):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(PLOTS, "health", broken)
    run = decipher("eval", "all", "--queries", "10", "-o", tmp_path / "out")
    assert run.code == 1 and "No space left on device" in run.err
    assert not list(tmp_path.iterdir())


def test_a_few_series_leave_out_what_cannot_be_measured(decipher, index, tmp_path) -> None:
    opened = Index.open(index)
    rows = np.flatnonzero(opened.records["patient_id"].rank("dense") <= 2)[-8:]
    made = Index.create(tmp_path / "few", opened.passport, opened.archives.values())
    made.append(opened.records[rows].drop("report"), opened.gather(rows))
    (told,) = decipher("eval", "all", "-i", tmp_path / "few", "--json").json_lines()
    assert told["quality"] is None and "quality.parquet" not in told["files"]
    for what in (
        "no reports",
        "Index quality is left out",
        "The probe of sex is left out",
        "histogram and random_encoder",
    ):
        assert any(what in sentence for sentence in told["left_out"]), what
    assert "Index quality is left out" in (tmp_path / "few-eval" / "README.md").read_text()


def test_markdown_is_a_table() -> None:
    frame = pl.DataFrame({"name": ["a|b", None], "value": [0.123456, 2.0], "n": [3, 40]})
    assert markdown(frame) == "| name | value | n |\n| --- | ---: | ---: |\n| a\\|b | 0.1235 | 3 |\n|  | 2 | 40 |\n"
