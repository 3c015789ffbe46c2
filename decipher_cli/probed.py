"""What a probe found, as tables on stdout, and what is said of a saved one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.probe import ProbeResult


def show(result: "ProbeResult") -> None:
    """The figures beside those of the baselines; then of each label, the curve, and of each part."""
    from decipher_cli.output import number, paper, say, table

    names = list(result.metrics)
    shown = table("features", *names, right=tuple(names))
    shown.add_row("encoder", *_intervals(result.metrics, names))
    for rival, scores in result.baselines.items():
        shown.add_row(rival, *(number(scores.get(name), 3) for name in names))
    paper().print(shown)
    _show_rows("label", [(name, [], figures) for name, figures in result.labels.items()], names)
    points = [(f"{one['share']:.0%}", [str(one["patients"])], one["metrics"]) for one in result.curve]
    _show_rows("share", points, names, "patients")
    for column, parts in result.by.items():
        rows = [(value, [str(one["n"]), str(one["groups"])], one["metrics"]) for value, one in parts.items()]
        _show_rows(column, rows, names, "n", "patients")
    left = f", {result.n_missing} without a label left out" if result.n_missing else ""
    judged = {"series": "series", "study": "studies", "patient": "patients"}.get(result.unit, result.unit)
    of = "" if result.unit == "patient" else f" of {result.groups} patients"
    say(f"{result.task}: {result.kind}, {result.head} head, {result.n} {judged}{of}{left}")
    say("95 % intervals resample patients; every figure is from patients the probe did not see.")


def _show_rows(
    title: str, rows: Sequence[tuple[str, list[str], dict[str, Any] | None]], names: list[str], *counts: str
) -> None:
    """A table of figures, one line a row; parts of too few patients say so."""
    from decipher_cli.output import paper, table

    if not rows:
        return
    shown = table(title, *counts, *names, right=(*counts, *names))
    for name, counted, figures in rows:
        shown.add_row(name, *counted, *(_intervals(figures, names) if figures else ["too few patients"]))
    paper().print(shown)


def _intervals(figures: dict[str, Any], names: list[str]) -> list[str]:
    return [_interval(figures[name]) for name in names]


def _interval(metric: dict[str, Any], digits: int = 3) -> str:
    from decipher_cli.output import number

    return f"{number(metric['value'], digits)} ({number(metric['low'], digits)} to {number(metric['high'], digits)})"


def tell_saved(card: dict[str, Any], folder: Path, plots: list[Path]) -> None:
    """Where a probe was saved, and how far its predictions may be trusted."""
    from decipher_cli.output import say

    drawn = f", with {len(plots)} plots" if plots else ""
    say(f"probe saved in {folder}{drawn}: decipher predict {folder} INDEX")
    if around := card.get("interval"):
        say(_around(around))
    for name, one in zip(_labels(card), card.get("calibrations", []), strict=False):
        say(f"{name}{_calibration(one)}")


def _around(interval: dict[str, Any]) -> str:
    half, coverage = interval["half_width"], interval["coverage"]
    if half is None:
        return "too few patients for intervals around predictions: 19 are needed"
    measured = coverage["value"] is not None
    share = f"of other patients: {_interval(coverage, 2)}" if measured else "too few patients to measure it"
    return f"95 % of predictions should lie within {half:.3g} of the truth ({share})"


def _labels(card: dict[str, Any]) -> list[str]:
    return [f"{name}: " for name in card["classes"]] if card["kind"] == "multilabel" else [""]


def _calibration(one: dict[str, Any] | None) -> str:
    if one is None:
        return "too few labels to calibrate probabilities"
    before, after = (one[when]["calibration_error"]["value"] for when in ("before", "after"))
    return f"probabilities calibrated: on other patients they are off by {after:.3f}, before by {before:.3f} (0 is perfect)"
