"""A decoder fitted to masks on a frozen encoder, and how good it is on patients it has not seen.

Decisions:
- Figures come from folds that never part a patient; then one decoder is fitted to all cases, to be kept. Intervals resample
  patients and hold the fits fixed. Its threshold is the one that served best where each case was not seen.
- Every figure is of the volume's own grid, against the mask as it was drawn, whatever the decoder was shown of it.
- A decoder is shown windows as fine as the volume, down to FINEST_MM, where its box would show it coarser.
- `localise` and `detect` learn the same map as `segment`. Figures of `localise` are of the box about all that is marked, those
  of `detect` of a box and a score for each lesion (training.boxes); the result of both is boxes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import nn

from index.contents import Contents
from models.decipher import Decipher
from models.decoder import Decoder, DecoderConfig, decoder_config
from models.errors import DecipherError
from training.boxes import average_precision, detection_figures, froc
from training.decoding import (
    Learning,
    Lesson,
    Maps,
    best_of,
    best_threshold,
    canvas_map,
    dices_of,
    intensity,
    mean_shape,
    train_decoder,
)
from training.features import Progress, features_of, targets_of
from training.folds import grouped_folds
from training.masks import Case, Cases
from training.metrics import bootstrap
from training.overlap import NOTHING, box_figures, case_figures, dice
from training.regrid import to_volume

METRICS = {
    "segment": ("dice", "hd95_mm", "surface_mm", "lesion_f1", "found", "false_alarms"),
    "localise": ("box_iou", "centre_error_mm", "lesion_f1", "found", "false_alarms"),
    "detect": ("average_precision", "froc", "sensitivity", "false_positives", "found", "false_alarms"),
}
FIRST = {"segment": "dice", "localise": "box_iou", "detect": "average_precision"}
"""the figure of each task that baselines and the first epoch are told by"""
CURVES = {"average_precision": average_precision, "froc": froc}


FINEST_MM = 1.0
"""edge of the finest voxels a decoder is shown: smaller ones cost eight times as much with each halving"""


@dataclass(frozen=True)
class Fit:
    """decoder and its threshold, of all cases; labels: what it looks for; report: figures and how they came about."""

    decoder: Decoder
    threshold: float
    labels: list[str]
    report: dict[str, Any]


@dataclass(frozen=True)
class FitOptions:
    """task: of METRICS; kind: of decoder.KINDS; folds: at least 2; windows: where volumes are finer than the encoder's box."""

    task: str = "segment"
    kind: str = "resnet"
    folds: int = 3
    learning: Learning = Learning()  # noqa: RUF009 - frozen
    windows: bool = True

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
    config = decoder_config(model.config, options.kind, len(cases.labels) > 1, FINEST_MM * options.windows)
    marked = [case.label for case in cases.cases]
    folds = grouped_folds(cases.patients, options.folds, options.learning.seed, marked)
    lesson = lesson_of(model, passport, contents, cases, cache, config, progress)
    encoded = monotonic()
    rows: dict[str, list[dict[str, Any]]] = {"decoder": [{} for _ in cases.cases]}
    device, unseen = next(model.parameters()).device, list[np.ndarray]()
    for number, (train, test) in enumerate(folds, start=1):
        told = partial(progress, f"fold {number}/{len(folds)}")
        found, held = _fold(config, lesson, cases.cases, (train, test), options, device, told)
        unseen.extend(held)
        for name, scored in found.items():
            into = rows.setdefault(name, [{} for _ in cases.cases])
            for case, figures in zip(test, scored, strict=True):
                into[case] = figures
    every = np.arange(len(cases.cases))
    decoder = train_decoder(
        config, lesson, every, options.learning, device, lambda done, _: progress("all", done, options.learning.epochs)
    )
    report = _report(rows, cases, options, len(folds))
    report["windows"] = len(lesson.rows)
    report["seconds"] = {"features": round(encoded - began, 2), "decoders": round(monotonic() - encoded, 2)}
    return Fit(decoder.cpu(), best_of(unseen), cases.labels, report)


def lesson_of(
    model: Decipher, passport: dict[str, Any], contents: Contents, cases: Cases, cache: Path,
    config: DecoderConfig, progress: Progress,
) -> Lesson:  # fmt: skip
    """Features and targets of the cases, from `cache` where they are there; the text vectors of a guided decoder's labels."""
    features = features_of(model, passport, contents, cases.cases, config.finest_mm, cache, progress)
    targets = targets_of(features, cases.cases, cache, progress)
    series = [case.record["series_id"] for case in cases.cases]
    rows = [features.rows_of[one] for one in series]
    labels = np.array([case.label for case in cases.cases])
    queries = None
    if config.guided:
        vectors = dict(zip(cases.labels, model.encode_texts(cases.labels).clone(), strict=True))
        queries = torch.stack([vectors[case.label] for case in cases.cases])
    case_of = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    layouts = [features.layouts[one] for one in series]
    return Lesson(features, targets, np.concatenate(rows), case_of, layouts, queries, labels)


def _fold(
    config: DecoderConfig, lesson: Lesson, cases: Sequence[Case], fold: tuple[np.ndarray, np.ndarray],
    options: FitOptions, device: torch.device, progress: Callable[[int, int], None],
) -> tuple[dict[str, list[dict[str, Any]]], list[np.ndarray]]:  # fmt: skip
    """Figures of the fold's test cases: all of the decoder's, the first one of one epoch and of the baselines; and what its
    Dice is at each threshold."""
    train, test = fold
    truths = [cases[case].read_mask() for case in test]
    found: dict[str, list[dict[str, Any]]] = {}

    def score(name: str, map_of: Maps, whole: bool = False) -> None:
        threshold = best_threshold(map_of, lesson, train)
        found[name] = [
            _figures(map_of(case), threshold, truth, lesson, case, cases[case], options.task, whole)
            for case, truth in zip(test, truths, strict=True)
        ]

    def said(decoder: nn.Module) -> Maps:
        return lambda case: canvas_map(decoder, lesson, case, device)

    def after(epoch: int, decoder: nn.Module) -> None:
        if epoch == 1:
            score("one_epoch", said(decoder))
        progress(epoch, options.learning.epochs)

    decoder = train_decoder(config, lesson, train, options.learning, device, after)
    score("decoder", said(decoder), whole=True)
    score("mean_shape", mean_shape(lesson, train))
    score("intensity", intensity(lesson, train))
    return found, dices_of(said(decoder), lesson, test)


def _figures(
    values: np.ndarray, threshold: float, truth: np.ndarray, lesson: Lesson, number: int, case: Case, task: str,
    whole: bool,
) -> dict[str, Any]:  # fmt: skip
    """Figures of a map on the canvas against the mask as drawn: `whole`, all there are, else the first one of the task."""
    layout, affine = lesson.layouts[number], np.array(case.record["affine_mm"]).reshape(4, 4)
    there = to_volume(values, layout.content, affine, layout.affine_mm, truth.shape)
    if task == "detect":
        return detection_figures(truth, there, threshold, affine)
    found = there > threshold
    if whole:
        return case_figures(truth, found, affine)
    return {"dice": dice(truth, found)} if task == "segment" else {"box_iou": box_figures(truth, found, affine)[0]}


def _report(rows: dict[str, list[dict[str, Any]]], cases: Cases, options: FitOptions, folds: int) -> dict[str, Any]:
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


def summary(name: str, rows: Sequence[dict[str, Any]], who: np.ndarray) -> dict[str, float | None]:
    """value and 95 % interval (low, high) over patients of one figure of many cases; None where none tells.

    lesion_f1, sensitivity and the curves of training.boxes are of the lesions of all cases together; false_positives: of a
    volume; found: of cases with something marked, the share in which something was predicted; false_alarms: the same of
    cases with nothing marked. Others are means of the cases that have them.
    """

    def score(weights: np.ndarray) -> np.ndarray:
        if name in CURVES:
            return CURVES[name](rows, weights)
        above, below = np.array([_fraction(name, row) for row in rows], dtype=float).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ above) / (weights @ below)

    low, high = bootstrap(who, score)
    value = float(score(np.ones((1, len(rows))))[0])
    return {key: None if one != one else float(one) for key, one in (("value", value), ("low", low), ("high", high))}


def _fraction(name: str, row: dict[str, Any]) -> tuple[float, float]:
    """What a case adds to the numerator and to the denominator of a figure."""
    if name in ("lesion_f1", "sensitivity", "false_positives", "found", "false_alarms"):
        hit, false, missed = (row[f"{kind}_lesions"] for kind in ("true", "false", "missed"))
        counts = {"lesion_f1": (2 * hit, 2 * hit + false + missed), "sensitivity": (hit, hit + missed)}
        if name in counts:
            return counts[name]
        if name == "false_positives":
            return false, 1.0
        marked, said = hit + missed > 0, hit + false > 0
        asked = marked == (name == "found")
        return float(asked and said), float(asked)
    value = row.get(name, NOTHING)
    return (0.0, 0.0) if value != value else (value, 1.0)
