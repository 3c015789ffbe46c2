"""Every figure of encoders on labelled series, by name.

Decisions
- Several encoders, each on the rows it did not see, give one figure: their answers are pooled.
- Probes learn on labelled series of other patients, by the vectors of the encoder that is judged: on those left out of it,
  where it is the only one, or on all.
"""

from collections.abc import Callable
from functools import cache, partial
from math import isfinite

import numpy as np
from boxes import Boxes
from encoded import Encoding
from measured import Arm, Measured, average, judged_rows
from neighbours import same, siblings
from questions import CHOICES, PROBES
from spoken import pointing, text_to_series, zero_shot

from index.record import subjects
from models.errors import DecipherError
from training.judge import Judge
from training.probe import ProbeResult, fit_probe

Way = Callable[[], Measured | None]


def figures(boxes: Boxes, arm: Arm) -> dict[str, Measured]:
    """Every figure that these rows and vectors have."""
    ways = _spoken(boxes, arm) | _beside(boxes, arm, False)
    if not judged_rows(arm).all():
        ways |= {f"{name}, among all series": way for name, way in _beside(boxes, arm, True).items()}
    found = {name: way() for name, way in ways.items()}
    return {name: one for name, one in found.items() if one is not None and isfinite(one.chance)}


def _spoken(boxes: Boxes, arm: Arm) -> dict[str, Way]:
    if not arm[0].encoding.words:
        return {}
    asked: dict[str, Way] = {name: partial(zero_shot, boxes, arm, choice) for name, choice in CHOICES.items()}
    return asked | {
        "text P@10": partial(text_to_series, boxes, arm),
        "pointing into lesions": partial(pointing, boxes, arm, above=False),
        "pointing into lesions, above chance": partial(pointing, boxes, arm, above=True),
    }


def _beside(boxes: Boxes, arm: Arm, everyone: bool) -> dict[str, Way]:
    near: dict[str, Way] = {
        "same region P@5": partial(same, boxes, arm, everyone, ("body_region",)),
        "same region and sequence P@5": partial(same, boxes, arm, everyone, ("body_region", "sequence")),
        "same subject, other sequence, R@5": partial(siblings, boxes, arm, everyone, apart=False),
        "the same, not co-registered, R@5": partial(siblings, boxes, arm, everyone, apart=True),
    }
    return near | {name: partial(probe, boxes, arm, everyone, *asked) for name, asked in PROBES.items()}


@cache
def _probed(boxes: Boxes, encoding: Encoding, rows: tuple[int, ...], column: str, seed: int) -> ProbeResult | None:
    if column not in boxes.records.columns:
        return None
    records, vectors = boxes.records[list(rows)], encoding.vectors[list(rows)]
    try:
        return fit_probe(vectors, records[column].to_list(), subjects(records), task=column, seed=seed)
    except DecipherError:  # too few classes or patients
        return None


def probe(boxes: Boxes, arm: Arm, everyone: bool, column: str, metric: str, draws: int) -> Measured | None:
    """What a linear probe tells of judged rows, the mean over divisions into folds; everyone: it learns on all series."""
    among = tuple(range(len(boxes.labels)) if everyone else np.flatnonzero(arm[0].judged).tolist())
    first = _probed(boxes, arm[0].encoding, among, column, 0)
    if first is None or (len(arm) > 1 and not everyone):
        return None
    judged = judged_rows(arm)[np.array(among)[first.rows]]
    if not judged.any():
        return None
    judge, rows = Judge(first.kind, first.classes, first.target, first.who, 0), np.flatnonzero(judged)
    scores = [judge.scores(_pooled(boxes, arm, among, column, seed), rows)[metric] for seed in range(draws)]
    trivial = judge.scores(judge.trivial(), rows)[metric](None)
    return Measured(first.who[rows], average(scores), float(trivial))


def _pooled(boxes: Boxes, arm: Arm, among: tuple[int, ...], column: str, seed: int) -> np.ndarray:
    """Out-of-fold outputs of the rows whose label is known, each by the encoder that is judged on it."""
    results = [one for fold in arm if (one := _probed(boxes, fold.encoding, among, column, seed)) is not None]
    outputs = results[0].outputs.copy()
    for fold, one in zip(arm, results, strict=True):
        own = fold.judged[np.array(among)[one.rows]]
        outputs[own] = one.outputs[own]
    return outputs
