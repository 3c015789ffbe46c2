"""`decipher index`: what it says, how it ends, and what no bad input does to an index."""

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Run
from test_cli import told

from decipher_cli.index import EXAMPLES, VERBS, size_of
from index.removal import remove
from index.store import Index
from index.verify import verify

Command = Callable[..., Run]


@pytest.fixture
def mine(index: Path, tmp_path: Path) -> Path:
    """A copy of the index, to be changed."""
    return Path(shutil.copytree(index, tmp_path / "mine"))


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def vectors_of(folder: Path) -> Path:
    return folder / "segments" / "000001" / "vectors.npy"


@pytest.mark.parametrize("verb", [verb.__name__ for verb in VERBS])
def test_every_verb_has_help_with_examples(decipher: Command, verb: str) -> None:
    run = decipher("index", verb, "--help")
    assert run.code == 0 and len(EXAMPLES[verb]) >= 2
    for example in EXAMPLES[verb]:
        assert f"  {example}\n" in run.out
    assert "--json" in run.out and "--quiet" in run.out


def test_the_group_lists_its_verbs(decipher: Command) -> None:
    run = decipher("index", "--help")
    assert run.code == 0
    assert all(f"  {verb.__name__} " in run.out for verb in VERBS)
    assert decipher("index", "no-such-verb").code == 2


def test_a_whole_index_is_told_to_be_whole(decipher: Command, index: Path) -> None:
    run = decipher("index", "verify")
    count = len(Index.open(index))
    assert (run.code, run.out) == (0, "")
    assert f"{count} series in 1 segment, every checksum holds." in run.err
    (found,) = decipher("index", "verify", "--json").json_lines()
    assert found == {"series": count, "segments": 1, "commit": Index.open(index).commit, "wrong": []}


def test_a_flipped_byte_is_told_and_ends_with_1(decipher: Command, mine: Path) -> None:
    flipped(vectors_of(mine), -9)
    run = decipher("index", "verify", "-i", mine)
    assert run.code == 1 and "One thing is wrong" in run.err and "Hint: Restore it" in run.err
    assert run.out == "segments/000001/vectors.npy differs from its checksum.\n"
    run = decipher("index", "verify", "-i", mine, "--json", "-q")
    assert run.code == 1 and run.json_lines()[0]["wrong"] == ["segments/000001/vectors.npy differs from its checksum."]
    assert decipher("index", "remove", Index.open(mine).records["series_id"][0], "-i", mine).code == 0
    assert told(decipher("index", "compact", "-i", mine)), "damage is not copied into a new segment"


def test_a_removal_says_what_it_would_do_and_then_does_it(decipher: Command, mine: Path) -> None:
    index = Index.open(mine)
    knees = index.records.filter(pl.col("body_region") == "knee")["series_id"].to_list()
    words = ("index", "remove", "-i", mine, "--where", "body_region = 'knee'")
    (dry,) = decipher(*words, "--dry-run", "--json").json_lines()
    assert dry == {"removed": len(knees), "dry_run": True, "series": len(index), "ids": knees}
    assert f"{len(knees)} of {len(index)} series would be removed." in decipher(*words, "--dry-run").err
    assert len(Index.open(mine)) == len(index), "nothing has changed yet"
    (done,) = decipher(*words, "--json").json_lines()
    assert done == {"removed": len(knees), "dry_run": False, "series": len(index) - len(knees), "ids": knees}
    assert not set(Index.open(mine).records["series_id"]) & set(knees)
    assert not [one for one in knees if (mine / "thumbnails" / f"{one}.png").exists()]
    again = decipher(*words)
    assert (again.code, again.out) == (0, "") and "0 series removed" in again.err
    assert decipher("index", "verify", "-i", mine).code == 0


def test_ids_come_from_the_command_line_and_from_standard_input(
    decipher: Command, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = Index.open(mine).records["series_id"].to_list()
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{ids[3]}\n{ids[1]}\n"))
    (done,) = decipher("index", "remove", ids[0], "-", "-i", mine, "--json").json_lines()
    assert done["ids"] == [ids[0], ids[1], ids[3]]
    assert Index.open(mine).records["series_id"].to_list() == [ids[2], *ids[4:]]


def test_a_patient_goes_by_hash_and_by_the_archive_s_own_name(decipher: Command, mine: Path, folder: Path) -> None:
    labels = pl.read_csv(folder / "archive" / "labels.csv")
    index = Index.open(mine)
    raw, other = labels["subject_id"].unique().sort().to_list()[:2]
    expected = {raw: labels.filter(pl.col("subject_id") == raw).height, other: 0}
    (done,) = decipher("index", "remove", "--patient", raw, "-i", mine, "--json").json_lines()
    assert done["removed"] == expected[raw] > 0
    gone = index.records.filter(pl.col("series_id").is_in(done["ids"]))
    assert gone["patient_id"].n_unique() == 1
    left = Index.open(mine).records
    assert gone["patient_id"][0] not in left["patient_id"].to_list()
    (again,) = decipher("index", "remove", "--patient", left["patient_id"][0], "-i", mine, "--json").json_lines()
    assert again["removed"] == left.filter(pl.col("patient_id") == left["patient_id"][0]).height


def test_compacting_takes_the_bytes_and_leaves_the_rest_as_it_was(decipher: Command, mine: Path) -> None:
    index = Index.open(mine)
    gone = index.records["series_id"].to_list()[::2]
    assert decipher("index", "remove", *gone, "-i", mine).code == 0
    left = Index.open(mine)
    expected, vectors = left.records, left.vectors.copy()
    del index, left  # who reads keeps the files that it reads
    (done,) = decipher("index", "compact", "-i", mine, "--json").json_lines()
    assert done == {"series": len(expected), "bytes_before": done["bytes_before"], "bytes": size_of(mine)}
    assert done["bytes"] < done["bytes_before"]
    now = Index.open(mine)
    assert now.records.equals(expected) and now.vectors.tobytes() == vectors.tobytes()
    run = decipher("index", "compact", "-i", mine)
    assert (run.code, run.out) == (0, "") and f"{len(expected)} series in one segment" in run.err
    assert decipher("index", "verify", "-i", mine).code == 0


def test_the_faiss_file_is_built_again(decipher: Command, mine: Path) -> None:
    before = decipher("search", "knee", "--ids", "-i", mine).out
    (mine / "nearest.faiss").unlink(missing_ok=True)
    assert decipher("search", "knee", "--ids", "-i", mine).out == before, "search needs no such file"
    (built,) = decipher("index", "build", "-i", mine, "--json").json_lines()
    assert built["series"] == len(Index.open(mine)) and (mine / "nearest.faiss").is_file()
    assert decipher("search", "knee", "--ids", "-i", mine).out == before
    assert decipher("index", "verify", "-i", mine).code == 0
    assert told(decipher("index", "build", "-i", mine, "--factory", "no such thing"))


def test_merging_two_halves_gives_the_whole(decipher: Command, index: Path, mine: Path, tmp_path: Path) -> None:
    ids = Index.open(mine).records["series_id"].to_list()
    other = Path(shutil.copytree(mine, tmp_path / "other"))
    decipher("index", "remove", *ids[:9], "-i", mine)
    decipher("index", "remove", *ids[12:], "-i", other)
    run = decipher("index", "merge", mine, other, "-o", tmp_path / "both", "--json")
    assert run.json_lines() == [
        {"series": len(ids), "twice": 3, "one_key": True, "index": str(tmp_path / "both")},
    ]
    assert "3 series stood in more than one index and are kept once." in run.err
    whole = Index.open(tmp_path / "both")
    assert whole.records["series_id"].to_list() == ids[9:] + ids[:9]
    assert decipher("search", "knee", "--ids", "-i", tmp_path / "both", "-k", 5).out.count("\n") == 5
    assert decipher("index", "verify", "-i", tmp_path / "both").code == 0
    refused = decipher("index", "merge", mine, other, "-o", tmp_path / "both")
    assert told(refused) and "There is an index in" in refused.err


def test_quiet_is_quiet_but_for_data_and_errors(decipher: Command, mine: Path, tmp_path: Path) -> None:
    one, two = Index.open(mine).records["series_id"].to_list()[:2]
    for words in (
        ("verify", "-i", mine),
        ("remove", one, "-i", mine),
        ("remove", two, "-i", mine, "--dry-run"),
        ("compact", "-i", mine),
        ("build", "-i", mine),
        ("merge", mine, mine, "-o", tmp_path / "both"),
    ):
        run = decipher("index", *words, "-q")
        assert (run.code, run.out, run.err) == (0, "", ""), words
    assert told(decipher("index", "remove", one, "-i", mine, "-q"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("remove",), "Nothing is named"),
        (("remove", "0123456789abcdef"), "There is no series 0123456789abcdef"),
        (("remove", "--patient", "NOBODY"), "There is no patient NOBODY"),
        (("remove", "--where", "sequnce = 'T1'"), "sequnce"),
        (("remove", "--where", "sequence = "), "--where cannot be read"),
        (("remove", "--where", "age_years"), "neither true nor false"),
        (("merge", "decipher-index", "-o", "x"), "two indexes or more"),
        (("merge", "decipher-index", "nowhere", "-o", "x"), "No index in nowhere"),
        (("merge", "decipher-index", "decipher-index", "-o", "archive"), "holds other files"),
        (("verify", "-i", "nowhere"), "No index in nowhere"),
        (("compact", "-i", "archive"), "archive is not an index"),
    ],
    ids=str,
)
def test_bad_words_are_told_with_a_hint_and_change_nothing(
    decipher: Command, index: Path, folder: Path, words: tuple[str, ...], message: str
) -> None:
    names, commit = sorted(path.name for path in folder.iterdir()), (index / "manifest.json").read_bytes()
    run = decipher("index", *words)
    assert told(run) and message in run.err and "\nHint: " in run.err
    assert run.err.startswith("Error: ") and len(run.err.splitlines()) == 2
    assert (sorted(path.name for path in folder.iterdir()), (index / "manifest.json").read_bytes()) == (names, commit)
    if "sequnce" in message:
        assert "sequence" in run.err.splitlines()[1], "the nearest column is named"


EVERY = (
    ("search", "knee"),
    ("index", "verify"),
    ("index", "remove", "--where", "1=1"),
    ("index", "compact"),
    ("encode", "archive"),
)


@pytest.mark.parametrize("name", ["series.parquet", "vectors.npy", "captions.npy", "caption_of.npy"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_a_damaged_segment_is_told_by_every_command(decipher: Command, mine: Path, name: str, damage: str) -> None:
    path = mine / "segments" / "000001" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else -5])
    commit = (mine / "manifest.json").read_bytes()
    for words in EVERY:
        run = decipher(*words, "-i", mine)
        assert told(run) and f"{name} is {'missing' if damage == 'missing' else 'cut short'}" in run.err, words
        assert "Hint: Restore the folder from a copy" in run.err
    assert (mine / "manifest.json").read_bytes() == commit


def test_no_flipped_byte_of_the_records_ends_in_a_traceback(decipher: Command, mine: Path) -> None:
    path = mine / "segments" / "000001" / "series.parquet"
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(whole), 3):
        flipped(path, int(at))
        assert decipher("search", "knee", "-i", mine, "--json", "-k", 3).code in (0, 1)
        run = decipher("index", "verify", "-i", mine)
        assert run.code == 1 and "Traceback" not in run.err
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["manifest.json", "card.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"format": 2}', '{"format": 1}', "\x00\xff"])
def test_a_card_or_manifest_that_is_none_is_told(decipher: Command, mine: Path, name: str, content: str) -> None:
    (mine / name).write_text(content, encoding="latin-1")
    for words in (("search", "knee"), ("index", "verify"), ("index", "remove", "--where", "1=1"), ("info", mine)):
        run = decipher(*words, *(() if words[0] == "info" else ("-i", mine)))
        assert told(run) and "\nHint: " in run.err, (words, run.err)


def test_a_key_that_is_gone_is_told_where_it_is_needed(decipher: Command, mine: Path) -> None:
    (mine / "key").unlink()
    assert decipher("search", "knee", "-i", mine, "--ids").code == 0
    for words in (("encode", "archive"), ("index", "remove", "--patient", "x")):
        assert told(decipher(*words, "-i", mine)), words
    run = decipher("index", "verify", "-i", mine)
    assert run.code == 1 and "key is missing" in run.out


def test_an_index_of_another_encoder_is_refused(decipher: Command, mine: Path, tmp_path: Path) -> None:
    card = json.loads((mine / "card.json").read_text())
    (mine / "card.json").write_text(json.dumps({**card, "passport": {**card["passport"], "hash": "00" * 16}}))
    for words in (("search", "knee"), ("encode", "archive")):
        run = decipher(*words, "-i", mine)
        assert told(run) and "another encoder" in run.err, words
    assert told(decipher("index", "merge", mine, "decipher-index", "-o", tmp_path / "both"))
    run = decipher("index", "verify", "-i", mine)
    assert run.code == 1 and "no longer the one that made these vectors" in run.out


FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (%d,) * 2)
"""
RUN = "import sys; from decipher_cli.main import main; sys.argv = ['decipher', *sys.argv[1:]]; main()"


def apart(before: str, folder: Path, *words: str | Path) -> Run:
    """A command in a process of its own, in which `before` was done."""
    command = [sys.executable, "-c", before + RUN, *map(str, words)]
    root = str(Path(__file__).resolve().parents[1])
    surroundings = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True)
    return Run(done.returncode, done.stdout, done.stderr)


def test_a_read_only_index_is_searched_and_writing_is_told(
    decipher: Command, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}, os.open

    def read_only(path: str | Path, flags: int, *mode: int, **more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(mine)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", read_only)
    found = decipher("search", "knee", "--ids", "-i", mine, "-k", 3)
    assert (found.code, found.out.count("\n")) == (0, 3)
    assert decipher("index", "verify", "-i", mine).code == 0
    for words in (
        ("index", "remove", "--where", "1=1"),
        ("index", "compact"),
        ("index", "build"),
        ("encode", "archive"),
    ):
        run = decipher(*words, "-i", mine)
        assert told(run) and "cannot be written to: Read-only file system." in run.err, (words, run.err)
        assert "\nHint: " in run.err
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "most_bytes"),
    [
        (("remove", "--where", "body_region = 'knee'", "-i", "MINE"), 400),
        (("compact", "-i", "MINE"), 400),
        (("compact", "-i", "MINE"), 20_000),
        (("merge", "MINE", "MINE", "-o", "BOTH"), 20_000),
    ],
    ids=str,
)
def test_a_full_disk_is_told_and_the_index_opens_as_before(
    folder: Path, mine: Path, words: tuple[str, ...], most_bytes: int
) -> None:
    index = Index.open(mine)
    assert remove(index, index.records["series_id"].to_list()[:1]) == 1
    places = {"MINE": mine, "BOTH": mine.with_name("both")}
    run = apart(FULL % most_bytes, folder, "index", *(places.get(word, word) for word in words))
    why = r"cannot be written to: (File too large|the disk is full, or a file may not grow as large)\.\nHint: Check the disk's"
    assert told(run) and re.search(why, run.err)
    found = Index.open(mine)
    assert verify(found) == [] and found.records.equals(index.records)
    assert [path.name for path in mine.parent.iterdir()] == ["mine"]


def test_help_of_the_group_is_quick_and_loads_nothing_heavy(folder: Path) -> None:
    after = "; import atexit; atexit.register(lambda: print(sorted({'torch', 'faiss', 'polars'} & set(sys.modules))))"
    run = apart("import sys" + after + "\n", folder, "index", "remove", "--help")
    assert run.code == 0 and run.out.splitlines()[-1] == "[]"
