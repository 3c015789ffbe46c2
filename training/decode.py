"""A decoder fitted to masks on a frozen encoder, and how good it is on patients it has not seen.

Decisions:
- Figures come from folds that never part a patient; then one decoder is fitted to all cases, to be kept. Intervals resample
  patients and hold the fits fixed.
- Every figure is of the volume's own grid, against the mask as it was drawn, whatever the box could show of it.
- `localise` learns the same map as `segment`; its figures are of the box about what is marked, and its result is boxes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from index.contents import Contents
from models.decipher import Decipher
from models.decoder import Decoder, DecoderConfig, decoder_config
from models.errors import DecipherError
from training.decoding import Learning, Lesson, best_threshold, box_map, intensity, mean_shape, train_decoder
from training.features import Progress, features_of, targets_of
from training.folds import grouped_folds
from training.masks import Case, Cases
from training.metrics import bootstrap
from training.overlap import NOTHING, box_figures, case_figures, dice
from training.regrid import to_volume

METRICS = {
    "segment": ("dice", "hd95_mm", "surface_mm", "lesion_f1", "found", "false_alarms"),
    "localise": ("box_iou", "centre_error_mm", "lesion_f1", "found", "false_alarms"),
}
FIRST = {"segment": "dice", "localise": "box_iou"}
"""the figure of each task that baselines and the first epoch are told by"""


@dataclass(frozen=True)
class Fit:
    """decoder and its threshold, of all cases; labels: what it looks for; report: figures and how they came about."""

    decoder: Decoder
    threshold: float
    labels: list[str]
    report: dict[str, Any]


@dataclass(frozen=True)
class FitOptions:
    """task: of METRICS; kind: of decoder.KINDS; folds: at least 2."""

    task: str = "segment"
    kind: str = "resnet"
    folds: int = 3
    learning: Learning = Learning()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.task not in METRICS:
            raise DecipherError(f"Decoders do not {self.task!r}.", f"Take one of: {', '.join(METRICS)}.")


def fit_decoder(
    model: Decipher, passport: dict[str, Any], contents: Contents, cases: Cases, cache: Path, options: FitOptions,
    progress: Progress,
) -> Fit:  # fmt: skip
    """Fit a decoder, and say how good it is; the encoder runs once a series.

    passport: the model's own. Errors: DecipherError for masks of a single patient, or a series that cannot be read.
    """
    began = monotonic()
    config = decoder_config(model.config, options.kind, guided=len(cases.labels) > 1)
    marked = [case.label for case in cases.cases]
    folds = grouped_folds(cases.patients, options.folds, options.learning.seed, marked)
    lesson = lesson_of(model, passport, contents, cases, cache, config.guided, progress)
    encoded = monotonic()
    rows: dict[str, list[dict[str, float]]] = {"decoder": [{} for _ in cases.cases]}
    device = next(model.parameters()).device
    for number, (train, test) in enumerate(folds, start=1):
        says = f"fold {number}/{len(folds)}"
        found = _fold(config, lesson, cases.cases, (train, test), options, device, lambda d, of: progress(says, d, of))  # noqa: B023
        for name, scored in found.items():
            into = rows.setdefault(name, [{} for _ in cases.cases])
            for case, figures in zip(test, scored, strict=True):
                into[case] = figures
    every = np.arange(len(cases.cases))
    decoder = train_decoder(
        config, lesson, every, options.learning, device, lambda done, _: progress("all", done, options.learning.epochs)
    )
    threshold = best_threshold(lambda case: box_map(decoder, lesson, case, device), lesson, every)
    report = _report(rows, cases, options, len(folds))
    report["seconds"] = {"features": round(encoded - began, 2), "decoders": round(monotonic() - encoded, 2)}
    return Fit(decoder.cpu(), threshold, cases.labels, report)


def lesson_of(
    model: Decipher, passport: dict[str, Any], contents: Contents, cases: Cases, cache: Path, guided: bool,
    progress: Progress,
) -> Lesson:  # fmt: skip
    """Features and targets of the cases, from `cache` where they are there; the text vectors of a guided decoder's labels."""
    features = features_of(model, passport, contents, cases.cases, cache, progress)
    targets = targets_of(features, cases.cases, cache, progress)
    rows = np.array([features.row_of[case.record["series_id"]] for case in cases.cases])
    labels = np.array([case.label for case in cases.cases])
    queries = None
    if guided:
        vectors = dict(zip(cases.labels, model.encode_texts(cases.labels).clone(), strict=True))
        queries = torch.stack([vectors[case.label] for case in cases.cases])
    return Lesson(features, targets, rows, queries, labels)


def _fold(
    config: DecoderConfig, lesson: Lesson, cases: Sequence[Case], fold: tuple[np.ndarray, np.ndarray],
    options: FitOptions, device: torch.device, progress: Callable[[int, int], None],
) -> dict[str, list[dict[str, float]]]:  # fmt: skip
    """Figures of the fold's test cases: all of the decoder's, the first one of one epoch and of the baselines."""
    train, test = fold
    truths = [cases[case].read_mask() for case in test]
    found: dict[str, list[dict[str, float]]] = {}

    def score(name: str, map_of: Callable[[int], np.ndarray], whole: bool = False) -> None:
        threshold = best_threshold(map_of, lesson, train)
        found[name] = [
            _figures(map_of(case), threshold, truth, lesson, case, cases[case], None if whole else options.task)
            for case, truth in zip(test, truths, strict=True)
        ]

    def after(epoch: int, decoder: Decoder) -> None:
        if epoch == 1:
            score("one_epoch", lambda case: box_map(decoder, lesson, case, device))
        progress(epoch, options.learning.epochs)

    decoder = train_decoder(config, lesson, train, options.learning, device, after)
    score("decoder", lambda case: box_map(decoder, lesson, case, device), whole=True)
    score("mean_shape", mean_shape(lesson, train))
    score("intensity", intensity(lesson, train))
    return found


def _figures(
    values: np.ndarray, threshold: float, truth: np.ndarray, lesson: Lesson, number: int, case: Case, task: str | None
) -> dict[str, float]:
    """Figures of a map on the box against the mask as drawn; of a task, its first one alone."""
    row, affine = lesson.rows[number], np.array(case.record["affine_mm"]).reshape(4, 4)
    features = lesson.features
    found = to_volume(values, features.content[row], affine, features.affine_mm[row], truth.shape) > threshold
    if task is None:
        return case_figures(truth, found, affine)
    return {"dice": dice(truth, found)} if task == "segment" else {"box_iou": box_figures(truth, found, affine)[0]}


def _report(rows: dict[str, list[dict[str, float]]], cases: Cases, options: FitOptions, folds: int) -> dict[str, Any]:
    who, first = np.array(cases.patients), FIRST[options.task]
    own = rows.pop("decoder")
    labels = np.array([case.label for case in cases.cases])
    report: dict[str, Any] = {
        "task": options.task, "decoder": options.kind, "n": len(own), "groups": len(set(who)), "folds": folds,
        "empty": sum(figures["true_lesions"] + figures["missed_lesions"] == 0 for figures in own),
        "epochs": options.learning.epochs, "labels": cases.labels,
        "metrics": {name: summary(name, own, who) for name in METRICS[options.task]},
        "one_epoch": {first: summary(first, rows.pop("one_epoch"), who)},
        "baselines": {name: {first: summary(first, found, who)} for name, found in rows.items()},
    }  # fmt: skip
    if len(cases.labels) > 1:
        report["by_label"] = {}
        for label in cases.labels:
            of_it = np.flatnonzero(labels == label)
            some = [own[i] for i in of_it]
            report["by_label"][label] = {name: summary(name, some, who[of_it]) for name in METRICS[options.task]}
    report["cases"] = [
        {"series_id": case.record["series_id"], "path": case.record["path"], "label": case.label,
         **{name: None if value != value else value for name, value in figures.items()}}
        for case, figures in zip(cases.cases, own, strict=True)
    ]  # fmt: skip
    return report


def summary(name: str, rows: Sequence[dict[str, float]], who: np.ndarray) -> dict[str, float | None]:
    """value and 95 % interval (low, high) over patients of one figure of many cases; None where none tells.

    lesion_f1 is of the lesions of all cases together; found: of cases with something marked, the share in which something
    was predicted; false_alarms: the same of cases with nothing marked. Others are means of the cases that have them.
    """
    above, below = np.array([_fraction(name, row) for row in rows], dtype=float).T

    def score(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ above) / (weights @ below)

    low, high = bootstrap(who, score)
    value = float(score(np.ones((1, len(above))))[0])
    return {key: None if one != one else float(one) for key, one in (("value", value), ("low", low), ("high", high))}


def _fraction(name: str, row: dict[str, float]) -> tuple[float, float]:
    """What a case adds to the numerator and to the denominator of a figure."""
    if name in ("lesion_f1", "found", "false_alarms"):
        hit, false, missed = (row[f"{kind}_lesions"] for kind in ("true", "false", "missed"))
        if name == "lesion_f1":
            return 2 * hit, 2 * hit + false + missed
        marked, said = hit + missed > 0, hit + false > 0
        asked = marked == (name == "found")
        return float(asked and said), float(asked)
    value = row.get(name, NOTHING)
    return (0.0, 0.0) if value != value else (value, 1.0)
