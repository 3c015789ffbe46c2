"""Probes: what a column of labels and the stored vectors have to do with each other, honestly, in seconds.

Decisions
- Every figure comes from predictions of rows whose patient the fit never saw: grouped folds, and grouped folds within
  them to choose the regularisation. Intervals resample patients and hold the fits fixed: they cover a real effect,
  but of vectors that know nothing about one in six excludes chance, on either side.
- Baselines (majority or mean, acquisition tags, geometry) go through the same head and the same folds.
- A head takes standardised features (n, p), targets, inner folds and the number of classes (0: regression), and
  returns a function from features (m, p) to outputs (m, 1) or class probabilities (m, K). Adding one is one line
  in HEADS. Classes weigh the same, however many rows they have.
- Features are turned onto their principal axes first, exact for an L2 penalty and fast where p is far above n.
- Outputs do not depend on the order of rows. A saved probe is safetensors and JSON, nothing is ever unpickled.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import DecipherError
from training import metrics
from training.folds import grouped_folds

MISSING = {"", "unknown", "n/a", "nan", "null"}
MOST_CATEGORIES = 10
INNER_FOLDS = 3
FEWEST_GROUPS_PER_CLASS = 2
FEW_GROUPS = 10
NEIGHBOURS = (50, 20, 10, 5, 3, 1)
TEMPERATURE = 0.07
HIDDEN = 64
MOST_STEPS = 100
PATIENCE = 10
PENALTIES = 10.0 ** np.arange(2, -5, -1)
ABSENT = -1e3
LEAST_PROBABILITY = 1e-3
FORMAT = "decipher-probe-1"
JSON_NAME, ARRAYS_NAME = "probe.json", "probe.safetensors"
ARRAYS = ("mean", "scale", "weight", "bias")

Folds = list[tuple[np.ndarray, np.ndarray]]
Weights = tuple[np.ndarray, np.ndarray]
Predict = Callable[[np.ndarray], np.ndarray]


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


def _linear(features: np.ndarray, target: np.ndarray, folds: Folds, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight (p, K) and bias (K,) of ridge or of logistic regression, its penalty chosen on the inner folds."""
    axes = _principal_axes(features)
    turned = features @ axes
    penalties = features.shape[1] * PENALTIES
    path = _logistic_path if n_classes else _ridge_path
    loss = np.zeros(len(penalties))
    for train, test in folds:
        for i, (weight, bias) in enumerate(path(turned[train], target[train], penalties, n_classes)):
            loss[i] += _loss(_activated(turned[test] @ weight + bias, n_classes), target[test], target)
    best = _first_best(loss) if folds else len(penalties) // 2
    weight, bias = path(turned, target, penalties[best : best + 1], n_classes)[0]
    return axes @ weight, bias


def _fit_linear(features: np.ndarray, target: np.ndarray, folds: Folds, *, n_classes: int, seed: int) -> Predict:
    weight, bias = _linear(features, target, folds, n_classes)
    return lambda x: _activated(x @ weight + bias, n_classes)


def _principal_axes(features: np.ndarray) -> np.ndarray:
    """Orthonormal axes (p, rank) that the rows (n, p) span, from the smaller of both Gram matrices."""
    wide = features.shape[0] < features.shape[1]
    values, axes = np.linalg.eigh(features @ features.T if wide else features.T @ features)
    kept = values > 1e-10 * max(values[-1], 1e-30)
    return features.T @ axes[:, kept] / np.sqrt(values[kept]) if wide else axes[:, kept]


def _ridge_path(features: np.ndarray, target: np.ndarray, penalties: np.ndarray, n_classes: int) -> list[Weights]:
    """Closed form for every penalty from one eigendecomposition; the bias is not penalised."""
    mean, level = features.mean(0), target.mean()
    centred = features - mean
    values, axes = np.linalg.eigh(centred.T @ centred)
    projected = axes.T @ (centred.T @ (target - level))
    weights = [axes @ (projected / (np.maximum(values, 0) + penalty))[:, None] for penalty in penalties]
    return [(weight, level - mean @ weight) for weight in weights]


def _logistic_path(features: np.ndarray, codes: np.ndarray, penalties: np.ndarray, n_classes: int) -> list[Weights]:
    """Multinomial, classes balanced, as scikit-learn's with C = 1 / penalty; each fit starts from the one before.

    On principal axes the diagonal of the curvature is nearly all of it: L-BFGS on axes scaled by it takes few steps.
    A class without rows gets probability 0.
    """
    present, member = np.unique(codes, return_inverse=True)
    goal = np.eye(len(present))[member]
    share = (len(codes) / len(present) / goal.sum(0))[member][:, None]
    design = np.hstack([features, np.ones((len(features), 1))])
    curvature = (share * design**2).sum(0)[:, None] / len(present) + 1e-12
    theta, found = np.zeros((design.shape[1], len(present))), []
    for penalty in penalties:
        cost = np.r_[np.full(features.shape[1], penalty), 0.0][:, None]
        scale = 1 / np.sqrt(curvature + cost)
        theta = scale * _minimise(design * scale.T, goal, share, cost * scale**2, theta / scale)
        weight, bias = np.zeros((features.shape[1], n_classes)), np.full(n_classes, ABSENT)
        weight[:, present], bias[present] = theta[:-1], theta[-1]
        found.append((weight, bias))
    return found


def _minimise(x: np.ndarray, goal: np.ndarray, share: np.ndarray, cost: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients of least cross-entropy, rows weighted by `share` (n, 1), plus half of cost * coefficients^2."""
    from scipy.optimize import minimize

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = flat.reshape(start.shape)
        p = _activated(x @ theta, len(start.T))
        entropy = -(share * goal * np.log(np.maximum(p, 1e-300))).sum()
        return entropy + (cost * theta**2).sum() / 2, (x.T @ (share * (p - goal)) + cost * theta).ravel()

    options = {"maxiter": 200, "gtol": 1e-3, "ftol": 1e-7}
    return minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(start.shape)


def _activated(raw: np.ndarray, n_classes: int) -> np.ndarray:
    """Raw outputs as they are for regression, their softmax for classes."""
    if not n_classes:
        return raw
    powers = np.exp(raw - raw.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _loss(outputs: np.ndarray, target: np.ndarray, everyone: np.ndarray) -> float:
    """What the inner folds minimise: squared error, or log loss with the classes of `everyone` weighing the same."""
    if outputs.shape[1] == 1:
        return float(((outputs[:, 0] - target) ** 2).sum())
    said = np.maximum(outputs[np.arange(len(target)), target], LEAST_PROBABILITY)
    return float(-(np.log(said) / np.bincount(everyone)[target]).sum())


def _first_best(loss: np.ndarray) -> int:
    """The simplest choice of those that tie but for rounding, so that the order of rows cannot tip it."""
    return int(np.flatnonzero(loss <= loss.min() * (1 + 1e-6) + 1e-12)[0])


def _fit_knn(features: np.ndarray, target: np.ndarray, folds: Folds, *, n_classes: int, seed: int) -> Predict:
    """Vote of the k most similar rows by cosine, k by inner folds; weights exp(similarity / 0.07) as in DINO."""
    unit = _unit(features)
    sizes = [k for k in NEIGHBOURS if k <= max(1, len(features) // 2)]
    loss = np.zeros(len(sizes))
    for train, test in folds:
        near = _nearest(unit[train], unit[test], sizes[0])
        loss += [_loss(_vote(*near, target[train], k, n_classes), target[test], target) for k in sizes]
    best = sizes[_first_best(loss)]
    return lambda x: _vote(*_nearest(unit, _unit(x), best), target, best, n_classes)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _nearest(unit: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine (m, k) and row (m, k) of the k nearest, best first; in blocks, so that memory stays small."""
    found = []
    for start in range(0, len(queries), 1024):
        cosine = queries[start : start + 1024] @ unit.T
        rows = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        found.append((np.take_along_axis(cosine, rows, 1), rows))
    return np.concatenate([c for c, _ in found]), np.concatenate([r for _, r in found])


def _vote(cosine: np.ndarray, rows: np.ndarray, target: np.ndarray, k: int, n_classes: int) -> np.ndarray:
    weights = np.exp((cosine[:, :k] - cosine[:, :1]) / TEMPERATURE)
    weights /= weights.sum(1, keepdims=True)
    near = target[rows[:, :k]]
    if not n_classes:
        return (weights * near).sum(1, keepdims=True)
    votes = np.stack([(weights * (near == c)).sum(1) for c in range(n_classes)], axis=1)
    return np.round(votes, 12)  # or rounding would rank rows whose votes are the same


def _fit_mlp(features: np.ndarray, target: np.ndarray, folds: Folds, *, n_classes: int, seed: int) -> Predict:
    """One hidden layer; the number of steps is where the first inner fold is best, then all rows are fitted."""
    import torch

    level, spread = (0.0, 1.0) if n_classes else (target.mean(), target.std() or 1.0)
    goal = np.eye(n_classes)[target] if n_classes else ((target - level) / spread)[:, None]
    share = np.bincount(target, minlength=n_classes)[target] if n_classes else np.ones(len(target))
    x, y, w = (torch.tensor(values, dtype=torch.float32) for values in (features, goal, 1 / share))
    everyone = np.arange(len(target))
    train, stop = folds[0] if folds else (everyone, everyone)
    curve = _train_mlp(x, y, w, train, stop, MOST_STEPS, seed)[1]
    net, _ = _train_mlp(x, y, w, everyone, everyone, 1 + int(np.argmin(curve)), seed)

    def predict(queries: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            raw = net(torch.tensor(queries, dtype=torch.float32)).double().numpy()
        return _activated(raw, n_classes) * spread + level

    return predict


def _train_mlp(
    x: Any, y: Any, w: Any, train: np.ndarray, stop: np.ndarray, steps: int, seed: int
) -> tuple[Any, list[float]]:
    """The net after at most `steps` whole-batch steps on `train`, and the loss of `stop` before each step.

    Whole batches, so that no draw depends on the order of rows; ends early when PATIENCE steps brought nothing.
    """
    import torch
    from torch.nn import GELU, Linear, Sequential, functional

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Sequential(Linear(x.shape[1], HIDDEN), GELU(), Linear(HIDDEN, y.shape[1]))
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.1)

    def loss(rows: np.ndarray) -> torch.Tensor:
        each = functional.cross_entropy if y.shape[1] > 1 else functional.mse_loss
        values = each(net(x[rows]), y[rows], reduction="none").reshape(len(rows))
        return (values * w[rows]).sum() / w[rows].sum()

    curve: list[float] = []
    while len(curve) < steps and len(curve) - int(np.argmin(curve or [0])) <= PATIENCE:
        optimiser.zero_grad()
        loss(train).backward()
        with torch.no_grad():
            curve.append(float(loss(stop)))
        optimiser.step()
    return net, curve


HEADS: dict[str, Callable[..., Predict]] = {"linear": _fit_linear, "knn": _fit_knn, "mlp": _fit_mlp}


def _final_probe(features: np.ndarray, labels: Labels, who: np.ndarray, task: str, seed: int) -> Probe:
    """The linear probe of all rows, for vectors that have no label yet."""
    mean, scale = _standard(features)
    folds = _inner_folds(labels, who, np.arange(len(who)), seed)
    weight, bias = _linear((features - mean) / scale, labels.target, folds, len(labels.classes))
    return Probe(task, labels.kind, labels.classes, mean, scale, weight, bias)


def apply_probe(probe: Probe, vectors: np.ndarray) -> np.ndarray:
    """Predictions (n,) of regression, or probabilities (n, K) in the order of probe.classes, for vectors (n, E)."""
    if vectors.ndim != 2 or vectors.shape[1] != len(probe.mean):
        raise DecipherError(
            f"The probe takes vectors (n, {len(probe.mean)}); got {vectors.shape}.",
            "encode with the model the probe was fitted on",
        )
    outputs = _activated((vectors - probe.mean) / probe.scale @ probe.weight + probe.bias, len(probe.classes))
    return outputs if probe.classes else outputs[:, 0]


def save_probe(result: ProbeResult, folder: Path, passport: dict[str, Any]) -> None:
    """Write probe.json and probe.safetensors; `passport` is that of the encoder whose vectors were probed.

    An older probe in `folder` is replaced, any other folder that holds something is refused with DecipherError.
    """
    from safetensors.numpy import save

    if result.probe is None:
        raise DecipherError(f"A probe with head {result.head!r} cannot be saved.", "use --head linear")
    if folder.exists() and not (folder / JSON_NAME).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DecipherError(f"{folder} holds something else than a probe.", "name a new folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = save({name: np.ascontiguousarray(getattr(result.probe, name)) for name in ARRAYS})
    card = {"format": FORMAT, "passport": passport, "arrays_hash": _hash(arrays), **result.to_json()}
    for name, content in ((ARRAYS_NAME, arrays), (JSON_NAME, (json.dumps(card, indent=2) + "\n").encode())):
        written = folder / f".{name}.tmp"
        written.write_bytes(content)
        written.replace(folder / name)


def load_probe(folder: Path) -> Probe:
    """The probe that `save_probe` wrote. Raises DecipherError where `folder` holds none, or a damaged one."""
    from safetensors.numpy import load

    try:
        card = json.loads((folder / JSON_NAME).read_text())
        content = (folder / ARRAYS_NAME).read_bytes()
        if (card["format"], card["arrays_hash"]) != (FORMAT, _hash(content)):
            raise ValueError("another format, or not the arrays that were saved")
        mean, scale, weight, bias = (load(content)[name] for name in ARRAYS)
        described = (card["task"], card["kind"], card["classes"])
        return Probe(*described, mean, scale, weight, bias, passport=card["passport"], report=card)
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "fit one with `decipher probe --task COLUMN -o FOLDER`"
        raise DecipherError(f"{folder} holds no readable probe.", hint) from error


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def check_passport(probe: Probe, passport: dict[str, Any]) -> None:
    """Raise DecipherError unless vectors of the encoder with `passport` are those the probe was fitted on."""
    differing = [key for key in probe.passport.keys() | passport.keys() if probe.passport.get(key) != passport.get(key)]
    if set(differing) - {"name", "version"}:
        raise DecipherError(
            f"The probe was fitted on vectors of {_titled(probe.passport)}; these are of {_titled(passport)}.",
            "fit the probe again on this index, or encode the archive with the probe's model",
        )


def _titled(passport: dict[str, Any]) -> str:
    return f"model {passport.get('name', '?')} ({str(passport.get('hash', '?'))[:12]})"
