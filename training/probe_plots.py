"""Pictures of a probe, from predictions of patients that it did not see.

    roc  calibration  confusion     classes; of several labels at once, roc alone
    predicted                       numbers: predicted against true
    curve                           what fewer patients would have told, where that was asked

Decisions
- The colours of Okabe and Ito, which the colour-blind tell apart; grey is chance and perfection. Letters can be read at a
  width of 600 pixels.
- The same result gives the same bytes. Nobody is named: dots have no labels, and what is counted is series and patients.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from index.lock import writable
from training.calibration import BINS, calibration_error
from training.probe import ProbeResult
from training.probe_numbers import Figure as Figures
from training.probe_numbers import confusion, mean_roc, reliability, rocs_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = [(colour, dashes) for dashes in ("-", "--") for colour in COLOURS]
GREY, PALE = "0.55", "0.85"
WIDTH, MOST_INCHES = 6.4, 14.0
TITLE_INCHES, MARGIN = 0.3, 0.02
DOTS_PER_INCH = 150
MOST_DOTS = 5000
"""more are painted into the SVG as one picture"""
MOST_LETTERS = 18
TITLES = {"auroc": "AUROC", "mae": "MAE", "r2": "R²", "pearson": "r"}
UNITS = {"series": "series of ", "study": "studies of "}


def draw(result: ProbeResult, folder: Path) -> list[Path]:
    """Draw what suits the probe into `folder` as PNG and SVG; pictures of an earlier probe there are replaced.

    Errors: DecipherError where the folder cannot be written to.
    """
    import matplotlib

    makers = dict(PICTURES[result.kind])
    if result.curve:
        makers["curve"] = _draw_curve
    with matplotlib.rc_context({"text.parse_math": False}):  # or a dollar in a class's name would begin a formula
        figures = {name: make(result) for name, make in makers.items()}
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (folder / name).unlink(missing_ok=True)
        return [path for name, figure in figures.items() for path in save(figure, folder / name)]


def save(figure: "Figure", stem: Path) -> list[Path]:
    """Write a figure as PNG and as SVG; the same figure gives the same bytes."""
    import matplotlib

    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in KINDS]
    with matplotlib.rc_context({"svg.hashsalt": "decipher", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of another script: boxes in the PNG, letters in the SVG
        figure.savefig(paths[0], dpi=DOTS_PER_INCH, metadata={"Software": None})
        figure.savefig(paths[1], dpi=DOTS_PER_INCH, metadata={"Date": None})
    return paths


def _draw_roc(result: ProbeResult) -> "Figure":
    rocs = rocs_of(result)
    largest = {one.name for one in sorted(rocs, key=lambda one: -one.n)[: len(STYLES)]}
    figure, (axes,) = _figure(result, 3.9)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance  0.50")
    for one in rocs:
        if one.name not in largest:
            axes.plot(one.false, one.true, color=PALE, linewidth=0.8)
    for one, (colour, dashes) in zip([one for one in rocs if one.name in largest], STYLES, strict=False):
        label = f"{_short(one.name)}  {_said(one.area)}"
        axes.plot(one.false, one.true, dashes, color=colour, linewidth=1.3, label=label)
    if len(rocs) > len(largest):
        axes.plot([], [], color=PALE, label=f"{len(rocs) - len(largest)} smaller classes")
    if len(rocs) > 1:
        axes.plot(*mean_roc(rocs), color="black", linewidth=2.2, label=f"mean  {_said(result.metrics['auroc'])}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    _legend(figure, axes, "AUROC (95 % interval)")
    return figure


def _draw_calibration(result: ProbeResult) -> "Figure":
    bins = reliability(result)
    error = calibration_error(result.target, result.outputs)
    figure, (axes, below) = _figure(result, 4.9, (3, 1))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
    label = f"probe (95 % interval)\nexpected calibration\nerror {error:.3f}"
    style = {"fmt": "o-", "color": COLOURS[0], "linewidth": 1.3, "capsize": 2}
    right = [one.right for one in bins]
    axes.errorbar([b.sure for b in bins], [r["value"] for r in right], yerr=_spread(right), label=label, **style)
    axes.set(ylabel="share that is right", ylim=(-0.02, 1.02))
    _legend(figure, axes)
    counts = [one.n for one in bins]
    bars = below.bar([(one.place + 0.5) / BINS for one in bins], counts, 0.9 / BINS, color=COLOURS[0], alpha=0.5)
    below.bar_label(bars, padding=1, fontsize=9)
    below.set(xlabel="probability of the class that is named", ylabel="count", ylim=(0, 1.3 * max(counts)))
    below.set_xlim(BINS // len(result.classes) / BINS - 0.01, 1.01)
    return figure


def _draw_confusion(result: ProbeResult) -> "Figure":
    names = [_short(name) for name in result.classes]
    counts = confusion(result)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = _figure(result, min(3 + 0.32 * len(names), MOST_INCHES))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true, given in zip(*np.nonzero(counts), strict=True):
        ink = "white" if shares[true, given] > 0.6 else "black"
        axes.text(given, true, str(counts[true, given]), ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted (shade: share of the true class)", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _draw_predicted(result: ProbeResult) -> "Figure":
    true, predicted = result.target, result.outputs[:, 0]
    figure, (axes,) = _figure(result, 3.9)
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axes.plot(ends, ends, color=GREY, linestyle=":", label="predicted = true")
    mean = f"mean\nMAE  {result.baselines['mean']['mae']:.2f}"
    axes.axhline(true.mean(), color=COLOURS[1], linewidth=1.3, label=mean)
    told = [f"{title}  {_said(result.metrics[name])}" for name, title in TITLES.items() if name in result.metrics]
    dots = {"alpha": 0.6, "linewidths": 0, "rasterized": len(true) > MOST_DOTS}
    axes.scatter(true, predicted, 18, color=COLOURS[0], label="\n".join(["probe", *told]), **dots)
    axes.set(xlabel=f"true {_short(result.task)}", ylabel=f"predicted {_short(result.task)}")
    axes.set_aspect("equal")
    _legend(figure, axes)
    return figure


def _draw_curve(result: ProbeResult) -> "Figure":
    metric = "auroc" if result.classes else "mae"
    patients = [point["patients"] for point in result.curve]
    value, low, high = (
        np.array([point["metrics"][metric][end] for point in result.curve], dtype=float)
        for end in ("value", "low", "high")
    )
    figure, (axes,) = _figure(result, 3.9)
    axes.fill_between(patients, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    axes.plot(patients, value, "o-", color=COLOURS[0], linewidth=2, label=f"probe  {_said(result.metrics[metric])}")
    known = {name: level for name, scores in result.baselines.items() if (level := scores.get(metric)) is not None}
    for (name, level), (colour, _) in zip(sorted(known.items(), key=lambda one: -one[1]), STYLES[1:], strict=False):
        axes.axhline(level, color=colour, linestyle="--", linewidth=1.2, label=f"{name}  {level:.2f}")
    axes.set_xscale("log")
    shares = [f"{count}\n{point['share']:.0%}" for count, point in zip(patients, result.curve, strict=True)]
    axes.set_xticks(patients, shares)
    axes.minorticks_off()
    axes.set(xlabel="patients to learn from", ylabel=TITLES[metric])
    _legend(figure, axes, f"{TITLES[metric]} (95 % interval)")
    return figure


def _figure(result: ProbeResult, height: float, heights: tuple[int, ...] = (1,)) -> tuple["Figure", Any]:
    """A figure of so many inches, and its panels one below the other."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(compress=True, rect=(MARGIN, 0.01, 1 - 2 * MARGIN, 0.98 - TITLE_INCHES / height))
    figure = Figure(figsize=(max(WIDTH, height), height), layout=layout)
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    count = f"{result.n} {UNITS[result.unit]}" if result.unit in UNITS else ""
    title = f"{_short(result.task)}: {count}{result.groups} patients"
    figure.suptitle(title, x=MARGIN, y=1 - TITLE_INCHES / 3 / height, ha="left", va="top", fontsize=11)
    return figure, panels


def _legend(figure: "Figure", axes: "Axes", title: str = "") -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title=title, frameon=False, alignment="left")


def _said(figures: Figures) -> str:
    if figures["value"] is None:
        return "not defined"
    if figures["low"] is None:
        return f"{figures['value']:.2f}"
    return f"{figures['value']:.2f} ({figures['low']:.2f} to {figures['high']:.2f})"


def _spread(figures: Sequence[Figures]) -> np.ndarray:
    """How far intervals reach below and above (2, n)."""
    value, low, high = (np.array([one[end] for one in figures], dtype=float) for end in ("value", "low", "high"))
    return np.clip([value - low, high - value], 0, None)


def _short(name: str) -> str:
    """Beginning and end of a long name."""
    half = MOST_LETTERS // 2
    return name if len(name) <= MOST_LETTERS else f"{name[:half]}…{name[-half + 1 :]}"


Draw = Callable[[ProbeResult], "Figure"]
CLASSES: dict[str, Draw] = {"roc": _draw_roc, "calibration": _draw_calibration, "confusion": _draw_confusion}
PICTURES: dict[str, dict[str, Draw]] = {
    "binary": CLASSES,
    "multiclass": CLASSES,
    "multilabel": {"roc": _draw_roc},
    "regression": {"predicted": _draw_predicted},
}
KINDS = ("png", "svg")
NAMES = [f"{name}.{kind}" for name in ("roc", "calibration", "confusion", "predicted", "curve") for kind in KINDS]
"""every file that `draw` may write"""
