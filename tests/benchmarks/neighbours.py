"""What lies near a series: series of other subjects of its kind, and its own subject in another sequence.

Decisions
- Neighbours are looked for among vectors of one encoder: among the rows left out of it, or (`everyone`) among all.
- Two series of a subject are co-registered where their grids are one in space, or where their source says so (coreg, regto):
  then equal places hold equal tissue, and to find one by the other takes no encoder.
"""

from collections.abc import Iterator
from functools import cache
from math import comb

import numpy as np
from boxes import Boxes
from measured import Arm, Measured, Witness, means

from index.spread import unit_length

DEPTH, NEAREST = 60, 5
"""hits of a search that are looked at, the series itself among them; those that count"""
APART = 0.1
"""of the smallest voxel edge: how far corners of one grid may lie from the other's"""
REGISTERED = ("coreg", "regto")


def _neighbours(arm: Arm, everyone: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Each judged row with the others (m,) in its encoder's order, nearest first."""
    for fold in arm:
        vectors = unit_length(fold.encoding.vectors)
        cosine = vectors @ vectors.T
        for row in np.flatnonzero(fold.judged):
            order = np.argsort(-cosine[row], kind="stable")
            yield int(row), order[(everyone | fold.judged[order]) & (order != row)]


def same(boxes: Boxes, arm: Arm, everyone: bool, columns: tuple[str, ...]) -> Measured | None:
    """Of the five nearest of other subjects, the share with the same values."""
    people, found = boxes.people, []
    kind = np.array([" / ".join(row.get(name) or "" for name in columns) for row in boxes.labels])
    for row, order in _neighbours(arm, everyone):
        other = people[order] != people[row]
        alike = kind[order] == kind[row]
        near = alike[: DEPTH - 1][other[: DEPTH - 1]][:NEAREST]
        if len(near):
            best = min(len(near), int(alike[other].sum())) / len(near)
            found.append(Witness(people[row], float(near.mean()), float(alike[other].mean()), best))
    return means(found)


def siblings(boxes: Boxes, arm: Arm, everyone: bool, apart: bool) -> Measured | None:
    """Whether the same subject is among the five nearest of another sequence; apart: in a series of another grid."""
    people, sequence, found = boxes.people, boxes.column("sequence"), []
    whole = boxes.column("skull_stripped") != "yes"
    for row, order in _neighbours(arm, everyone):
        others = order[sequence[order] != sequence[row]]
        if apart:
            others = others[~co_registered(boxes)[row, others]]
        own = people[others] == people[row]
        if whole[row] and own.any():
            missed = comb(int((~own).sum()), NEAREST) / comb(len(own), min(NEAREST, len(own)))
            found.append(Witness(people[row], float(own[:NEAREST].any()), 1 - missed))
    return means(found)


@cache
def co_registered(boxes: Boxes) -> np.ndarray:
    """bool (n, n): pairs of one subject whose voxels hold the same place."""
    shapes = np.array(boxes.records["shape"].to_list(), dtype=float)
    affines = np.array(boxes.records["affine_mm"].to_list()).reshape(-1, 4, 4)
    corners = np.stack([affine @ [*(shape - 1), 1] for affine, shape in zip(affines, shapes, strict=True)])
    ends = np.concatenate([affines[:, :3, 3], corners[:, :3]], axis=1)
    edge = np.array(boxes.records["spacing_mm"].to_list()).min(axis=1)
    near = np.abs(ends[:, None] - ends[None]).max(axis=2) < APART * edge[:, None]
    one_grid = near & (shapes[:, None] == shapes[None]).all(axis=2)
    said = np.array([any(word in source.lower() for word in REGISTERED) for source in boxes.column("source")])
    return (one_grid | (said[:, None] & said[None])) & (boxes.people[:, None] == boxes.people[None])
