"""The volumes that training draws from: prepared shards behind one row number, and how often each row comes up.

Decisions:
- Everything random in a batch is a pure function of (seed, stage, number of the batch), and within it of the sample's
  place: a resumed run sees the same data, and so does a run on another number of processes.
- Rows are drawn so that rare combinations of sequence and region come up more often than they lie in the archive (by
  the square root of their frequency), and phantom patients by a fixed share.
- Some patients are never trained on, so that the frozen checks are honest; where they would have too few series to say
  anything, none are kept.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from index.record import subjects
from models.errors import DecipherError
from models.prepare import Prepared
from training.captions import ATTRIBUTES, attributes_of
from training.config import TrainConfig
from training.preparing import HEAD, PHANTOM
from training.shards import Shard
from training.side import names_side

IMAGES = "images"
"""origin of the volumes of an archive of which nothing else is to be known"""
FEWEST_KEPT = 16
"""series that a check needs to say anything"""


@dataclass(frozen=True)
class TrainingSet:
    """rows: one a stored volume; weights (n,) sum to 1 and say how often a row is drawn, 0 for those held out;
    attributes (n, A) int16, -1 where unknown; subjects (n,); may_flip (n,) bool, false where a report names a side."""

    shards: list[Shard]
    rows: pl.DataFrame
    weights: np.ndarray
    held_out: np.ndarray
    attributes: np.ndarray
    subjects: np.ndarray
    may_flip: np.ndarray

    def draw(self, rng: np.random.Generator, count: int, among: np.ndarray | None = None) -> np.ndarray:
        """`count` row numbers by weight, with replacement; among (n,) bool narrows the choice."""
        weights = self.weights if among is None else self.weights * among
        return rng.choice(len(weights), count, p=weights / weights.sum())

    def sample(self, row: int) -> Prepared:
        """One stored volume, without a batch axis."""
        shard, place = self._stored(row)
        return shard.sample(place)

    def lesion(self, row: int) -> np.ndarray | None:
        """Its voxels (I, J, K) bool that are lesion, None where that is not known or there is none."""
        shard, place = self._stored(row)
        return shard.lesion(place)

    def _stored(self, row: int) -> tuple[Shard, int]:
        """The shard that holds a row, and the row's number in it."""
        place = int(row)
        for shard in self.shards:
            if place < shard.rows.height:
                return shard, place
            place -= shard.rows.height
        raise IndexError(row)


def rng_of(config: TrainConfig, stage: str, number: int) -> np.random.Generator:
    """The source of all that is random in batch `number` of a stage."""
    return np.random.default_rng([config.seed, zlib.crc32(stage.encode()), number])


def generators(rng: np.random.Generator, count: int) -> list[torch.Generator]:
    """One torch generator a sample, each seeded from rng."""
    return [torch.Generator().manual_seed(int(seed)) for seed in rng.integers(2**62, size=count)]


def training_set(shards: list[Shard], config: TrainConfig) -> TrainingSet:
    """All shards made ready to draw from.

    Errors: DecipherError when no row is left to train on.
    """
    rows = pl.concat([s.rows for s in shards])
    who = np.array(subjects(rows))
    allowed = _allowed(rows, config)
    held_out = allowed & _held_out(rows, who, allowed, config)
    return TrainingSet(
        shards=shards,
        rows=rows,
        weights=_draw_weights(rows, allowed & ~held_out, config),
        held_out=held_out,
        attributes=_attributes(rows),
        subjects=who,
        may_flip=np.array([not names_side(text) for text in rows["report"].to_list()]),
    )


def _attributes(rows: pl.DataFrame) -> np.ndarray:
    """(n, A) int16; nothing is known of series that are there for their images alone."""
    found = np.array([attributes_of(row) for row in rows.iter_rows(named=True)], dtype=np.int16)
    found = found.reshape(-1, len(ATTRIBUTES))
    found[(rows["origin"] == IMAGES).to_numpy()] = -1
    return found


def _allowed(rows: pl.DataFrame, config: TrainConfig) -> np.ndarray:
    """(n,) bool: the rows that the settings let in."""
    allowed = np.ones(rows.height, dtype=bool)
    place = (rows["source"].fill_null("") + " " + rows["path"].fill_null("")).to_list()
    for word in filter(None, (w.strip() for w in config.skip_sources.split(","))):
        allowed &= np.array([word not in p for p in place])
    if config.redistributable_only:
        allowed &= (rows["redistributable"].fill_null("") != "no").to_numpy()
    return allowed


def _held_out(rows: pl.DataFrame, who: np.ndarray, allowed: np.ndarray, config: TrainConfig) -> np.ndarray:
    """(n,) bool: the rows of the patients that are kept for the checks; which ones follows from their ids and the seed."""
    patients = np.unique(who[allowed])
    order = sorted(patients, key=lambda name: zlib.crc32(f"{config.seed} {name}".encode()))
    kept = np.isin(who, order[: round(config.holdout * len(order))])
    series = rows["series_id"].filter(allowed & kept).n_unique()
    return kept if series >= FEWEST_KEPT else np.zeros(len(who), dtype=bool)


def _draw_weights(rows: pl.DataFrame, allowed: np.ndarray, config: TrainConfig) -> np.ndarray:
    origin = rows["origin"].to_numpy()
    shares = {PHANTOM: config.phantom_share, HEAD: config.head_share}
    shares = {name: share for name, share in shares.items() if (allowed & (origin == name)).any()}
    kind = (rows["sequence"].fill_null("?") + "/" + rows["body_region"].fill_null("?")).to_numpy()
    weights = np.zeros(rows.height)
    made = np.isin(origin, list(shares))
    for name, share in [*shares.items(), ("", 1 - sum(shares.values()))]:
        mine = allowed & (origin == name if name else ~made)
        _, inverse, counts = np.unique(kind[mine].astype(str), return_inverse=True, return_counts=True)
        weight = 1 / np.sqrt(counts)[inverse] if mine.any() else np.zeros(0)
        weights[mine] = share * weight / weight.sum() if mine.any() else 0.0
    if rows.height and weights.sum() == 0:
        raise DecipherError(
            "No series is left to train on.", "Check skip_sources, redistributable_only and phantom_share."
        )
    return weights / max(weights.sum(), np.finfo(float).tiny)
