"""How good written reports are, beside the nearest real report of another patient.

Decisions
- The same figures for both, and for their difference, with intervals over patients: a writer that is no better than the nearest
  report has earned nothing.
- Words are compared by BLEU-4, ROUGE-L and METEOR, what is said by findings: F1 of those affirmed, agreement where both deny or
  affirm one, agreement of sides.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from training.metrics import Score, bootstrap, mean
from training.report_scores import agreement_f1, agreement_share, label_agreement, text_scores

Measured = dict[str, Callable[[np.ndarray | None], Score]]


def report_figures(
    written: Sequence[str], nearest: Sequence[str], real: Sequence[str], regions: Sequence[str | None], who: np.ndarray
) -> list[dict[str, Any]]:
    """A row a figure: metric, and written, nearest and gain, each {value, low, high}; of n reports of the patients who (n,)."""
    ours, theirs = (_measured(texts, real, regions) for texts in (written, nearest))
    rows = []
    for name, score in ours.items():
        other = theirs[name]
        gain = partial(_difference, score, other)
        rows.append(
            {"metric": name, "written": _said(score, who), "nearest": _said(other, who), "gain": _said(gain, who)}
        )
    return rows


def _measured(texts: Sequence[str], real: Sequence[str], regions: Sequence[str | None]) -> Measured:
    counts = label_agreement(texts, real, regions)
    found: Measured = {name: partial(mean, values) for name, values in text_scores(texts, real).items()}
    found["findings_f1"] = partial(agreement_f1, counts)
    found["negation"] = partial(agreement_share, counts, "denied")
    found["side"] = partial(agreement_share, counts, "side")
    return found


def _difference(first: Callable[..., Score], second: Callable[..., Score], weights: np.ndarray | None = None) -> Score:
    return first(weights) - second(weights)


def _said(score: Callable[..., Score], who: np.ndarray) -> dict[str, float | None]:
    low, high = bootstrap(who, score)
    figures = {"value": float(score(None)), "low": low, "high": high}
    return {name: None if value != value else value for name, value in figures.items()}
