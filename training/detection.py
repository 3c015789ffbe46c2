"""A detector applied to studies, and how right it is.

Decisions
- A study brings one series of each sequence family: the one with most voxels. Further series of a family are left out, and
  counted; series of unknown sequence stand for one family together, the encoder's shared path.
- Figures are of the studies that can tell: those that show the organ's region. Intervals resample patients. Beside each figure
  stands what no detector would give: the share of studies with the finding for AUPRC, the larger class for accuracy.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch

from index.contents import Contents
from index.record import subjects
from models.config import family_of
from models.decipher import Decipher
from models.fusion import Target
from models.prepare import Prepared, collate
from training.metrics import auprc, auroc, balanced_accuracy, bootstrap, mean
from training.objectives.detect import by_study


@dataclass(frozen=True)
class Study:
    """subject: who it is about (index.record.subjects); series: the records that stand for it, one a family; left_out: how
    many more there are."""

    study_id: str
    subject: str
    series: list[dict[str, Any]]
    left_out: int


@dataclass(frozen=True)
class Detected:
    """probabilities (F,) of the detector's targets, None where no series could be read; unread: why, a sentence a series."""

    study: Study
    probabilities: np.ndarray | None
    unread: list[str]


def studies_in(records: pl.DataFrame) -> list[Study]:
    """The studies of a catalogue, in its order."""
    found = []
    told = records.with_columns(subject=pl.Series(subjects(records), dtype=pl.Utf8))
    for (study_id,), part in told.group_by("study_id", maintain_order=True):
        rows = sorted(part.iter_rows(named=True), key=lambda row: -math.prod(row["shape"]))
        chosen: dict[int, dict[str, Any]] = {}
        for row in rows:
            chosen.setdefault(family_of(row["sequence"]), row)
        found.append(Study(str(study_id), rows[0]["subject"], list(chosen.values()), len(rows) - len(chosen)))
    return found


def detect(
    model: Decipher, contents: Contents, studies: Sequence[Study], progress: Callable[[int, int], None]
) -> Iterator[Detected]:
    """Each study through the model's detector."""
    read = contents.prepared_all([study.series for study in studies], model.config.prepare)
    for done, (study, found) in enumerate(zip(studies, read, strict=True), start=1):
        series = [one for one in found if not isinstance(one, str)]
        unread = [one for one in found if isinstance(one, str)]
        yield Detected(study, study_probabilities(model, series) if series else None, unread)
        progress(done, len(studies))


@torch.inference_mode()
def study_probabilities(model: Decipher, series: Sequence[Prepared]) -> np.ndarray:
    """(F,) float64, from the prepared series of one study."""
    assert model.detector is not None
    batch = collate(list(series)).to(next(model.parameters()).device)
    place = torch.arange(len(series), device=batch.pixels.device)
    laid = by_study(model.vision(batch), batch.family, torch.zeros_like(place), place, (1, len(series)))
    return model.detector(laid)[0].double().sigmoid().cpu().numpy()


def detection_figures(
    targets: Sequence[Target], probabilities: np.ndarray, labels: np.ndarray, known: np.ndarray, patients: np.ndarray
) -> list[dict[str, Any]]:
    """A row a finding, then one an organ and one over all, as means over their findings: organ, finding, n, positive and
    metrics {name: {value, low, high}} of auroc, auprc, accuracy, balanced_accuracy, with baselines {name: value}.

    probabilities, labels, known (n, F); patients (n,). Findings that all or no studies have are left out.
    """
    scored = [i for i in range(len(targets)) if len(np.unique(labels[known[:, i], i])) == 2]
    rows = [_row(targets[i].organ, targets[i].name, [i], probabilities, labels, known, patients) for i in scored]
    organs = dict.fromkeys(targets[i].organ for i in scored)
    for organ in organs if len(organs) < len(scored) else []:
        of_it = [i for i in scored if targets[i].organ == organ]
        rows.append(_row(organ, "all", of_it, probabilities, labels, known, patients))
    if len(scored) > 1:
        rows.append(_row("all", "all", scored, probabilities, labels, known, patients))
    return rows


def _row(
    organ: str, finding: str, of: list[int], outputs: np.ndarray, labels: np.ndarray, known: np.ndarray, who: np.ndarray
) -> dict[str, Any]:
    parts = [(known[:, i], labels[known[:, i], i], outputs[known[:, i], i]) for i in of]

    def over(metric: str, weights: np.ndarray | None) -> Any:
        with np.errstate(invalid="ignore"):
            each = [METRICS[metric](y, p, None if weights is None else weights[..., rows]) for rows, y, p in parts]
            values = np.stack([np.asarray(e, dtype=float) for e in each])
            return np.nansum(values, axis=0) / (~np.isnan(values)).sum(axis=0)

    found = {}
    for name in METRICS:
        low, high = bootstrap(who, partial(over, name))
        found[name] = {"value": float(over(name, None)), "low": low, "high": high}
    shares = [float(y.mean()) for _, y, _ in parts]
    return {
        "organ": organ,
        "finding": finding,
        "n": int(known[:, of].any(axis=1).sum()),
        "positive": int((labels * known)[:, of].any(axis=1).sum()),
        "metrics": found,
        "baselines": {"auroc": 0.5, "auprc": float(np.mean(shares)), "balanced_accuracy": 0.5,
                      "accuracy": float(np.mean([max(s, 1 - s) for s in shares]))},
    }  # fmt: skip


def _accuracy(truth: np.ndarray, graded: np.ndarray, weights: np.ndarray | None = None) -> Any:
    return mean(((graded > 0.5) == (truth > 0.5)).astype(float), weights)


def _balanced(truth: np.ndarray, graded: np.ndarray, weights: np.ndarray | None = None) -> Any:
    return balanced_accuracy(truth, (graded > 0.5).astype(truth.dtype), weights)


METRICS: dict[str, Callable[..., Any]] = {
    "auroc": auroc, "auprc": auprc, "accuracy": _accuracy, "balanced_accuracy": _balanced,
}  # fmt: skip
