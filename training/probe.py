"""Probes: what a column of labels and the stored vectors have to do with each other, honestly, in seconds.

Decisions
- Every figure comes from predictions of rows whose patient the fit never saw: grouped folds, and grouped folds within
  them to choose the regularisation. Intervals resample patients and hold the fits fixed: they cover a real effect,
  but of vectors that know nothing about one in six excludes chance, on either side.
- Baselines (majority or mean, acquisition tags, geometry) go through the same head and the same folds; through the
  linear one where the head takes patches.
- Each of several labels is probed where it is known, as if it were alone.
- Outputs do not depend on the order of rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from models.errors import DecipherError
from training.crossfit import Features, Fit, Question, out_of_fold, question, scaled, standard
from training.curve import curve as curve_of
from training.heads import HEADS, PATCH_HEADS, linear_weights
from training.judge import Figures, Judge
from training.table import Table, check_apart, keep_apart
from training.target import MULTILABEL, Column, Target, Values, read_target
from training.units import common, firsts, in_units, means

FEW_GROUPS = 10
ENCODER = "encoder"


@dataclass(frozen=True)
class Probe:
    """A linear probe: (vectors - mean) / scale @ weight + bias; mean, scale (E,), weight (E, K), bias (K,)."""

    task: str
    kind: str
    classes: list[str]
    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    passport: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found. `rows` (n,) of the input were used (of a unit: its first); `outputs` (n, K) are out of fold.

    target (n,), or (n, L) with NaN where a label is unknown, is what they were judged by; who (n,) names the patients.
    """

    task: str
    kind: str
    head: str
    n: int
    groups: int
    n_missing: int
    classes: list[str]
    metrics: Figures
    baselines: dict[str, dict[str, float | None]]
    notes: list[str]
    rows: np.ndarray
    outputs: np.ndarray
    probe: Probe | None
    target: np.ndarray
    who: np.ndarray
    folds: dict[str, Any]
    unit: str
    pool: str
    labels: dict[str, Figures]
    curve: list[dict[str, Any]]
    by: dict[str, dict[str, dict[str, Any]]]

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, ready for json.dumps; what is not defined is None, what was not asked is left out."""
        names = ["task", "kind", "head", "n", "groups", "n_missing", "classes", "metrics", "baselines", "notes"]
        names += ["folds", "unit", "pool"]
        asked = [name for name in ("labels", "curve", "by") if getattr(self, name)]
        return {name: getattr(self, name) for name in names + asked}


def fit_probe(
    vectors: Features,
    values: Values,
    groups: Sequence[str] | np.ndarray,
    *,
    head: str = "linear",
    task: str,
    baselines: dict[str, np.ndarray] | None = None,
    seed: int = 0,
    units: tuple[str, Sequence[str | None]] | None = None,
    pool: str = "mean",
    apart: Mapping[str, Column] | None = None,
    by: Mapping[str, Column] | None = None,
    curve: bool = False,
) -> ProbeResult:
    """Fit and judge a probe of `values` (n,) on `vectors` (n, E), or (n, N, E) for a head of patches, patients apart.

    values: a column, or several columns by name; groups (n,) names the patient of every row; baselines maps a name to
    features (n, F). units: what is judged at once, by name and the unit of each row, pooled by "mean" of vectors or
    "vote" of outputs; apart: columns of which folds leave whole values out; by: columns whose values get figures each.
    Raises DecipherError for an unknown head, for a column without known values, of one class or of numbers mixed with
    text, for one patient, and for one group.
    """
    _check(head, vectors, pool if units else "vote")
    table = _table(vectors, values, groups, baselines or {}, by or {})
    table, target, notes = _known(table, task, units, pool, apart or {})
    asked = _questions(target, table.apart, seed)
    first = firsts(table.unit)
    judge = Judge(target.kind, target.classes, target.values[first], table.patients[first], seed)

    def judged(features: Features, questions: list[Question]) -> np.ndarray:
        fit = HEADS[head] if features.ndim > 2 or head not in PATCH_HEADS else HEADS["linear"]
        return means(_outputs(fit, features, target, questions, seed), table.unit)

    outputs = judged(table.features[ENCODER], asked)
    rivals = {"majority" if target.classes else "mean": judge.trivial()}
    rivals |= {name: judged(one, asked) for name, one in table.features.items() if name != ENCODER}
    points: list[dict[str, Any]] = []
    if curve:
        points, told = curve_of(asked, table.patients, judge, outputs, partial(judged, table.features[ENCODER]))
        notes += told
    n_groups = len(np.unique(judge.who))
    few = [f"only {n_groups} patients: chance weighs heavily"] if n_groups < FEW_GROUPS else []
    return ProbeResult(
        task=task,
        kind=target.kind,
        head=head,
        n=len(first),
        groups=n_groups,
        n_missing=target.n_missing,
        classes=target.classes,
        metrics=judge.figures(outputs),
        baselines={name: judge.values(rival) for name, rival in rivals.items()},
        notes=notes + few,
        rows=table.rows[first],
        outputs=outputs,
        probe=_final_probe(table.features[ENCODER], target, asked, task) if head == "linear" else None,
        target=judge.truth,
        who=judge.who,
        folds={"n": max(len(one.outer) for one in asked), "seed": seed, "apart": [*(apart or {})]},
        unit=units[0] if units else "series",
        pool=pool,
        labels=judge.labels(outputs) if target.kind == MULTILABEL else {},
        curve=points,
        by={name: judge.parts(outputs, common(column, table.unit)) for name, column in table.by.items()},
    )


def _check(head: str, vectors: Features, pool: str) -> None:
    if head not in HEADS:
        raise DecipherError(f"There is no head {head!r}.", f"heads: {', '.join(HEADS)}")
    if head in PATCH_HEADS and vectors.ndim < 3:
        raise DecipherError(
            f"Head {head!r} takes patch vectors.",
            "encode into a new index with them: decipher encode ARCHIVE --patches -i OTHER",
        )
    if head in PATCH_HEADS and pool == "mean":
        raise DecipherError("Patches of several series have no mean.", "let the series vote: --pool vote")
    if vectors.ndim == 2 and not np.isfinite(np.asarray(vectors)).all():
        raise DecipherError("The vectors hold numbers that are not finite.", "encode the archive again")


def _table(
    vectors: Features,
    values: Values,
    groups: Sequence[str] | np.ndarray,
    baselines: dict[str, np.ndarray],
    by: Mapping[str, Column],
) -> Table:
    several = values.values() if isinstance(values, Mapping) else [values]
    sizes = [len(column) for column in (*several, groups, *baselines.values(), *by.values())]
    if any(size != len(vectors) for size in sizes):
        raise ValueError(f"{len(vectors)} vectors, but columns of {sizes} rows")
    rows, patients = np.arange(len(vectors)), np.asarray(groups, dtype=str)
    columns = {name: list(column) for name, column in by.items()}
    return Table(rows, rows, values, patients, patients, columns, {ENCODER: vectors, **baselines})


def _known(
    table: Table, task: str, units: tuple[str, Sequence[str | None]] | None, pool: str, apart: Mapping[str, Column]
) -> tuple[Table, Target, list[str]]:
    """The rows whose label is known, in units and groups where they are asked for; that label; and notes."""
    table, notes = keep_apart(table, apart)
    if units:
        table, told = in_units(table, *units, pool)
        notes += told
    called = f"groups of {' and '.join(map(repr, apart))}" if apart else "patients"
    target = read_target(table.values, table.apart, task, called)
    table = table.take(target.rows)
    if apart:
        notes.append(check_apart(table, " and ".join(apart)))
    return replace(table, unit=np.unique(table.unit, return_inverse=True)[1]), target, target.notes + notes


def _questions(target: Target, apart: np.ndarray, seed: int) -> list[Question]:
    """One question, or one for each of several labels over the rows where it is known."""
    if target.kind != MULTILABEL:
        return [question(np.arange(len(apart)), target.values, len(target.classes), apart, seed)]
    known = [np.flatnonzero(~np.isnan(column)) for column in target.values.T]
    return [
        question(rows, column[rows].astype(int), 2, apart[rows], seed)
        for rows, column in zip(known, target.values.T, strict=True)
    ]


def _outputs(fit: Fit, features: Features, target: Target, asked: list[Question], seed: int) -> np.ndarray:
    """Out-of-fold outputs (n, K); of several labels (n, L), the probability of each, NaN where it is unknown."""
    if target.kind != MULTILABEL:
        return out_of_fold(fit, features, asked[0], seed)
    outputs = np.full(target.values.shape, np.nan)
    for number, one in enumerate(asked):
        outputs[one.rows, number] = out_of_fold(fit, features[one.rows], one, seed)[:, 1]
    return outputs


def _final_probe(features: Features, target: Target, asked: list[Question], task: str) -> Probe:
    """The linear probe of all rows, for vectors that have no label yet; of several labels, the log odds of each."""
    mean, scale = standard(features)
    ready = np.asarray(scaled(features, mean, scale))
    found = []
    for one in asked:
        every = np.arange(len(one.rows))
        found.append(linear_weights(ready[one.rows], one.values, one.inner(every), one.n_classes))
    weight, bias = found[0]
    if target.kind == MULTILABEL:
        weight = np.stack([w[:, 1] - w[:, 0] for w, _ in found], axis=1)
        bias = np.array([b[1] - b[0] for _, b in found])
    return Probe(task, target.kind, target.classes, mean, scale, weight, bias)
