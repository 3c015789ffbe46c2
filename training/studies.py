"""Batches of stage detect: studies, each as the series of several sequences that it has.

Decisions
- A study brings at most one series of each sequence family, drawn anew each time among its series and their versions;
  some are left out at random, so that a study with fewer is nothing new. At least one stays.
- A batch counts series, as everywhere: it holds batch_size / study_series studies.
- Studies that can tell of none of the findings are not drawn.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models.config import family_of
from models.decipher import Decipher
from models.errors import DecipherError
from models.prepare import Prepared, collate
from training.augment import quick_variation
from training.compute import Compute
from training.config import TrainConfig
from training.data import TrainingSet, generators, rng_of
from training.shards import kept_as
from training.study_labels import label_matrix, study_findings


@dataclass(frozen=True)
class StudyBatch:
    """volumes: the n series of this process's studies; study, slot (n,) int64: where each belongs; count: studies of this
    process; labels (B, F) float32 and known (B, F) bool of the whole batch."""

    volumes: Prepared
    study: torch.Tensor
    slot: torch.Tensor
    count: int
    labels: torch.Tensor
    known: torch.Tensor
    names: list[str]

    def to(self, device: torch.device) -> "StudyBatch":
        """The same batch on `device`."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, volumes=self.volumes.to(device), **moved)


class StudyBatches:
    """What stage detect is fed.

    Errors: DecipherError where no study is labelled.
    """

    def __init__(self, data: TrainingSet, model: Decipher, config: TrainConfig) -> None:
        assert model.detector is not None
        self.data, self.config = data, config
        found = study_findings(data.rows, kept_as(config.findings))
        self.family = np.array([family_of(name) for name in data.rows["sequence"]], dtype=np.int64)
        targets = model.detector.config.targets
        rows = {study: rows for study, rows in _rows_of(data).items() if study in found}
        rows = {study: of_it for study, of_it in rows.items() if any(map(found[study].knows, targets))}
        if not rows:
            raise DecipherError("No study to train on says what it has.", "Bring reports with --reports CSV.")
        self.labels, self.known = label_matrix([found[study] for study in rows], targets)
        self.members = list(rows.values())
        weight = np.array([data.weights[of_it].sum() for of_it in self.members])
        self.weights = weight / weight.sum()

    def batch(self, number: int, compute: Compute) -> StudyBatch:
        """Batch `number`, this process's share."""
        rng, config = rng_of(self.config, "detect", number), self.config
        count = max(compute.world, config.batch_size // config.study_series // compute.world * compute.world)
        which = rng.choice(len(self.members), count, p=self.weights)
        chosen = [self._choose(self.members[study], rng) for study in which]
        sources = [generators(rng, config.study_series) for _ in which]
        own = compute.share(count)
        places = [(study, slot) for study, rows in enumerate(chosen[own]) for slot in range(len(rows))]
        rows = [row for part in chosen[own] for row in part]
        volumes = [self._volume(r, sources[own][a][b]) for r, (a, b) in zip(rows, places, strict=True)]
        study, slot = torch.tensor(places).T
        return StudyBatch(
            volumes=collate(volumes),
            study=study,
            slot=slot,
            count=len(chosen[own]),
            labels=torch.from_numpy(self.labels[which]),
            known=torch.from_numpy(self.known[which]),
            names=self.data.rows["series_id"].gather(rows).to_list(),
        )

    def _choose(self, rows: np.ndarray, rng: np.random.Generator) -> list[int]:
        """One row of each family of a study, some left out, at most study_series."""
        families = rng.permutation(np.unique(self.family[rows]))[: self.config.study_series]
        stays = rng.random(len(families)) >= self.config.series_dropout
        stays[0] = stays[0] or not stays.any()
        return [int(rng.choice(rows[self.family[rows] == family])) for family in families[stays]]

    def _volume(self, row: int, source: torch.Generator) -> Prepared:
        return quick_variation(self.data.sample(row), source, bool(self.data.may_flip[row]))


def _rows_of(data: TrainingSet) -> dict[str, np.ndarray]:
    """The rows of each study that may be drawn."""
    found: dict[str, list[int]] = {}
    for row, (study, weight) in enumerate(zip(data.rows["study_id"], data.weights, strict=True)):
        if weight > 0:
            found.setdefault(study, []).append(row)
    return {study: np.array(rows) for study, rows in found.items()}
