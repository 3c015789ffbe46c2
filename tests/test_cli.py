"""The command line as a person uses it: the contract's keys, defaults, errors in a sentence, exit codes."""

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from conftest import Run

from decipher_cli import main as cli
from models.errors import DecipherError

HIT_KEYS = {
    "rank", "score", "series_id", "study_id", "patient_id", "path", "sequence", "body_region", "plane", "age_years", "sex",
}  # fmt: skip
SUMMARY_KEYS = {"encoded", "unchanged", "rejected", "removed", "seconds", "model", "index"}


def told(run: Run, code: int = 1) -> bool:
    """An error in a sentence with a hint on stderr, nothing on stdout, no traceback."""
    return run.code == code and not run.out and "Traceback" not in run.err and bool(run.err.strip())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_examples(decipher, command: str) -> None:  # type: ignore[no-untyped-def]
    run = decipher(command, "--help")
    assert run.code == 0
    assert run.out.count(f"  decipher {command}") >= 2


def test_a_search_before_any_index_is_told(decipher, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    run = decipher("search", "T2 hyperintense lesion", "-i", tmp_path / "none")
    assert told(run) and "decipher encode" in run.err


def test_encode_says_the_summary_and_again_nothing_changes(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    run = decipher("encode", "./archive", "--json")
    last = run.json_lines()[-1]
    assert run.code == 0 and last.keys() >= SUMMARY_KEYS
    assert last["encoded"] == 0 and last["unchanged"] > 20


def test_strict_ends_with_3_when_something_was_rejected(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    assert decipher("encode", "./archive", "--strict").code == 3


def test_search_by_words_gives_ordered_hits_with_the_keys(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    run = decipher("search", "T2 hyperintense lesion", "--json", "-k", "7")
    hits = run.json_lines()
    assert [hit["rank"] for hit in hits] == list(range(1, 8))
    assert all(hit.keys() >= HIT_KEYS for hit in hits)
    assert all(a["score"] >= b["score"] for a, b in pairwise(hits))
    assert all((Path("archive") / hit["path"]).exists() for hit in hits)


def test_the_table_is_data_and_the_cohort_line_is_talk(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    run = decipher("search", "T2 hyperintense lesion", "-k", "4")
    assert run.out.count("\n") >= 5 and "4 of" in run.err and "patients" in run.err


def test_tags_find_what_the_labels_say(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    hits = decipher("search", "MRI of the knee", "--evidence", "tags", "--json", "-k", "3").json_lines()
    assert {hit["body_region"] for hit in hits} == {"knee"}


def test_a_volume_finds_itself_by_path_and_by_id(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    volume = next(Path("archive").rglob("*.nii.gz"))
    (first, *_) = decipher("search", volume, "--json", "-k", "3").json_lines()
    assert Path("archive") / first["path"] == volume and first["score"] == pytest.approx(1, abs=1e-4)
    (again, *_) = decipher("search", "--like", first["series_id"], "--json").json_lines()
    assert again["series_id"] == first["series_id"]


def test_a_dicom_folder_finds_itself(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    series = next(Path("archive/dicom").rglob("*.dcm")).parent
    (first, *_) = decipher("search", series, "--json", "-k", "1").json_lines()
    assert Path("archive") / first["path"] == series


def test_standard_input_is_a_query(decipher, index: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("sagittal T2 of the spine\n"))
    assert len(decipher("search", "-", "--json", "-k", "3").json_lines()) == 3


def test_where_by_and_ids(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    hits = decipher("search", "MRI", "--where", "body_region = 'brain'", "--by", "patient", "--json").json_lines()
    assert {hit["body_region"] for hit in hits} == {"brain"}
    assert len({hit["patient_id"] for hit in hits}) == len(hits)
    ids = decipher("search", "MRI", "--where", "body_region = 'brain'", "--by", "patient", "--ids").out.split()
    assert ids == [hit["series_id"] for hit in hits]


def test_a_page_is_written(decipher, index: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = tmp_path / "cohort.html"
    run = decipher("search", "<b>brain</b>", "--html", page, "-k", "5")
    html = page.read_text()
    assert run.code == 0 and html.count("data:image/png;base64,") == 5
    assert "<b>brain</b>" not in html and "&lt;b&gt;brain" in html


def test_classify_gives_probabilities_of_the_prompts(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    prompts = ["T1-weighted MRI", "T2-weighted MRI|T2w", "FLAIR MRI"]
    rows = decipher("classify", *prompts, "--json").json_lines()
    assert len(rows) == len(decipher("search", "MRI", "-k", "500", "--ids").out.split())
    for row in rows:
        assert row.keys() >= {"series_id", "path", "label", "probabilities"}
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)


def test_probe_says_metrics_with_intervals_beside_baselines(decipher, index: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = decipher("probe", "--task", "age", "--json", "-o", tmp_path / "probe")
    (found,) = run.json_lines()
    assert found.keys() >= {"task", "kind", "n", "groups", "metrics", "baselines"}
    assert found["task"] == "age" and found["kind"] == "regression"
    assert found["metrics"].keys() == {"mae", "r2", "pearson"}
    assert all(m.keys() >= {"value", "low", "high"} for m in found["metrics"].values())
    assert {"mean", "geometry", "tags"} <= found["baselines"].keys()
    assert (tmp_path / "probe" / "probe.json").is_file()


def test_probe_takes_a_table_of_labels(decipher, index: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    labels = pl.read_csv("archive/labels.csv").select("path", grade=pl.col("body_region") == "brain")
    labels.write_csv(tmp_path / "grade.csv")
    (found,) = decipher("probe", "--task", "grade", "--labels", tmp_path / "grade.csv", "--json").json_lines()
    assert found["kind"] == "binary" and {"auroc", "balanced_accuracy"} <= found["metrics"].keys()


def test_scan_counts_every_file(decipher, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "catalogue.parquet"
    (found,) = decipher("scan", "archive", "-o", out, "--json").json_lines()
    records, rejects = pl.read_parquet(out), pl.read_parquet(tmp_path / "catalogue.rejects.parquet")
    assert (found["series"], found["rejected"]) == (records.height, rejects.height)
    used = {file for files in records["files"].to_list() for file in files}
    assert len(used | set(rejects["path"])) == found["files"] == len(used) + rejects.height


def test_info_of_program_index_model_and_nothing(decipher, index: Path, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    assert "decipher" in decipher("info", "--json").json_lines()[0]
    (found,) = decipher("info", "decipher-index", "--json").json_lines()
    assert found["kind"] == "index" and found["dim"] == 384 and found["model"] == "tiny" and found["series"] > 20
    assert decipher("info", tiny_model, "--json").json_lines()[0]["kind"] == "model"
    assert told(decipher("info", "archive"))


def test_dry_run_prints_settings_and_writes_nothing(decipher, folder: Path) -> None:  # type: ignore[no-untyped-def]
    run = decipher("train", "align", "--dry-run", "--set", "steps=3")
    assert run.code == 0 and "steps: 3" in run.out and not (folder / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("search", ""),
        ("search", "   "),
        ("search",),
        ("search", "--like", "0123456789abcdef"),
        ("search", "x", "--where", "sequnce = 'T1'"),
        ("search", "x", "--by", "hospital"),
        ("classify", "one"),
        ("classify", "same", "same"),
        ("encode", "./nowhere"),
        ("scan", "./nowhere"),
        ("info", "./nowhere"),
        ("probe", "--task", "no_such_column"),
        ("train", "align", "--set", "stepz=3"),
        ("train", "no-such-preset"),
        ("encode", "archive", "-m", "no-such-model"),
    ],
    ids=" ".join,
)
def test_bad_input_is_told_and_changes_nothing(decipher, index: Path, folder: Path, words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    before = sorted(p.name for p in folder.iterdir())
    commit = (index / "manifest.json").read_text()
    run = decipher(*words)
    assert told(run), (run.code, run.out, run.err)
    assert run.err.startswith("Error: ") and "\nHint: " in run.err
    assert (index / "manifest.json").read_text() == commit
    assert sorted(p.name for p in folder.iterdir()) == before


def test_a_file_that_is_no_image_is_told(decipher, index: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    assert told(decipher("search", text))
    assert told(decipher("encode", text, "-i", tmp_path / "index"))
    assert not (tmp_path / "index").exists()


def test_wrong_usage_ends_with_2(decipher, index: Path) -> None:  # type: ignore[no-untyped-def]
    assert told(decipher("search", "x", "--no-such-option"), 2)
    assert told(decipher("no-such-command"), 2)


def test_the_index_of_the_environment_is_the_default(decipher, index: Path, monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("DECIPHER_INDEX", str(index))
    monkeypatch.chdir(tmp_path)
    assert len(decipher("search", "knee", "--ids", "-k", "2").out.split()) == 2


def test_a_closed_pipe_ends_quietly(index: Path, folder: Path) -> None:
    command = f"{sys.executable} -c 'from decipher_cli.main import main; main()' search MRI --json -k 500 -q | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.stderr.strip() == "" and json.loads(done.stdout)["rank"] == 1


def test_ctrl_c_is_told_and_the_index_stays_valid(phantom_archive: Path, tiny_model: Path, tmp_path: Path) -> None:
    from index.store import Index
    from index.verify import verify

    code = "import index.encode as e; e.BLOCK = 2; from decipher_cli.main import main; main()"
    words = ["encode", str(phantom_archive), "-m", str(tiny_model), "-i", "index"]
    child = subprocess.Popen([sys.executable, "-c", code, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "index" / "segments" / "000002").is_dir():
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    assert "the same command goes on" in child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert verify(Index.open(tmp_path / "index")) == []


def test_a_shadowed_package_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    root = Path(cli.__file__).resolve().parent.parent
    code = f"""
import sys
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]
from decipher_cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "info"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"Another package named 'models' in {tmp_path} hides decipher's own" in done.stderr


def test_errors_carry_a_hint() -> None:
    error = DecipherError("One sentence.", "What to do.")
    assert (error.message, error.hint, str(error)) == ("One sentence.", "What to do.", "One sentence.")
