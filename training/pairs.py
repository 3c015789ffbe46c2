"""Batches of stage align: volumes, texts, and which belong together.

Decisions:
- A share of each batch comes from one body region, so that the negatives are hard: within a region only sequence, age
  and findings tell volumes apart. A region with fewer than two patients is never chosen.
- Series without a report, where others have one, come in a share of their own: stage 1's losses go on for them.
- Texts and their masks are the same on all processes; each holds its share of the volumes, and encodes its share of the
  texts.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from models.config import family_of
from models.decipher import Decipher
from models.errors import DecipherError
from models.prepare import Prepared, collate
from training.augment import quick_variation
from training.captions import match, without_pathology
from training.compute import Compute
from training.config import TrainConfig
from training.crops import CropBatch, crop_batch
from training.data import TrainingSet, generators, rng_of
from training.partners import Partners
from training.pointing import Pointing
from training.recontrast import CONTRASTS, recontrast
from training.views import Spoken, texts_of


@dataclass(frozen=True)
class PairBatch:
    """views: this process's share of the P volumes, each time varied anew; texts or their sentence vectors: its share of the
    T texts; positive and negative (P, T) bool, attributes (P, A) int64, -1 where unknown, same_subject (P, P) bool and
    partner (place in the batch of the patient's other series), family and reports (P,) int64, -1 without, lesions (P, N) bool
    (the tokens that a known lesion touches) and their names, years (P,) float32, NaN where the age is unknown, of the whole
    batch; crops: of the series without text, where there are any; image_only: their share of the batch."""

    views: list[Prepared]
    geometry_known: torch.Tensor
    sentences: torch.Tensor | list[str]
    positive: torch.Tensor
    negative: torch.Tensor
    attributes: torch.Tensor
    same_subject: torch.Tensor
    partner: torch.Tensor
    family: torch.Tensor
    reports: torch.Tensor
    lesions: torch.Tensor
    lesion_names: torch.Tensor | list[str]
    years: torch.Tensor
    crops: CropBatch | None
    image_only: float
    names: list[str]

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        crops = self.crops and self.crops.to(device)
        return replace(self, views=[view.to(device) for view in self.views], crops=crops, **moved)


class PairBatches:
    """What stage align is fed.

    Errors: DecipherError when nothing says what the series show, or all are of one study.
    """

    def __init__(self, data: TrainingSet, model: Decipher, config: TrainConfig) -> None:
        self.data, self.config, self.model = data, config, model
        self.texts, self.spoken = texts_of(data, config), Spoken(model.text)
        reported = self.texts.views.report_of >= 0
        named = match(data.attributes, self.texts.captions.mentions)[0].any(axis=1)
        drawn = data.weights > 0
        _check(data, drawn & (reported | named))
        self.paired = reported | named
        self.silent = drawn & ~reported if (reported & drawn).any() else drawn & ~named
        self.regions = _regions(data, drawn & self.paired)
        brains = (data.rows["body_region"] == "brain") & (data.rows["sequence"] == "T1")
        self.sequence = data.rows["sequence"].to_numpy()
        self.years = data.rows["age_years"].cast(pl.Float32).fill_null(np.nan).to_numpy()
        self.partners = Partners(data, drawn & self.paired) if config.subject_weight > 0 else None
        self.pointing = Pointing(data, model.config) if config.pointing_weight > 0 else None
        self.recontrastable = (brains & (data.rows["origin"] == "archive")).fill_null(False).to_numpy()

    def batch(self, number: int, compute: Compute) -> PairBatch:
        """Batch `number`, this process's share."""
        rng = rng_of(self.config, "align", number)
        silent = self._silent_count(compute.world)
        which, partner = self._draw(rng, self.config.batch_size - silent)
        attributes, sequences = self._contrasts(which, rng)
        reports = np.where(sequences == "", self.texts.views.report_of[which], -1)
        numbers, positive, negative = self.texts.draw(attributes, reports, self.config.texts_per_step, rng)
        own = compute.share(len(which))
        family = self._family(which, sequences, rng)
        lesions = self.pointing.places(which) if self.pointing else torch.zeros(len(which), 0, dtype=torch.bool)
        flips = self.data.may_flip[which] & ~lesions.any(dim=1).numpy()  # a mask would stay behind
        views = self._views(which[own], sequences[own], family[own], flips[own], generators(rng, len(which))[own])
        known = rng.random(len(which)) >= self.config.geometry_dropout
        numbers, positive, negative = _evened(numbers, positive, negative, compute.world)
        subject = self.data.subjects[which]
        return PairBatch(
            views=views,
            geometry_known=torch.from_numpy(known[own]),
            sentences=self.spoken([self.texts.words(int(number)) for number in numbers[compute.share(len(numbers))]]),
            positive=torch.from_numpy(positive),
            negative=torch.from_numpy(negative),
            attributes=torch.from_numpy(attributes.astype(np.int64)),
            same_subject=torch.from_numpy(subject[:, None] == subject[None]),
            partner=torch.from_numpy(partner),
            family=torch.from_numpy(family),
            reports=torch.from_numpy(reports),
            lesions=lesions,
            lesion_names=self.spoken(self.pointing.called(which, rng)) if self.pointing else [],
            years=torch.from_numpy(self.years[which]),
            crops=self._crops(rng, silent, compute) if silent else None,
            image_only=silent / self.config.batch_size,
            names=self.data.rows["series_id"].gather(which[own].tolist()).to_list(),
        )

    def _silent_count(self, world: int) -> int:
        """Volumes of a batch that have no text: a multiple of world."""
        if not self.silent.any() or self.config.image_weight <= 0:
            return 0
        return round(self.config.batch_size * self.config.image_share / world) * world

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows with a text (count,), and the place in the batch of each one's partner (count,), -1 without."""
        partner = np.full(count, -1, dtype=np.int64)
        if self.partners is None:
            return self._rows(rng, count), partner
        half = (count + 1) // 2
        which = np.concatenate([self._rows(rng, half), partner[half:]])
        for place in range(half, count):
            which[place] = self.partners.of(which[place - half], rng)
            if which[place] >= 0:
                partner[place], partner[place - half] = place - half, place
        which[which < 0] = self.data.draw(rng, int((which < 0).sum()), self.paired)
        return which, partner

    def _rows(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Rows with a text (count,): a share from one region, mixed among the rest."""
        near = round(count * self.config.region_share) if self.regions else 0
        rows = [self.data.draw(rng, count - near, self.paired)]
        if near:
            names = list(self.regions)
            often = np.sqrt([(self.data.weights * self.regions[name]).sum() for name in names])
            region = names[rng.choice(len(names), p=often / often.sum())]
            rows.append(self.data.draw(rng, near, self.regions[region]))
        return rng.permutation(np.concatenate(rows))

    def _contrasts(self, which: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Attributes (P, A), and the contrast (P,) that some T1-weighted brains of the archive take instead, else ''."""
        attributes = self.data.attributes[which].copy()
        sequences = np.full(len(which), "", dtype=object)
        chosen = self.recontrastable[which] & (rng.random(len(which)) < self.config.recontrast)
        for place in np.flatnonzero(chosen):
            sequences[place] = str(rng.choice(list(CONTRASTS)))
            attributes[place] = without_pathology(attributes[place], sequences[place])
        return attributes, sequences

    def _family(self, which: np.ndarray, sequences: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(P,) int64: the sequence families that the encoder is told, -1 for a share of them, so that the path of unknown
        sequences learns too."""
        told = [own or known for own, known in zip(sequences, self.sequence[which], strict=True)]
        family = np.array([family_of(name) for name in told], dtype=np.int64)
        hidden = rng.random(len(which)) < self.config.family_dropout if self.model.config.vision.families else False
        return np.where(hidden, -1, family)

    def _views(
        self,
        which: np.ndarray,
        sequences: np.ndarray,
        family: np.ndarray,
        flips: np.ndarray,
        sources: list[torch.Generator],
    ) -> list[Prepared]:
        """Each volume `which` (P,), in the contrast and family given, mirrored only where `flips` (P,) says so."""
        count = 2 if self.config.views_weight > 0 else 1
        views: list[list[Prepared]] = [[] for _ in range(count)]
        for row, sequence, known, flip, source in zip(which, sequences, family, flips, sources, strict=True):
            sample = replace(self.data.sample(row), family=torch.tensor(known))
            if sequence:
                other = recontrast(sample.pixels[0].numpy(), sequence, np.random.default_rng(source.initial_seed()))
                sample = replace(sample, pixels=torch.from_numpy(other)[None])
            for view in views:
                view.append(quick_variation(sample, source, bool(flip)))
        return [collate(view) for view in views]

    def _crops(self, rng: np.random.Generator, count: int, compute: Compute) -> CropBatch:
        rows = self.data.draw(rng, count, self.silent)
        return crop_batch(self.data, rows, generators(rng, count), rng, self.model.config, self.config, compute)


def _check(data: TrainingSet, told: np.ndarray) -> None:
    if not told.any():
        raise DecipherError(
            "Nothing says what the series show: no report, and no known sequence or region.",
            "Bring reports with --reports CSV (path, series_id or study_id; report).",
        )
    studies = data.rows["study_id"].filter(told).n_unique()
    if studies < 2:
        raise DecipherError(
            f"{studies} study to train on: an alignment needs at least two to tell apart.",
            "Say which study each file is of in labels.csv (path, study_id), or add phantoms: --set phantom_patients=50",
        )


def _regions(data: TrainingSet, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """Body regions of at least two patients, and their rows (n,) bool."""
    region = data.rows["body_region"].fill_null("").to_numpy()
    found = {name: drawn & (region == name) for name in np.unique(region[drawn]) if name}
    return {name: rows for name, rows in found.items() if len(np.unique(data.subjects[rows])) > 1}


def _evened(
    numbers: np.ndarray, positive: np.ndarray, negative: np.ndarray, world: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts filled up to a multiple of world with ones that are neither positive nor negative of any volume."""
    more = -len(numbers) % world
    blank = np.zeros((len(positive), more), dtype=bool)
    return np.r_[numbers, numbers[:more]], np.hstack([positive, blank]), np.hstack([negative, blank])
