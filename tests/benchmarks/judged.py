"""Figures of trained arms: values and gains with intervals over patients, for the benchmarks that compare arms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.metrics import bootstrap


@dataclass(frozen=True)
class Judged:
    """One figure of one arm and seed: what weights (tries, n) over its witnesses give, and whose witnesses they are."""

    groups: np.ndarray
    score: Callable[[np.ndarray | None], np.ndarray | float]


def value(judged: Sequence[Judged]) -> str:
    """Mean over seeds, with a 95 % interval over patients."""
    low, high = bootstrap(judged[0].groups, lambda w: np.mean([j.score(w) for j in judged], axis=0))
    return f"{np.mean([j.score(None) for j in judged]):.2f} ({low:.2f} to {high:.2f})"


def gain(pairs: Sequence[tuple[Judged, Judged]]) -> str:
    """Mean difference over seeds with its interval, and the difference of each seed."""
    each = [float(a.score(None)) - float(b.score(None)) for a, b in pairs]
    low, high = bootstrap(pairs[0][0].groups, lambda w: np.mean([a.score(w) - b.score(w) for a, b in pairs], axis=0))
    return f"{np.mean(each):+.3f} ({low:+.3f} to {high:+.3f}) | {', '.join(f'{e:+.2f}' for e in each)}"
