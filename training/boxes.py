"""Lesions as boxes with a score: found in a map of probabilities, matched with the true ones, and how good many cases are.

Decisions:
- A candidate is a component of the map above the threshold, its score the largest probability in it, as the detection maps
  of PI-CAI have it (Saha et al., 2024).
- A candidate hits a lesion where their boxes overlap by an IoU of 0.1, the level of Retina U-Net and nnDetection (Jaeger et
  al., 2020; Baumgartner et al., 2021): of a lesion a few voxels wide, the border is as wide as the lesion.
- The candidate with the highest score chooses first, the free lesion that it overlaps most; what comes second to a lesion is
  false.
- `froc` is the mean sensitivity at half, 1, 2, 4 and 8 false positives a volume, after LUNA16 (Setio et al., 2017); where
  the candidates end before, what they reach. Average precision counts lesions that no candidate hits as missed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.overlap import NOTHING, boxes_in

SAME = 0.1
"""IoU of boxes from which on a candidate hits a lesion"""
RATES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""false positives a volume at which `froc` asks for the sensitivity"""


def scored_boxes(values: np.ndarray, threshold: float, affine_mm: np.ndarray) -> list[dict[str, Any]]:
    """The boxes of what exceeds the threshold in a map (I, J, K) of probabilities, with their score, the highest first."""
    return sorted(boxes_in(values > threshold, affine_mm, values), key=lambda box: -box["score"])


def hits_of(found: Sequence[Mapping[str, Any]], lesions: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether each box, in order of score, hits a lesion that none before it has."""
    overlaps, hits = _ious(found, lesions), np.zeros(len(found), bool)
    if not lesions:
        return hits.tolist()
    for number in range(len(found)):
        best = int(np.argmax(overlaps[number]))
        hits[number] = overlaps[number, best] >= SAME
        if hits[number]:
            overlaps[:, best] = 0
    return hits.tolist()


def _ious(found: Sequence[Mapping[str, Any]], lesions: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(n, m): intersection over union of each of n boxes with each of m."""
    (low, high), (first, last) = (
        [np.array([box[end] for box in boxes]).reshape(-1, 3) for end in ("low", "high")] for boxes in (found, lesions)
    )
    shared = np.minimum(high[:, None], last) - np.maximum(low[:, None], first)
    both = np.clip(shared, 0, None).prod(axis=-1)
    return both / ((high - low).prod(axis=-1)[:, None] + (last - first).prod(axis=-1) - both)


def detection_figures(truth: np.ndarray, values: np.ndarray, threshold: float, affine_mm: np.ndarray) -> dict[str, Any]:
    """Scores and hits of a map's candidates, and counts of lesions, of one case: truth (I, J, K) bool, values as its map."""
    found = scored_boxes(values, threshold, affine_mm)
    lesions = boxes_in(truth, affine_mm)
    hits = hits_of(found, lesions)
    return {
        "scores": [box["score"] for box in found], "hits": hits, "true_lesions": sum(hits),
        "false_lesions": len(hits) - sum(hits), "missed_lesions": len(lesions) - sum(hits),
    }  # fmt: skip


def average_precision(rows: Sequence[Mapping[str, Any]], weights: np.ndarray) -> np.ndarray:
    """(tries,): sum of precision times the sensitivity gained, by falling score, of cases that count `weights` (tries, n)."""
    hits, false, lesions = _curve(rows, weights)
    gained = np.diff(hits, prepend=0.0, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(hits / (hits + false))
        return (precision * gained).sum(axis=1) / lesions


def froc(rows: Sequence[Mapping[str, Any]], weights: np.ndarray) -> np.ndarray:
    """(tries,): mean sensitivity over RATES of false positives a volume, of cases that count `weights` (tries, n)."""
    hits, false, lesions = _curve(rows, weights)
    volumes = weights.sum(axis=1, keepdims=True)
    reached = [np.where(false <= rate * volumes, hits, 0.0).max(axis=1, initial=0.0) for rate in RATES]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lesions > 0, np.mean(reached, axis=0) / lesions, NOTHING)


def _curve(rows: Sequence[Mapping[str, Any]], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and false positives at and above each distinct score, (tries, scores) each, falling; lesions (tries,)."""
    case = np.repeat(np.arange(len(rows)), [len(row["scores"]) for row in rows])
    scores, hits = (np.array([one for row in rows for one in row[name]], dtype=float) for name in ("scores", "hits"))
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=NOTHING) != 0)
    counted = weights[:, case[order]]
    found = np.cumsum(counted * hits[order], axis=1)[:, ends]
    every = np.cumsum(counted, axis=1)[:, ends]
    lesions = np.array([row["true_lesions"] + row["missed_lesions"] for row in rows], dtype=float)
    return found, every - found, weights @ lesions
