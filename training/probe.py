"""Probes: what a column of labels and the stored vectors have to do with each other, honestly, in seconds.

Decisions
- Every figure comes from predictions of rows whose patient the fit never saw: grouped folds, and grouped folds within
  them to choose the regularisation. Intervals resample patients and hold the fits fixed: they cover a real effect,
  but of vectors that know nothing about one in six excludes chance, on either side.
- Baselines (majority or mean, acquisition tags, geometry) go through the same head and the same folds.
- Outputs do not depend on the order of rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from models.errors import DecipherError
from training import metrics
from training.folds import grouped_folds
from training.heads import HEADS, Folds, linear_weights

MISSING = {"", "unknown", "n/a", "nan", "null"}
MOST_CATEGORIES = 10
INNER_FOLDS = 3
FEWEST_GROUPS_PER_CLASS = 2
FEW_GROUPS = 10


@dataclass(frozen=True)
class Labels:
    """The known values of a column: `rows` (n,) of the table, `target` (n,) codes of `classes` or numbers."""

    kind: str
    rows: np.ndarray
    target: np.ndarray
    classes: list[str]
    n_missing: int
    notes: list[str]


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
    """What a probe found. `rows` (n,) of the input were used; `outputs` (n, 1) or (n, K) are out of fold."""

    task: str
    kind: str
    head: str
    n: int
    groups: int
    n_missing: int
    classes: list[str]
    metrics: dict[str, dict[str, float | None]]
    baselines: dict[str, dict[str, float | None]]
    notes: list[str]
    rows: np.ndarray
    outputs: np.ndarray
    probe: Probe | None

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, ready for json.dumps; what is not defined is None."""
        names = ["task", "kind", "head", "n", "groups", "n_missing", "classes", "metrics", "baselines", "notes"]
        return {name: getattr(self, name) for name in names}


def fit_probe(
    vectors: np.ndarray,
    values: Sequence[object] | np.ndarray,
    groups: Sequence[str],
    *,
    head: str = "linear",
    task: str,
    baselines: dict[str, np.ndarray] | None = None,
    seed: int = 0,
) -> ProbeResult:
    """Fit and judge a probe of `values` (n,) on `vectors` (n, E), patients apart.

    groups (n,) names the patient of every row; baselines maps a name to features (n, F). Raises DecipherError for an
    unknown head, for a column without known values, of one class or of numbers mixed with text, and for one patient.
    """
    if head not in HEADS:
        raise DecipherError(f"There is no head {head!r}.", f"heads: {', '.join(HEADS)}")
    if not np.isfinite(vectors).all():
        raise DecipherError("The vectors hold numbers that are not finite.", "encode the archive again")
    columns = (values, groups, *(baselines or {}).values())
    if any(len(column) != len(vectors) for column in columns):
        raise ValueError(f"{len(vectors)} vectors, but columns of {[len(column) for column in columns]} rows")
    labels = read_labels(values, groups, task)
    who = np.asarray(groups, dtype=str)[labels.rows]
    outer = grouped_folds(who, seed=seed, strata=_strata(labels))
    inner = [_inner_folds(labels, who, train, seed) for train, _ in outer]
    fit = partial(HEADS[head], n_classes=len(labels.classes), seed=seed)

    def judged(features: np.ndarray) -> np.ndarray:
        return _out_of_fold(fit, features[labels.rows], labels.target, outer, inner)

    outputs = judged(vectors)
    rivals = {"majority" if labels.classes else "mean": _trivial(labels)}
    rivals |= {name: judged(features) for name, features in (baselines or {}).items()}
    n_groups = len(np.unique(who))
    return ProbeResult(
        task=task,
        kind=labels.kind,
        head=head,
        n=len(who),
        groups=n_groups,
        n_missing=labels.n_missing,
        classes=labels.classes,
        metrics={name: _with_interval(score, who, seed) for name, score in _scores(labels, outputs).items()},
        baselines={
            name: {k: _known(s(None)) for k, s in _scores(labels, rival).items()} for name, rival in rivals.items()
        },
        notes=labels.notes + ([f"only {n_groups} patients: chance weighs heavily"] if n_groups < FEW_GROUPS else []),
        rows=labels.rows,
        outputs=outputs,
        probe=_final_probe(vectors[labels.rows], labels, who, task, seed) if head == "linear" else None,
    )


def read_labels(values: Sequence[object] | np.ndarray, groups: Sequence[str], task: str) -> Labels:
    """Kind and targets of a column: floats, or more than 10 numbers, are regression; else 2 classes or several.

    Two numbers are two classes. Left out and counted: null, empty, NaN and "unknown". Left out and noted: classes of
    fewer than 2 patients. Classes are in order of number, then of name; the last of two is the positive one.
    """
    cleaned = [_clean(value) for value in values]
    rows = np.array([i for i, value in enumerate(cleaned) if value is not None], dtype=int)
    if not len(rows):
        raise DecipherError(f"No row has a known {task!r}.", "name a column with values, or bring them with --labels")
    known = [cleaned[i] for i in rows]
    numbers = {value for value in known if isinstance(value, float)}
    texts = sorted({value for value in known if isinstance(value, str)})
    if texts and len(numbers) > MOST_CATEGORIES:
        raise DecipherError(
            f"Column {task!r} mixes numbers with text such as {texts[0]!r}.",
            "write a number in each row, and leave what is not known empty",
        )
    n_missing = len(cleaned) - len(rows)
    has_fractions = any(isinstance(values[i], float | np.floating) or "." in str(values[i]) for i in rows)
    if not texts and len(numbers) != 2 and (has_fractions or len(numbers) > MOST_CATEGORIES):
        if len(numbers) == 1:
            raise DecipherError(f"Every row has the same {task!r}: {known[0]:g}.", "bring rows with other values")
        return Labels("regression", rows, np.array(known, dtype=np.float64), [], n_missing, [])
    return _read_classes(known, rows, groups, task, n_missing)


def _read_classes(known: list[Any], rows: np.ndarray, groups: Sequence[str], task: str, n_missing: int) -> Labels:
    names = np.array([_named(value) for value in known])
    order = {_named(value): value for value in known if isinstance(value, float)}
    found = sorted(np.unique(names).tolist(), key=lambda name: (order.get(name, math.inf), name))
    patients = {name: len({groups[i] for i in rows[names == name]}) for name in found}
    classes = [name for name in found if patients[name] >= FEWEST_GROUPS_PER_CLASS]
    rare = [f"{name} ({np.sum(names == name)})" for name in found if name not in classes]
    if len(classes) < 2:
        seen = f"only {classes[0]!r}" if classes else "no class"
        raise DecipherError(
            f"A probe of {task!r} needs two classes with two patients each; {seen} has that.",
            "bring labels of more patients, or name another column",
        )
    kept = np.isin(names, classes)
    target = np.array([classes.index(name) for name in names[kept]], dtype=int)
    notes = [f"left out, fewer than {FEWEST_GROUPS_PER_CLASS} patients: {', '.join(rare)}"] if rare else []
    return Labels("binary" if len(classes) == 2 else "multiclass", rows[kept], target, classes, n_missing, notes)


def _clean(value: object) -> float | str | None:
    """A finite float, a text, or None for what is not known."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    text = "" if value is None else str(value).strip()
    if text.lower() in MISSING:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else None


def _named(value: float | str) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _strata(labels: Labels) -> np.ndarray:
    """Classes, or fifths of the numbers, so that every fold spans the range."""
    if labels.classes:
        return labels.target
    return np.searchsorted(np.quantile(labels.target, [0.2, 0.4, 0.6, 0.8]), labels.target)


def _inner_folds(labels: Labels, who: np.ndarray, rows: np.ndarray, seed: int) -> Folds:
    """Folds within `rows`, numbered from 0 in `rows`; none where one patient is left."""
    if len(np.unique(who[rows])) < 2:
        return []
    return grouped_folds(who[rows], INNER_FOLDS, seed + 1, _strata(labels)[rows])


def _out_of_fold(
    fit: Callable, features: np.ndarray, target: np.ndarray, outer: Folds, inner: list[Folds]
) -> np.ndarray:
    parts = []
    for (train, test), folds in zip(outer, inner, strict=True):
        mean, scale = _standard(features[train])
        predict = fit((features[train] - mean) / scale, target[train], folds)
        parts.append(predict((features[test] - mean) / scale))
    outputs = np.zeros((len(target), parts[0].shape[1]))
    outputs[np.concatenate([test for _, test in outer])] = np.concatenate(parts)
    return outputs


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (p,) in float64; a column that does not vary is divided by 1."""
    mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    return mean, np.where(scale > 1e-7 * np.maximum(np.abs(mean), 1e-30), scale, 1.0)


def _trivial(labels: Labels) -> np.ndarray:
    """Outputs that know the labels alone: the largest class, or the mean, for every row."""
    if not labels.classes:
        return np.full((len(labels.target), 1), labels.target.mean())
    largest = np.bincount(labels.target).argmax()
    return np.tile(np.eye(len(labels.classes))[largest], (len(labels.target), 1))


def _scores(labels: Labels, outputs: np.ndarray) -> dict[str, metrics.Weighted]:
    if labels.classes:
        return metrics.class_scores(labels.target, outputs)
    return metrics.number_scores(labels.target, outputs[:, 0])


def _with_interval(score: metrics.Weighted, who: np.ndarray, seed: int) -> dict[str, float | None]:
    low, high = metrics.bootstrap(who, score, seed=seed)
    return {"value": _known(score(None)), "low": _known(low), "high": _known(high)}


def _known(value: metrics.Score) -> float | None:
    return float(value) if math.isfinite(value) else None


def _final_probe(features: np.ndarray, labels: Labels, who: np.ndarray, task: str, seed: int) -> Probe:
    """The linear probe of all rows, for vectors that have no label yet."""
    mean, scale = _standard(features)
    folds = _inner_folds(labels, who, np.arange(len(who)), seed)
    weight, bias = linear_weights((features - mean) / scale, labels.target, folds, len(labels.classes))
    return Probe(task, labels.kind, labels.classes, mean, scale, weight, bias)
