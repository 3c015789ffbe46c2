"""A writer may be killed at any moment: the index opens at a commit, and the same command ends as if nothing had happened.

The writers are forked from a nursery, this file run as a program, which has imported all that they need, so that a kill
costs little more than the time until it comes.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index.archive import Archive
from index.store import Index
from index.verify import verify

DIM, ROWS, KEY = 8, 7, b"k" * 32
PASSPORT = {"name": "small", "hash": "a1" * 16, "dim": DIM, "prepare": "p1"}
Content = tuple[list[str], list[str], bytes, bytes]
Step = Callable[[Index], None]


def vector(*words: str | int) -> np.ndarray:
    """float32 (DIM,) of length 1 that the words decide."""
    seed = int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=8).digest(), "big")
    values = np.random.default_rng(seed).standard_normal(DIM)
    return (values / np.linalg.norm(values)).astype(np.float32)


def put(block: int, version: int = 0, only: slice = slice(None)) -> Step:
    """What encode does with a block: pictures, rows that are new or changed, and young segments joined."""

    def step(index: Index) -> None:
        from index.thumbnails import replace_file

        ids = [f"{block:03d}-{row}" for row in range(ROWS)][only]
        records = pl.DataFrame({"series_id": ids, "patient_id": [f"p{block}"] * len(ids), "archive": ["a"] * len(ids)})
        records = records.with_columns(version=pl.lit(str(version)))
        vectors = np.stack([vector(one, version) for one in ids])
        with index.writing():
            (index.folder / "thumbnails").mkdir(exist_ok=True)
            for one in ids[:2]:
                replace_file(index.folder / "thumbnails" / f"{one}.png", f"{one} {version}".encode())
            index.replace(records, vectors, np.stack([vector("caption", block % 5)] * len(ids)))
            index.tidy()

    return step


def taken_out(where: str) -> Step:
    def step(index: Index) -> None:
        from index.removal import chosen, remove

        remove(index, chosen(index, [], [where], []))

    return step


def compacted(index: Index) -> None:
    from index.removal import compact

    compact(index)


def rejected(index: Index) -> None:
    from index.ledger import rejects_frame, row

    index.write_rejects(rejects_frame([row("x", "not_an_image")]).with_columns(archive=pl.lit("a")))


def kept_as_cohort(index: Index) -> None:
    from index.cohort import save

    save(index, "some", {"words": "brain"}, index.records["series_id"].to_list()[:20])


def remembered(index: Index) -> None:
    index.update_card(archives=[Archive("a", Path("/a")).to_json()], model=None)


def refreshed(index: Index) -> None:
    from index.nearest import refresh

    refresh(index)


STEPS: list[Step] = [
    remembered,
    *map(put, range(6)),
    rejected,
    taken_out("patient_id = 'p2'"),
    put(1, 1, slice(2, 6)),
    kept_as_cohort,
    *map(put, range(6, 24)),
    refreshed,
    put(2, 1),
    compacted,
    *map(put, range(24, 28)),
    taken_out("series_id > '003' AND series_id < '008-4'"),
    compacted,
    put(30),
    refreshed,
]


def work(folder: Path) -> None:
    """All steps that were not done yet; one that was stopped after its commit is done once more, and changes nothing."""
    index = Index.open(folder)
    for number in range(index.card.get("done", 0), len(STEPS)):
        STEPS[number](index)
        index.update_card(done=number + 1)


def encode(folder: Path) -> None:
    import torch

    from index import embed
    from index.encode import EncodeOptions, encode_archive
    from index.ledger import Rejection

    def spoiled(root: Path, record: dict, read: Callable = embed.read_volume) -> object:
        if "spoiled" in record["path"]:
            raise Rejection("undecodable", "as a file may be whose end is damaged")
        return read(root, record)

    embed.read_volume, embed.TEXTS = spoiled, 2
    torch.set_num_threads(1)
    encode_archive(
        Path(sys.argv[2]), folder, EncodeOptions(model=sys.argv[3], workers=2, prune=True), lambda *said: None
    )


def made_ready(kind: str) -> Callable[[Path], None]:
    """Everything that `kind` of work needs, imported; nothing that starts a thread, since that does not live on in a fork."""
    import faiss  # noqa: F401

    import index.nearest
    import index.removal

    if kind == "work":
        return work
    import transformers  # noqa: F401

    import index.encode

    index.encode.BLOCK = 2
    return encode


def nursery(kind: str) -> None:
    """For each line "FOLDER after SECONDS" or "FOLDER at WRITE" a writer, killed then; tells how it ended."""
    child = made_ready(kind)
    print("ready", flush=True)
    for line in sys.stdin:
        folder, what, when = line.rsplit(" ", 2)
        writer = os.fork()
        if not writer:
            if what == "at":
                die_at(int(when))
            child(Path(folder))
            os._exit(0)
        end = time.monotonic() + (float(when) if what == "after" else 60)
        gone = 0
        while not gone and time.monotonic() < end:
            gone, status = os.waitpid(writer, os.WNOHANG)
            time.sleep(0.0005)
        if not gone:
            os.kill(writer, signal.SIGKILL)
            _, status = os.waitpid(writer, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def die_at(write: int) -> None:
    """From now on, before the write-th time that something is brought to the disk, renamed or deleted, the process dies."""
    from index import segment

    left = [write]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*words: object, **more: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*words, **more)

        return call

    for place, name in (
        (segment, "sync"),
        (Path, "replace"),
        (Path, "unlink"),
        (Path, "mkdir"),
        (os, "rmdir"),
        (os, "fdopen"),
        (os, "fsync"),
    ):
        setattr(place, name, counted(getattr(place, name)))


@contextmanager
def writers(kind: str, *words: str | Path) -> Iterator[Callable[[Path, str, float], int]]:
    """A nursery; call it with folder, "after" or "at", and when: how the writer ended, as subprocess tells it."""
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, kind, *map(str, words)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(
        command, cwd=root, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin and parent.stdout
        assert parent.stdout.readline() == "ready\n"

        def run(folder: Path, what: str, when: float) -> int:
            assert parent.stdin and parent.stdout
            parent.stdin.write(f"{folder} {what} {when}\n")
            parent.stdin.flush()
            return int(parent.stdout.readline())

        yield run
        parent.stdin.close()


def content(index: Index) -> Content:
    records = index.columns(["series_id", "version"])
    captions = index.gather(np.arange(len(index)), "captions")
    return (*map(pl.Series.to_list, records.iter_columns()), index.vectors.tobytes(), captions.tobytes())  # type: ignore[return-value]


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "thumbnails").glob("*")}


def new(folder: Path) -> Path:
    return Index.create(folder, PASSPORT, key=KEY).folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where the system has one: a kill leaves the same there, and bringing things to disk costs nothing."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("quick")
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def whole(quick: Path) -> tuple[Path, list[Content]]:
    """The index after a run that nobody stopped, and what it held after each commit."""
    history: list[Content] = []
    publish = Index._publish

    def noted(index: Index, entries: list[dict]) -> None:
        publish(index, entries)
        history.append(content(index))

    folder = new(quick / "whole")
    history.append(content(Index.open(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "_publish", noted)
        work(folder)
    return folder, history


def test_the_steps_try_everything(whole: tuple[Path, list[Content]]) -> None:
    folder, history = whole
    lengths = [len(one[0]) for one in history]
    assert max(lengths) == 28 * ROWS and sorted(lengths) != lengths
    unseen = sum(step in (remembered, rejected, kept_as_cohort, refreshed) for step in STEPS)
    assert len(history) - 1 == len(STEPS) - unseen + 1, "young segments were joined once"
    assert verify(Index.open(folder)) == []
    shown = {f"{one}.png" for one in history[-1][0] if one[-1] in "01" or one in ("001-2", "001-3")}
    assert set(pictures(folder)) == shown


def test_killed_at_50_moments_it_ends_as_if_nobody_had_stopped_it(
    whole: tuple[Path, list[Content]], quick: Path
) -> None:
    reference, history = whole
    chance = random.Random(0)
    kills, ends, seen = 0, 0, set()
    with writers("work") as run:
        began = time.monotonic()
        assert run(new(quick / "timed"), "after", 60) == 0
        lasts = time.monotonic() - began
        folder, reached = new(quick / "0"), 0
        while kills < 50 or reached < len(history) - 1:
            if kills >= 50:
                ended = run(folder, "after", 60)
            elif kills % 2:
                ended = run(folder, "at", chance.randrange(80))
            else:
                ended = run(folder, "after", chance.uniform(0, lasts / 6))
            assert ended in (0, -signal.SIGKILL)
            kills += ended != 0
            index = Index.open(folder)
            assert verify(index) == []
            now = content(index)
            places = [place for place in range(reached, len(history)) if history[place] == now]
            assert places, "what the index holds is what a commit made, and no earlier one than before"
            assert {f"{one}.png" for one in now[0] if one[-1] in "01"} <= set(pictures(folder)), (
                "they go after their rows"
            )
            seen.add(reached := places[0])
            if ended == 0:
                same_in_the_end(folder, reference)
                ends += 1
                folder, reached = (new(quick / str(ends)), 0) if kills < 50 else (folder, len(history) - 1)
    assert kills == 50 and ends >= 1
    assert len(seen) > len(history) / 3, "at many different moments"


def same_in_the_end(folder: Path, reference: Path) -> None:
    found, whole = Index.open(folder), Index.open(reference)
    assert content(found) == content(whole)
    assert found.records.equals(whole.records)
    assert found.rejects.equals(whole.rejects)  # type: ignore[union-attr]
    assert pictures(folder) == pictures(reference)
    assert found.key == whole.key and found.archives == whole.archives
    with found.writing():
        pass
    assert {path.name for path in (folder / "segments").iterdir()} == {one.name for one in found.segments}
    assert not list(folder.rglob("*.partial"))


def encoded_in_the_end(archive: Path, tiny_model: Path, here: Path, kills: int, more: int) -> None:
    """Encode an archive with `kills` kills and, after it has changed, once more with `more`."""
    from models.folder import passport

    def empty(name: str) -> Path:
        return Index.create(here / f"first-{name}", passport(str(tiny_model)), key=KEY).folder

    def filled(name: str) -> Path:
        return Path(shutil.copytree(here / "first-whole", here / f"second-{name}"))

    with writers("encode", archive, tiny_model) as run:
        sizes = killed_often(run, empty, kills)
        assert len(sizes) > min(kills, max(sizes) / 2) / 3, "at many different moments"
        if more:
            changed(archive)
            killed_often(run, filled, more)


def changed(archive: Path) -> None:
    """Two series are gone, one has other voxels, one is new, and three have other labels."""
    labels = pl.read_csv(archive / "labels.csv")
    volumes = sorted(path for path in archive.rglob("*.nii.gz"))
    shutil.copy(volumes[0], archive / "new.nii.gz")
    volumes[1].write_bytes(volumes[2].read_bytes())
    for path in volumes[3:5]:
        path.unlink()
    older = pl.when(pl.int_range(pl.len()) > labels.height - 4).then(pl.col("age_years") + 1).otherwise("age_years")
    labels.with_columns(age_years=older).write_csv(archive / "labels.csv")


def killed_often(run: Callable[[Path, str, float], int], start: Callable[[str], Path], kills: int) -> set[int]:
    """Kill writers until there were `kills`; each ends like one that nobody stopped. How many series were there meanwhile."""
    chance, whole = random.Random(1), start("whole")
    before = Index.open(whole).records
    began = time.monotonic()
    assert run(whole, "after", 120) == 0
    lasts = time.monotonic() - began
    expected = Index.open(whole)
    folder, done, ends, sizes = start("0"), 0, 0, set()
    while True:
        moment = ("after", chance.uniform(0.2, 0.9) * lasts) if done % 2 else ("at", chance.randrange(10, 110))
        ended = run(folder, *(moment if done < kills else ("after", 120)))
        assert ended in (0, -signal.SIGKILL)
        done += ended != 0
        found = Index.open(folder)
        sizes.add(len(found))
        assert verify(found) == []
        if before.is_empty():
            assert found.records.equals(expected.records[: len(found)].select(found.records.columns))
            assert found.vectors.tobytes() == expected.vectors[: len(found)].tobytes()
        if ended == 0:
            encoded_alike(found, expected)
            if done == kills:
                return sizes
            ends += 1
            folder = start(str(ends))


def encoded_alike(found: Index, whole: Index) -> None:
    assert found.records.equals(whole.records)
    assert found.vectors.tobytes() == whole.vectors.tobytes()
    everywhere = np.arange(len(whole))
    assert found.gather(everywhere, "captions").tobytes() == whole.gather(everywhere, "captions").tobytes()
    assert found.rejects.equals(whole.rejects)  # type: ignore[union-attr]
    assert pictures(found.folder) == pictures(whole.folder)
    with found.writing():
        pass
    assert not [*found.folder.rglob("*.partial"), *(found.folder / "scan").glob(".*")]
    assert {path.name for path in (found.folder / "segments").iterdir()} == {one.name for one in found.segments}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Nine NIfTI files, one of which cannot be read, a DICOM series, labels, and a file that is no image."""
    from test_dicom import write_stack
    from test_nifti import save

    chance, root = np.random.default_rng(0), tmp_path / "archive"
    names = [f"sub-{one:02d}_T{1 + one % 2}w.nii.gz" for one in range(8)]
    for name in (*names, "sub-03_acq-spoiled_T1w.nii.gz"):
        save(root / name, chance.integers(0, 900, (12, 11, 10)).astype("<i2"))
    write_stack(root / "dicom")
    (root / "notes.txt").write_text("of this archive")
    rows = [f"{name},{20 + 5 * place},{'FM'[place % 2]}" for place, name in enumerate(names)]
    (root / "labels.csv").write_text("\n".join(["path,age_years,sex", *rows]))
    return root


def test_an_encode_that_is_killed_goes_on_to_the_same_index(archive: Path, tiny_model: Path, quick: Path) -> None:
    encoded_in_the_end(archive, tiny_model, quick / "encoded", 2, 0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_encode_that_is_killed_50_times_goes_on_to_the_same_index(
    phantom_archive: Path, tiny_model: Path, tmp_path: Path
) -> None:
    archive = Path(shutil.copytree(phantom_archive, tmp_path / "archive"))
    encoded_in_the_end(archive, tiny_model, tmp_path, 50, 25)


if __name__ == "__main__":
    nursery(sys.argv[1])
