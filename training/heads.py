"""Heads of probes: linear, nearest neighbours and a small net, each tuned on the inner folds it is given.

Decisions
- A head takes standardised features (n, p), targets, inner folds and the number of classes (0: regression), and
  returns a function from features (m, p) to outputs (m, 1) or class probabilities (m, K). Adding one is one line
  in HEADS. Classes weigh the same, however many rows they have. One of PATCH_HEADS takes patch vectors (n, N, E) as
  they were stored.
- Features are turned onto their principal axes first, exact for an L2 penalty and fast where p is far above n.
- Outputs do not depend on the order of rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

NEIGHBOURS = (50, 20, 10, 5, 3, 1)
TEMPERATURE = 0.07
HIDDEN = 64
MOST_STEPS = 100
PATIENCE = 10
PENALTIES = 10.0 ** np.arange(2, -5, -1)
ABSENT = -1e3
LEAST_PROBABILITY = 1e-3

Folds = list[tuple[np.ndarray, np.ndarray]]
Weights = tuple[np.ndarray, np.ndarray]
Predict = Callable[[np.ndarray], np.ndarray]
Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""of raw outputs (n, K): its value, and its slope (n, K)"""


def linear_weights(features: np.ndarray, target: np.ndarray, folds: Folds, n_classes: int) -> Weights:
    """Weight (p, K) and bias (K,) of ridge (K = 1) or of logistic regression, its penalty chosen on the inner folds.

    Shapes as for a head; without folds the penalty is the middle one.
    """
    axes = _principal_axes(features)
    turned = features @ axes
    penalties = features.shape[1] * PENALTIES
    path = _logistic_path if n_classes else _ridge_path
    loss = np.zeros(len(penalties))
    for train, test in folds:
        held = turned[test]
        for i, (weight, bias) in enumerate(path(turned[train], target[train], penalties, n_classes)):
            loss[i] += _loss(activated(held @ weight.astype(held.dtype) + bias, n_classes), target[test], target)
    best = _first_best(loss) if folds else len(penalties) // 2
    weight, bias = path(turned, target, penalties[best : best + 1], n_classes)[0]
    return axes @ weight, bias


def _fit_linear(features: np.ndarray, target: np.ndarray, folds: Folds, *, n_classes: int, seed: int) -> Predict:
    weight, bias = linear_weights(features, target, folds, n_classes)
    return lambda x: activated(x @ weight + bias, n_classes)


def _principal_axes(features: np.ndarray) -> np.ndarray:
    """Orthonormal axes (p, rank) that the rows (n, p) span, from the smaller of both Gram matrices."""
    wide = features.shape[0] < features.shape[1]
    gram = features @ features.T if wide else features.T @ features
    values, axes = np.linalg.eigh(gram.astype(np.float64))
    kept = values > max(1e-10, np.finfo(features.dtype).eps * 10) * max(values[-1], 1e-30)
    turned = features.T @ axes[:, kept] / np.sqrt(values[kept]) if wide else axes[:, kept]
    return turned.astype(features.dtype)


def _ridge_path(features: np.ndarray, target: np.ndarray, penalties: np.ndarray, n_classes: int) -> list[Weights]:
    """Closed form for every penalty from one eigendecomposition; the bias is not penalised."""
    mean, level = features.mean(0), target.mean()
    centred = features - mean
    values, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    projected = axes.T @ (centred.T @ (target - level))
    weights = [axes @ (projected / (np.maximum(values, 0) + penalty))[:, None] for penalty in penalties]
    return [(weight, level - mean @ weight) for weight in weights]


def _logistic_path(features: np.ndarray, codes: np.ndarray, penalties: np.ndarray, n_classes: int) -> list[Weights]:
    """Multinomial, classes balanced, as scikit-learn's with C = 1 / penalty; each fit starts from the one before.

    On principal axes the diagonal of the curvature is nearly all of it: L-BFGS on axes scaled by it takes few steps.
    Of two classes the weights are each other's opposite, so one of them is fitted. A class without rows gets
    probability 0.
    """
    present, member = np.unique(codes, return_inverse=True)
    share = (len(codes) / len(present) / np.bincount(member))[member].astype(features.dtype)
    design = np.hstack([features, np.ones((len(features), 1), dtype=features.dtype)])
    two = len(present) <= 2
    loss = partial(_sigmoid_loss if two else _softmax_loss, member, share)
    curvature = (share @ design**2).astype(np.float64)[:, None] / (4 if two else len(present)) + 1e-12
    theta, found = np.zeros((design.shape[1], 1 if two else len(present))), []
    for penalty in penalties / 2 if two else penalties:
        cost = np.r_[np.full(features.shape[1], penalty), 0.0][:, None]
        theta = _minimise(design, loss, cost, 1 / np.sqrt(curvature + cost), theta)
        weight, bias = np.zeros((features.shape[1], n_classes)), np.full(n_classes, ABSENT)
        every = (np.hstack([-theta / 2, theta / 2]) if two else theta)[:, : len(present)]
        weight[:, present], bias[present] = every[:-1], every[-1]
        found.append((weight, bias))
    return found


def _minimise(x: np.ndarray, loss: Loss, cost: np.ndarray, scale: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients theta (p, K) of least loss(x @ theta) plus half of cost * theta^2; steps are taken in theta / scale."""
    from scipy.optimize import minimize

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = scale * flat.reshape(start.shape)
        value, slope = loss(x @ theta.astype(x.dtype))
        gradient = scale * (x.T @ slope + cost * theta)
        return value + float((cost * theta**2).sum()) / 2, gradient.ravel()

    options = {"maxiter": 200, "gtol": 1e-4 * max(10.0, len(x) ** 0.5), "ftol": 1e-7}
    found = minimize(objective, (start / scale).ravel(), jac=True, method="L-BFGS-B", options=options)
    return scale * found.x.reshape(start.shape)


def _sigmoid_loss(member: np.ndarray, share: np.ndarray, raw: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross-entropy of rows that weigh `share` (n,), and its slope (n, 1); raw (n, 1) is the second class's log odds."""
    sign = np.where(member, -1, 1).astype(raw.dtype)
    wrong = np.exp(np.minimum(sign * raw[:, 0], 80))
    value = float(share @ np.log1p(wrong))
    return value, (share * sign * wrong / (1 + wrong))[:, None]


def _softmax_loss(member: np.ndarray, share: np.ndarray, raw: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross-entropy of rows that weigh `share` (n,), and its slope (n, K), for raw outputs (n, K)."""
    p, rows = activated(raw, raw.shape[1]), np.arange(len(raw))
    value = -float(share @ np.log(np.maximum(p[rows, member], np.finfo(raw.dtype).tiny)))
    p[rows, member] -= 1
    return value, share[:, None] * p


def activated(raw: np.ndarray, n_classes: int) -> np.ndarray:
    """Raw outputs (n, K) as they are for regression (n_classes 0), their softmax for classes."""
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
        return activated(raw, n_classes) * spread + level

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


def _fit_attentive(patches: np.ndarray, target: np.ndarray, folds: Folds, *, n_classes: int, seed: int) -> Predict:
    from training.attentive import fit_attentive

    return fit_attentive(patches, target, folds, n_classes=n_classes, seed=seed, read_out=_fit_linear)


HEADS: dict[str, Callable[..., Predict]] = {
    "linear": _fit_linear,
    "knn": _fit_knn,
    "mlp": _fit_mlp,
    "attentive": _fit_attentive,
}
PATCH_HEADS = ("attentive",)
