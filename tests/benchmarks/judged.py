"""What the benchmarks that compare trained arms share: what is asked, volumes that no arm saw, figures with intervals."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from index.labelled import read_archive
from index.record import subjects
from models.config import PrepareConfig
from models.decipher import Decipher
from models.prepare import Prepared, collate
from training.health import hits_at
from training.metrics import bootstrap, mean
from training.shards import Making, Shard, archive_shard, open_shard
from training.views import text_vectors


def arguments(about: str | None, patients: int, test_patients: int) -> argparse.ArgumentParser:
    """The options that both have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--hold", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=patients)
    parser.add_argument("--test-patients", type=int, default=test_patients)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="KEY=VALUE for all arms")
    return parser


def making(out: Path, seed: int) -> Making:
    """How shards are made below `out`, in silence."""
    return Making(out / "shards", PrepareConfig(), seed, lambda *_: None, lambda text: None)


@dataclass(frozen=True)
class Test:
    """Volumes that no arm saw, and what is true of them."""

    name: str
    shard: Shard

    @property
    def rows(self) -> pl.DataFrame:
        return self.shard.rows

    @property
    def groups(self) -> np.ndarray:
        return np.array(subjects(self.rows))

    def samples(self, rows: Sequence[int]) -> list[Prepared]:
        return [self.shard.sample(int(row)) for row in rows]

    def vectors(self, model: Decipher) -> np.ndarray:
        """float64 (n, dim) of unit length."""
        parts = []
        for start in range(0, self.rows.height, 8):
            batch = collate(self.samples(range(start, min(start + 8, self.rows.height))))
            parts.append(model.encode_prepared(batch).volume.numpy())
        return np.concatenate(parts).astype(np.float64)


def records_of(data: Path, hold: str, held: bool) -> tuple[pl.DataFrame, Path]:
    """The records of an archive that are held out of training, or all others; and the archive's root."""
    words = [word.strip() for word in hold.split(",") if word.strip()]
    found = read_archive(data)
    place = (pl.col("source").fill_null("") + " " + pl.col("path")).str
    names = pl.any_horizontal([place.contains(word, literal=True) for word in words])
    return found.records.filter(names if held else ~names), found.root


def left_out(data: Path, hold: str, made: Making) -> Test:
    """The series whose source names a word of `hold`."""
    records, root = records_of(data, hold, held=True)
    return Test("left-out sources", open_shard(archive_shard(root, records, 1, made)))


@dataclass(frozen=True)
class Judged:
    """One figure of one arm and seed: what weights (tries, n) over its witnesses give, and whose witnesses they are."""

    groups: np.ndarray
    score: Callable[[np.ndarray | None], np.ndarray | float]


def value(judged: Sequence[Judged]) -> str:
    """Mean over seeds, with a 95 % interval over patients."""
    low, high = bootstrap(judged[0].groups, lambda w: np.mean([j.score(w) for j in judged], axis=0))
    return f"{np.mean([j.score(None) for j in judged]):.2f} ({low:.2f} to {high:.2f})"


def gain(pairs: Sequence[tuple[Judged, Judged]]) -> str:
    """Mean difference over seeds with its interval, and the difference of each seed."""
    each = [float(a.score(None)) - float(b.score(None)) for a, b in pairs]
    low, high = bootstrap(pairs[0][0].groups, lambda w: np.mean([a.score(w) - b.score(w) for a, b in pairs], axis=0))
    return f"{np.mean(each):+.3f} ({low:+.3f} to {high:+.3f}) | {', '.join(f'{e:+.2f}' for e in each)}"


def retrieval(test: Test, vectors: np.ndarray, model: Decipher) -> Judged:
    """Report to volume, recall@5."""
    reports = test.rows["report"].unique(maintain_order=True).drop_nulls().to_list()
    texts = text_vectors(reports, model.encode_texts, model.config.dim).numpy().astype(np.float64)
    relevant = np.array([[text == own for own in test.rows["report"]] for text in reports])
    hits = hits_at(texts @ vectors.T, relevant, 5).astype(float)
    return Judged(test.groups[relevant.argmax(axis=1)], lambda w: mean(hits, w))
