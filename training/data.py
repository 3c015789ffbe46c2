"""Batches for the training loop: a pure function of (seed, stage, step), so that a resumed run sees the same data.

Decisions:
- Rows are drawn so that rare combinations of sequence and region come up more often than they lie in the archive (by
  the square root of their frequency), and phantom patients by a fixed share.
- Texts of a step: one of each volume's own (its report, or a caption that is true of it), and a draw of all captions.
  Sentence vectors of the frozen text base are computed once.
"""

import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from index.record import subjects
from models.decipher import Decipher
from models.errors import DecipherError
from models.prepare import Prepared
from training.augment import quick_variation
from training.captions import Captions, attributes_of, make_captions, match, without_pathology
from training.config import TrainConfig
from training.recontrast import CONTRASTS, recontrast
from training.shards import Shard

Autocast = Callable[[], AbstractContextManager]
"""opens the context in which encoders may compute in half precision; losses are always computed in full"""


@dataclass(frozen=True)
class Batch:
    """views: the same B volumes, each time varied anew; sentences (T, W) with positive and negative (B, T) bool;
    attributes (B, A) int64, -1 where unknown; same_subject (B, B) bool; geometry_known (B,) bool; generator: for what the
    objective draws itself."""

    views: list[Prepared]
    sentences: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor
    attributes: torch.Tensor
    same_subject: torch.Tensor
    geometry_known: torch.Tensor
    generator: torch.Generator

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`; the generator stays where it is."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, views=[view.to(device) for view in self.views], **moved)


@dataclass(frozen=True)
class TrainingSet:
    """All shards behind one row number; `weights` (n,) sum to 1 and say how often a row is drawn."""

    shards: list[Shard]
    rows: pl.DataFrame
    weights: np.ndarray
    attributes: np.ndarray
    captions: Captions
    caption_vectors: torch.Tensor
    report_vectors: torch.Tensor
    report_of: np.ndarray
    report_owner: np.ndarray
    subjects: np.ndarray
    recontrastable: np.ndarray
    config: TrainConfig

    def batch(self, stage: str, step: int) -> Batch:
        """The batch of a step."""
        seed = [self.config.seed, zlib.crc32(stage.encode()), step]
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        which = rng.choice(len(self.weights), self.config.batch_size, p=self.weights)
        prepared, attributes, reports = self._take(which), self.attributes[which].copy(), self.report_of[which].copy()
        self._recontrast(which, prepared, attributes, reports, rng)
        count = 2 if stage == "vision" or self.config.views_weight > 0 else 1
        views = [quick_variation(prepared, generator) for _ in range(count)]
        sentences, positive, negative = self._texts(attributes, reports, rng)
        subject = self.subjects[which]
        return Batch(
            views=views,
            sentences=sentences,
            positive=torch.from_numpy(positive),
            negative=torch.from_numpy(negative),
            attributes=torch.from_numpy(attributes.astype(np.int64)),
            same_subject=torch.from_numpy(subject[:, None] == subject[None]),
            geometry_known=torch.rand(len(which), generator=generator) >= self.config.geometry_dropout,
            generator=generator,
        )

    def _take(self, which: np.ndarray) -> Prepared:
        starts = np.cumsum([0, *(s.rows.height for s in self.shards)])
        owner = np.searchsorted(starts, which, side="right") - 1
        order = np.argsort(owner, kind="stable")
        parts = [self.shards[o].take(which[owner == o] - starts[o]) for o in np.unique(owner)]
        back = torch.from_numpy(np.argsort(order))
        fields = ("pixels", "content", "geometry", "affine_mm")
        return Prepared(*(torch.cat([getattr(p, f) for p in parts])[back] for f in fields))

    def _recontrast(
        self,
        which: np.ndarray,
        prepared: Prepared,
        attributes: np.ndarray,
        reports: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """In place: some T1-weighted brains of the archive take another contrast, and lose what no longer holds."""
        for place in np.flatnonzero(self.recontrastable[which] & (rng.random(len(which)) < self.config.recontrast)):
            sequence = str(rng.choice(list(CONTRASTS)))
            pixels = recontrast(prepared.pixels[place, 0].numpy(), sequence, rng)
            prepared.pixels[place, 0] = torch.from_numpy(pixels)
            attributes[place] = without_pathology(attributes[place], sequence)
            reports[place] = -1

    def _texts(
        self, attributes: np.ndarray, reports: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Sentence vectors (T, W), positive and negative (B, T)."""
        true, _ = match(attributes, self.captions.mentions)
        own = [int(rng.choice(np.flatnonzero(t))) if t.any() else int(rng.integers(len(t))) for t in true]
        chosen = np.concatenate([own, rng.choice(len(self.captions.texts), self.config.texts_per_step)])
        positive, negative = match(attributes, self.captions.mentions[chosen])
        told = np.unique(reports[reports >= 0])
        mine = reports[:, None] == told[None]
        differs = self._report_differs(attributes, told)
        sentences = torch.cat([self.caption_vectors[chosen], self.report_vectors[told]])
        return sentences, np.hstack([positive, mine]), np.hstack([negative, differs & ~mine])

    def _report_differs(self, attributes: np.ndarray, reports: np.ndarray) -> np.ndarray:
        """(B, R): true unless all attributes known on both sides agree, and at least two are."""
        image, text = attributes[:, None], self.attributes[self.report_owner[reports]][None]
        both = (image >= 0) & (text >= 0)
        return (both & (image != text)).any(-1) | (both.sum(-1) < 2)


def training_set(shards: list[Shard], model: Decipher, config: TrainConfig) -> TrainingSet:
    """Shards, captions and reports made ready to draw from.

    Errors: DecipherError when no row is left to train on.
    """
    rows = pl.concat([s.rows for s in shards])
    weights = _draw_weights(rows, config)
    captions = make_captions(config.captions, config.seed)
    texts = rows["report"].unique(maintain_order=True).drop_nulls().to_list()
    place = {text: number for number, text in enumerate(texts)}
    report_of = np.array([place.get(t, -1) for t in rows["report"].to_list()])
    attributes = np.stack([attributes_of(row) for row in rows.iter_rows(named=True)])
    brains = (pl.col("origin") == "archive") & (pl.col("body_region") == "brain") & (pl.col("sequence") == "T1")
    return TrainingSet(
        shards=shards,
        rows=rows,
        weights=weights,
        attributes=attributes,
        captions=captions,
        caption_vectors=sentence_vectors(model, captions.texts),
        report_vectors=sentence_vectors(model, texts),
        report_of=report_of,
        report_owner=np.array([int(np.argmax(report_of == number)) for number in range(len(texts))], dtype=int),
        subjects=np.array(subjects(rows)),
        recontrastable=rows.select(brains.fill_null(False)).to_series().to_numpy(),
        config=config,
    )


def sentence_vectors(model: Decipher, texts: list[str]) -> torch.Tensor:
    """Frozen sentence vectors (T, W), in blocks of similar length."""
    found = torch.zeros(len(texts), model.text.base.width)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), 64):
        block = order[start : start + 64]
        found[block] = model.text.sentences([texts[i] for i in block]).cpu()
    return found


def _draw_weights(rows: pl.DataFrame, config: TrainConfig) -> np.ndarray:
    allowed = np.ones(rows.height, dtype=bool)
    place = (rows["source"].fill_null("") + " " + rows["path"].fill_null("")).to_list()
    for word in filter(None, (w.strip() for w in config.skip_sources.split(","))):
        allowed &= np.array([word not in p for p in place])
    if config.redistributable_only:
        allowed &= (rows["redistributable"].fill_null("") != "no").to_numpy()
    phantom = (rows["origin"] == "phantom").to_numpy()
    kind = (rows["sequence"].fill_null("?") + "/" + rows["body_region"].fill_null("?")).to_numpy()
    weights = np.zeros(rows.height)
    shares = {True: config.phantom_share, False: 1 - config.phantom_share}
    for origin, share in shares.items():
        mine = allowed & (phantom == origin)
        _, inverse, counts = np.unique(kind[mine].astype(str), return_inverse=True, return_counts=True)
        weight = 1 / np.sqrt(counts)[inverse] if mine.any() else np.zeros(0)
        weights[mine] = share * weight / weight.sum() if mine.any() else 0.0
    if weights.sum() == 0:
        raise DecipherError(
            "No series is left to train on.", "Check skip_sources, redistributable_only and phantom_share."
        )
    return weights / weights.sum()
