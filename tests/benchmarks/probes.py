"""How fast a linear probe is: python tests/benchmarks/probes.py [--rows 100000]

Prints a Markdown table. Vectors are simulated with a spectrum that falls off, as an encoder's does; a label of two classes
follows one direction and chance. Fold by fold, in turns, the linear head and scikit-learn's LogisticRegressionCV get the same
standardised rows, inner folds and penalties, both with classes balanced; then the probe is timed whole, from labels and
patients to figures with intervals.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable

import numpy as np

from training.crossfit import question, scaled, standard
from training.heads import HEADS, PENALTIES
from training.metrics import auroc
from training.probe import fit_probe

DIM = 384


def simulated(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors float32 (n, 384), classes (n,) and patients (n,) of up to three rows each."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    spectrum = (np.arange(DIM) + 1.0) ** -0.7
    vectors = ((rng.standard_normal((rows, DIM), dtype=np.float32) * spectrum) @ turn).astype(np.float32)
    signal = vectors @ (turn.T @ rng.standard_normal(DIM))
    chance = 1 / (1 + np.exp(-2 * signal / signal.std() + 1))
    codes = (rng.random(rows) < chance).astype(int)
    patients = np.sort(rng.integers(0, rows // 2, rows)).astype(str)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), codes, patients


def ours(train: np.ndarray, codes: np.ndarray, inner: list, test: np.ndarray) -> np.ndarray:
    return HEADS["linear"](train, codes, inner, n_classes=2, seed=0)(test)[:, 1]


def theirs(train: np.ndarray, codes: np.ndarray, inner: list, test: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegressionCV

    strengths = 2 / (train.shape[1] * PENALTIES)
    model = LogisticRegressionCV(Cs=strengths, cv=inner, class_weight="balanced", scoring="neg_log_loss")
    warnings.simplefilter("ignore", FutureWarning)
    return model.fit(train, codes).predict_proba(test)[:, 1]


def timed(work: Callable, *given: object) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    found = work(*given)
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    vectors, codes, patients = simulated(rows)
    asked = question(np.arange(rows), codes, 2, patients, seed=0)
    seconds: dict[str, list[float]] = {"decipher": [], "LogisticRegressionCV": []}
    outputs = {name: np.zeros(rows) for name in seconds}
    for number, (train, test) in enumerate(asked.outer):
        ready = [scaled(vectors[part], *standard(vectors[train])) for part in (train, test)]
        turns = [("decipher", ours), ("LogisticRegressionCV", theirs)]
        for name, work in turns if number % 2 else turns[::-1]:
            took, outputs[name][test] = timed(work, ready[0], codes[train], asked.inner(train), ready[1])
            seconds[name].append(took)
    took, found = timed(lambda: fit_probe(vectors, codes.astype(str), patients, task="simulated"))
    print(f"{rows} x {DIM} float32, 5 folds of 3 inner folds, {len(PENALTIES)} penalties, {os.cpu_count()} cores\n")
    print("| | seconds | each fold | AUROC |\n|---|---|---|---|")
    for name, each in seconds.items():
        folds = ", ".join(f"{one:.1f}" for one in each)
        print(f"| {name} | {sum(each):.1f} | {folds} | {auroc(codes, outputs[name]):.4f} |")
    print(f"| the whole probe | {took:.1f} | | {found.metrics['auroc']['value']:.4f} |\n")
    print(f"ratio {sum(seconds['LogisticRegressionCV']) / sum(seconds['decipher']):.1f}")


if __name__ == "__main__":
    main()
