"""How search and the index grow: python tests/benchmarks/growth.py [--sizes 10000,100000,1000000] [--keep FOLDER]

Prints Markdown tables. The vectors are simulated: 400 kinds of series of unequal number, sites, patients of eight series
and noise, all with a spectrum that falls off, so that they lie in clusters as an encoder's do; captions tell what 100 kinds
are called, age and sex (18,000 in all), and lie elsewhere. Queries are series of patients who are not in the index, and
captions. What is compared is timed in turns, the best of three each; figures are medians over turns, since other work may
run beside. With --keep, indexes are made once.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # or FAISS's threads slow down whoever is timed after them

import numpy as np
import polars as pl

from index import nearest
from index.approximate import automatic
from index.filter import matching
from index.oracle import recalls
from index.ranking import Side, exact, ranking
from index.record import SCHEMA
from index.store import Index

DIM, KINDS, NAMES, SITES, SAYINGS, K = 384, 400, 100, 50, 180, 10
SEQUENCES, REGIONS = ("T1", "T2", "FLAIR", "PD", "DWI"), ("brain", "spine", "knee", "abdomen")
FILTERS = {"50 %": "age_years < 45", "1 %": "repetition_time_ms < 10", "0.01 %": "echo_time_ms < 0.1"}
MOST_IN_MEMORY = 2_000_000
Table = tuple[str, Sequence[str], list[Sequence[str]]]


class Simulation:
    """The series of an archive, block by block, the same at each run."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
        names = self.draw(rng, NAMES)
        self.kinds = names[np.arange(KINDS) % NAMES] + 0.4 * self.draw(rng, KINDS)
        self.sites = self.draw(rng, SITES)
        self.weights = 1 / (np.arange(KINDS) + 3) / (1 / (np.arange(KINDS) + 3)).sum()
        volumes_lie, texts_lie = unit(self.draw(rng, 1)), unit(self.draw(rng, 1))
        self.offset = 0.7 * volumes_lie
        said = 0.7 * names + 0.5 * self.draw(rng, NAMES) + 0.8 * texts_lie
        self.captions = unit(said[:, None] + 0.25 * self.draw(rng, SAYINGS)).reshape(-1, DIM)

    def draw(self, rng: np.random.Generator, count: int, fall: float = 0.7) -> np.ndarray:
        """float32 (count, DIM), mean square length 1; deviations fall off as direction ** -fall."""
        spectrum = (np.arange(DIM) + 1.0) ** -fall
        spectrum = (spectrum / np.linalg.norm(spectrum)).astype(np.float32)
        return (rng.standard_normal((count, DIM), dtype=np.float32) * spectrum) @ self.turn

    def block(self, number: int, count: int) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
        """Records with all columns of a catalogue, vectors and captions, float32 (count, DIM) each."""
        rng = np.random.default_rng([1, number])
        kind, who, patients = rng.choice(KINDS, count, p=self.weights), np.arange(count) // 8, count // 8 + 1
        site, patient = rng.integers(0, SITES, patients), self.draw(rng, patients)
        saying = rng.integers(0, SAYINGS, patients)[who]
        own = 0.35 * (self.sites[site] + patient)[who] + 0.45 * self.draw(rng, count, 0.4)
        timing = rng.random((2, count)) * 1000
        return (
            records(number, kind, who, saying, timing),
            unit(self.kinds[kind] + own + self.offset),
            self.said(kind, saying),
        )

    def said(self, kind: np.ndarray, saying: np.ndarray) -> np.ndarray:
        return self.captions[kind % NAMES * SAYINGS + saying]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def records(number: int, kind: np.ndarray, who: np.ndarray, saying: np.ndarray, timing: np.ndarray) -> pl.DataFrame:
    """As a scan of NIfTI files gives them; `timing` (2, n) in 0..1000 ms, evenly spread, is there for filters."""
    rows = range(len(kind))
    paths = [
        f"sub-{number:05d}{one:05d}/anat/sub-{number:05d}{one:05d}_run-{row % 8}.nii.gz" for row, one in enumerate(who)
    ]
    known = {
        "series_id": [f"{number:08x}{row:08x}" for row in rows],
        "study_id": [f"{number:08x}{one // 2:08x}" for one in who],
        "patient_id": [f"{number:08x}{one:08x}" for one in who],
        "path": paths,
        "files": [[path] for path in paths],
        "format": ["nifti"] * len(kind),
        "fingerprint": [f"{hash((number, row)) & (2**64 - 1):016x}" for row in rows],
        "sequence": np.array(SEQUENCES)[kind % 5],
        "body_region": np.array(REGIONS)[kind // 5 % 4],
        "age_years": (saying // 2).astype(float),
        "sex": np.array(["F", "M"])[saying % 2],
        "repetition_time_ms": timing[0],
        "echo_time_ms": timing[1],
        "spacing_mm": [[1.0, 1.0, 1.2]] * len(kind),
        "shape": [[256, 256, 160]] * len(kind),
        "affine_mm": [[1.0, 0.0, 0.0, -90.0, 0.0, 1.0, 0.0, -126.0, 0.0, 0.0, 1.2, -72.0, 0.0, 0.0, 0.0, 1.0]]
        * len(kind),
        "report": [f"No abnormality in series {row} of kind {one}." for row, one in zip(rows, kind, strict=True)],
    }
    frame = pl.DataFrame({name: pl.Series(name, known.get(name, [None] * len(kind)), SCHEMA[name]) for name in SCHEMA})
    return frame.with_columns(archive=pl.lit("simulated"))


def made(folder: Path, size: int, simulation: Simulation) -> Index:
    """The index of `size` series in `folder`, in one segment; made where it is not there."""
    place = folder / f"index-{size}"
    if place.exists():
        return Index.open(place)
    partial = folder / f"making-{size}"
    block = max(50_000, size // 40)
    index = Index.create(partial, {"name": "simulated", "hash": "0" * 32, "dim": DIM})
    for number, start in enumerate(range(0, size, block)):
        index.append(*simulation.block(number, min(block, size - start)))
        say(f"{size:,}: {start + block:,} appended")
    index.compact()
    partial.rename(place)
    return Index.open(place)


def race(runners: dict[str, Callable[[int], object]], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each runner at each turn, the best of three; every turn runs all of them on the same query."""
    taken: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(turns):
        for name, run in runners.items():
            taken[name].append(min(timed(lambda run=run, turn=turn: run(turn)) for _ in range(3)) * 1000)
    return taken


def ratio(above: list[float], below: list[float]) -> float:
    """Median over turns of what was timed in the same turn."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def by_numpy(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    scores = vectors @ query
    best = np.argpartition(scores, len(scores) - K)[-K:]
    return best[np.argsort(-scores[best])]


def exact_row(index: Index, queries: np.ndarray, turns: int) -> Sequence[str]:
    """Our layer beside NumPy and FAISS alone, on the same memory-mapped vectors, and FAISS on a copy in memory."""
    import faiss

    vectors = index.segments[0].vectors
    runners: dict[str, Callable[[int], object]] = {
        "ours": lambda turn: exact(index, [Side("vectors", queries[turn])])(K),
        "numpy": lambda turn: by_numpy(vectors, queries[turn]),
        "mapped": lambda turn: faiss.knn(queries[turn][None], vectors, K, metric=faiss.METRIC_INNER_PRODUCT),
    }
    if len(index) <= MOST_IN_MEMORY:
        flat = faiss.IndexFlatIP(DIM)
        flat.add(np.asarray(vectors))
        runners["flat"] = lambda turn: flat.search(queries[turn][None], K)
    taken = race(runners, turns)
    told = [
        f"{statistics.median(taken[name]):.1f}" if name in taken else "-"
        for name in ("numpy", "mapped", "flat", "ours")
    ]
    against = min((name for name in taken if name != "ours"), key=lambda name: statistics.median(taken[name]))
    return (f"{len(index):,}", *told, f"{(ratio(taken['ours'], taken['numpy']) - 1) * 100:+.0f} %", against)


def automatic_rows(index: Index, queries: dict[str, np.ndarray], turns: int) -> list[Sequence[str]]:
    """What is chosen by itself: how long it takes to build, what it finds, how much quicker it is."""
    if automatic(len(index)) == "exact":
        return [(f"{len(index):,}", "exact", *["-"] * 7)]
    note = index.folder / "nearest.seconds"
    if nearest.load(index) is None or not note.is_file():
        say(f"{len(index):,}: building nearest.faiss")
        note.write_text(f"{nearest.rebuild(index)['seconds']:.0f} s")
    told, loaded = nearest.described(index), nearest.load(index)
    kind = f"{told['factory']}, nprobe {told['depth@10']}"
    rows: list[Sequence[str]] = []
    for name, asked in queries.items():
        sides = [[Side("vectors", one)] for one in asked]
        if name == "texts, with tags":
            sides = [[Side("vectors", one, 0.1, 3.0, 4.0), Side("captions", one, 0.1, 3.0, 0.0)] for one in asked]
        exactly, quickly = {}, {}

        def plain(turn: int, found=exactly, sides=sides) -> None:
            found[turn] = exact(index, sides[turn])(K)[0]

        def quick(turn: int, found=quickly, sides=sides) -> None:
            found[turn] = ranking(index, sides[turn], None, loaded)(K)[0]

        taken = race({"exact": plain, "quick": quick}, turns)
        recall = np.mean([recalls(quickly[turn][None], exactly[turn][None]) for turn in range(turns)])
        times = [f"{statistics.median(taken[one]):.1f} ms" for one in ("exact", "quick")]
        size = f"{told['bytes'] / 1e6:,.0f} MB"
        quicker = f"{ratio(taken['exact'], taken['quick']):.0f}"
        rows.append((f"{len(index):,}", kind, note.read_text(), size, name, f"{recall:.4f}", *times, quicker))
    return rows


def filter_row(index: Index, queries: np.ndarray, turns: int) -> Sequence[str]:
    """Filtered queries as multiples of the unfiltered one: the ranking alone, and with the reading of the condition."""
    masks = {name: matching(index, [condition]) for name, condition in FILTERS.items()}
    runners: dict[str, Callable[[int], object]] = {
        "all": lambda turn: exact(index, [Side("vectors", queries[turn])])(K)
    }
    for name, condition in FILTERS.items():
        runners[name] = lambda turn, name=name: exact(index, [Side("vectors", queries[turn])], masks[name])(K)
        runners[f"{name}, where"] = lambda turn, condition=condition: exact(
            index, [Side("vectors", queries[turn])], matching(index, [condition])
        )(K)
    taken = race(runners, turns)
    ratios = [
        f"{ratio(taken[name], taken['all']):.2f}, {ratio(taken[f'{name}, where'], taken['all']):.2f}"
        for name in FILTERS
    ]
    for name, mask in masks.items():
        check_filter(index, queries[0], name, mask)
    return (f"{len(index):,}", f"{statistics.median(taken['all']):.1f} ms", *ratios)


def check_filter(index: Index, query: np.ndarray, name: str, mask: np.ndarray) -> None:
    allowed = np.flatnonzero(mask)
    found = exact(index, [Side("vectors", query)], mask)(K)[0]
    true = np.sort(index.similarity(query)[allowed])[::-1][:K]
    if len(found) != min(K, len(allowed)) or not np.allclose(found, true, atol=1e-5):
        sys.exit(f"{name} of {len(index)} is not exact.")


def deep_row(index: Index, query: np.ndarray) -> Sequence[str]:
    """Seconds of one exact query with many hits."""
    depths = [depth for depth in (10, 1000, 100_000) if depth <= len(index)]
    seconds = [
        min(timed(lambda d=depth: exact(index, [Side("vectors", query)])(d)) for _ in range(3)) for depth in depths
    ]
    return (f"{len(index):,}", *(f"{one:.3f} s" for one in seconds), *["-"] * (3 - len(depths)))


def life_row(index: Index, simulation: Simulation) -> Sequence[str]:
    """Opening, appending 1,000 rows and removing 1,000; medians of five."""
    opened = [timed(lambda: Index.open(index.folder)) for _ in range(5)]
    appended, removed = [], []
    for turn in range(5):
        block = simulation.block(int(time.time()) + turn, 1000)
        appended.append(timed(lambda block=block: Index.open(index.folder).append(*block)))
        gone = Index.open(index.folder)
        names = block[0]["series_id"].to_list()
        removed.append(timed(lambda gone=gone, names=names: gone.remove(names)))
    size = sum(path.stat().st_size for path in (index.folder / "segments").rglob("*"))
    return (
        f"{len(index):,}",
        *(f"{statistics.median(one):.3f} s" for one in (opened, appended, removed)),
        f"{size / 1e6:,.0f} MB",
    )


def tables(folder: Path, sizes: Sequence[int], turns: int) -> list[Table]:
    simulation = Simulation()
    held_out = simulation.block(10**6, 8 * turns)[1][::8].copy()
    rng = np.random.default_rng(3)
    texts = simulation.said(rng.choice(KINDS, turns, p=simulation.weights), rng.integers(0, SAYINGS, turns))
    queries = {"volumes": held_out, "texts": texts, "texts, with tags": texts}
    found: dict[str, list[Sequence[str]]] = {"exact": [], "auto": [], "filter": [], "deep": [], "life": []}
    for size in sizes:
        index = made(folder, size, simulation)
        found["exact"].append(exact_row(index, held_out, turns))
        found["auto"] += automatic_rows(index, queries, turns)
        found["filter"].append(filter_row(index, held_out, turns))
        found["deep"].append(deep_row(index, held_out[0]))
        found["life"].append(life_row(index, simulation))
        del index
        gc.collect()
    return [
        (
            "Exact search, ms a query",
            ("vectors", "NumPy", "FAISS, mapped", "FAISS flat, in memory", "decipher", "over NumPy", "quickest other"),
            found["exact"],
        ),
        (
            "What is chosen by itself",
            ("vectors", "kind", "built in", "file", "queries", "recall@10", "exact", "automatic", "times as quick"),
            found["auto"],
        ),
        (
            "A filter, as a multiple of the unfiltered query (ranking alone, with reading the condition)",
            ("vectors", "unfiltered", *FILTERS),
            found["filter"],
        ),
        ("Many hits, exact", ("vectors", "10", "1,000", "100,000"), found["deep"]),
        ("Life of an index", ("vectors", "open", "append 1,000", "remove 1,000", "segments"), found["life"]),
    ]


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument(
        "--sizes", default="10000,100000,1000000", help="numbers of vectors; 10000000 takes 16 GB of disk"
    )
    options.add_argument("--keep", type=Path, help="a folder in which the indexes stay for another run")
    options.add_argument("--turns", type=int, default=30)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = given.keep or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        for title, head, rows in tables(folder, [int(size) for size in given.sizes.split(",")], given.turns):
            print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
            for row in rows:
                print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
