"""How evaluations are shown: tables on a terminal of 80 columns, and one folder of tables, plots and a README.

Decisions: the folder is made beside its place and renamed when it is whole. A folder that holds nothing but an earlier
evaluation is replaced, any other is refused before anything is measured. Plots are drawn without a display.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import DecipherError
from training.evaluation import IF_THERE, TASKS
from training.probe_plots import COLOURS, GREY, NAMES, draw, save

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from training.evaluation import Evaluation

ALL = "evaluation.json"
PARTS = ("retrieval", "quality", "probes", "health")
PROBES = "probes"
OWN_NAMES = {ALL, "README.md", *(f"{part}.{kind}" for part in PARTS for kind in ("parquet", "md", "png", "svg"))}
OWN_NAMES |= {f"{PROBES}/{task}/{name}" for task in (*TASKS, *IF_THERE) for name in NAMES}
OWN_FOLDERS = {PROBES, *(f"{PROBES}/{task}" for task in (*TASKS, *IF_THERE))}
HEADS = {"recall@1": "R@1", "recall@5": "R@5", "recall@10": "R@10", "precision@10": "P@10", "map": "mAP"}
HEADS |= {"median_rank": "rank"}
TITLES = {
    "text_to_volume": "Report to volume",
    "volume_to_text": "Volume to report",
    "identity": "Patient's other volumes",
    "identity_other_sequence": "Patient's other sequences",
}
WORDS = """R@k (recall@k): share of queries with something relevant among the first k.
P@10: share of the first ten that is relevant. mAP: mean average precision.
rank: median rank of the first relevant. Ties go against the encoder.
95 % intervals resample patients."""
PART_WORDS = {
    "retrieval": f"Reports to volumes and back, volumes to volumes by label and by patient, beside chance. {WORDS}",
    "quality": "The index itself: recall of search against exact search, latency, hubness, duplicates. "
    "Its effective rank is that of the vectors as they are, not centred.",
    "probes": "Linear probes on the frozen vectors, judged on patients that they did not see, beside baselines that know "
    "the labels alone (majority, mean), the acquisition tags, the geometry, the intensities (histogram), or what the same "
    "encoder makes of the pixels before it learnt anything (random_encoder).",
    "health": "The vectors: how many directions they use, how alike they are, whether neighbours agree.",
}
MAIN = {"regression": "pearson"}
INCHES_A_LINE = 0.32


def show_retrieval(rows: Sequence[dict[str, Any]]) -> None:
    """A small table for each kind of query."""
    from decipher_cli.output import paper, say, table

    for row in rows:
        shown = table("", *HEADS.values(), right=tuple(HEADS.values()), title=_title(row))
        shown.add_row("exact", *(_cell(row["metrics"].get(name), name) for name in HEADS))
        shown.add_row("  95 %", *(_between(row["metrics"].get(name), name) for name in HEADS))
        if row["indexed"]:
            shown.add_row("indexed", *(_cell(row["indexed"].get(name), name) for name in HEADS))
        shown.add_row("chance", *(_cell({"value": row["chance"][name]}, name) for name in HEADS))
        paper().print(shown)
        if left := [f"{count} {why.replace('_', ' ')}" for why, count in row["left_out"].items() if count]:
            say(f"left out: {', '.join(left)}")
    say(WORDS)


def _title(row: dict[str, Any]) -> str:
    name = TITLES.get(row["kind"]) or f"Volume to volume, {row['kind'].removeprefix('label:').replace('+', ' + ')}"
    return f"{name}: {row['queries']} of {row['patients']} patients, pool {row['pool']}"


def _cell(figure: dict[str, Any] | None, metric: str) -> str:
    return "-" if figure is None else _number(figure["value"], metric)


def _between(figure: dict[str, Any] | None, metric: str) -> str:
    if figure is None or figure["low"] is None:
        return "-"
    return f"{_number(figure['low'], metric)}-{_number(figure['high'], metric)}"


def _number(value: float, metric: str) -> str:
    return f"{value:.0f}" if metric == "median_rank" else f"{value:.2f}"


def check_folder(folder: Path) -> None:
    """DecipherError unless an evaluation may be written here: nothing there, or nothing but an earlier one."""
    if folder.exists() and (not _is_own(folder) or (any(folder.iterdir()) and not (folder / ALL).is_file())):
        raise DecipherError(f"{folder} holds something else than an evaluation.", "Name a new folder with -o.")


def _is_own(folder: Path) -> bool:
    """Whether it is a folder, with nothing in it that no evaluation writes."""
    return folder.is_dir() and all(
        path.relative_to(folder).as_posix() in (OWN_FOLDERS if path.is_dir() else OWN_NAMES)
        for path in folder.rglob("*")
    )


def write(evaluation: "Evaluation", folder: Path) -> list[str]:
    """Write everything into `folder`, whole or not at all; returns the files, as they are named in it."""
    from index.lock import writable

    check_folder(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists() and not _is_own(partial):
        raise DecipherError(f"{partial} is in the way.", "Remove it, or name another folder with -o.")
    try:
        with writable(folder):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _fill(evaluation, partial)
            check_folder(folder)
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _fill(evaluation: "Evaluation", folder: Path) -> None:
    for name, frame in evaluation.tables.items():
        frame.write_parquet(folder / f"{name}.parquet", compression="zstd")
        (folder / f"{name}.md").write_text(f"{PART_WORDS[name]}\n\n{markdown(frame)}")
        save(PLOTS[name](evaluation), folder / name)
    for probe in evaluation.probes:
        draw(probe, folder / PROBES / probe.task)
    (folder / ALL).write_text(json.dumps(evaluation.found, indent=2, allow_nan=False) + "\n")
    (folder / "README.md").write_text(readme(evaluation))


def markdown(frame: "pl.DataFrame") -> str:
    """A frame as a table of Markdown; numbers to four digits, nothing where a value is null."""
    lines = [frame.columns, ["---:" if kind.is_numeric() else "---" for kind in frame.dtypes]]
    lines += [[_text(value) for value in row] for row in frame.iter_rows()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def readme(evaluation: "Evaluation") -> str:
    """What each file is, with date, passport and counts."""
    found, tables = evaluation.found, evaluation.tables
    files = "".join(f"- `{name}.parquet`, `.md`, `.png`, `.svg`. {PART_WORDS[name]}\n" for name in tables)
    left = "".join(f"- {sentence}\n" for sentence in found["left_out"]) or "- nothing\n"
    collapse = f"\n**{found['health']['collapse']}**\n" if found["health"]["collapse"] else ""
    return f"""# Evaluation of {found["index"]}

Measured {found["date"]} with seed {found["seed"]}. Intervals are 95 % and resample patients; those of the index itself are
Wilson's over queries. No patient, series or path is named here.
{collapse}
{_listed("Index", found["counts"])}
{_listed("Encoder (passport)", found["passport"])}
## Files

{files}- `{PROBES}/TASK/`. Each probe: ROC, calibration and confusion of classes, or predicted against true (PNG, SVG).
- `{ALL}`. All figures as one JSON object.

## Left out

{left}
What labels mean and how kinds of query differ: `decipher eval retrieval --help`. Research use: not a medical device.
"""


def _listed(title: str, values: dict[str, Any]) -> str:
    return f"## {title}\n\n" + "".join(f"- {name.replace('_', ' ')}: {value}\n" for name, value in values.items())


def _figure(lines: int, panels: int) -> tuple["Figure", list[Any]]:
    from matplotlib.figure import Figure

    made = Figure(figsize=(4.6 * panels, 1.4 + INCHES_A_LINE * max(lines, 4)), layout="constrained")
    drawn = list(made.subplots(1, panels, sharey=True, squeeze=False)[0])
    for axes in drawn:
        axes.spines[["top", "right"]].set_visible(False)
    return made, drawn


def _dots(axes: Any, places: Sequence[float], figures: Sequence[dict[str, Any]], label: str, **style: Any) -> None:
    """A dot a figure at height `places`, with its interval where it has one."""
    values = np.array([one["value"] for one in figures], dtype=float)
    low, high = (np.array([np.nan if one.get(n) is None else one[n] for one in figures]) for n in ("low", "high"))
    errors = np.nan_to_num(np.clip([values - low, high - values], 0, None))
    if np.isnan(values).all():
        return
    axes.errorbar(values, places, xerr=errors, fmt=style.pop("fmt", "o"), capsize=2, label=label, **style)


def _lined(axes: Any, names: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.3, -0.5)
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)


def _legend(made: "Figure", axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)


def _plot_retrieval(evaluation: "Evaluation") -> "Figure":
    rows = evaluation.found["retrieval"]
    made, panels = _figure(len(rows), 2)
    for axes, metric in zip(panels, ("recall@10", "map"), strict=True):
        places = list(range(len(rows)))
        _dots(axes, places, [row["metrics"][metric] for row in rows], "encoder, 95 %", color=COLOURS[0])
        quick = [(place, row["indexed"]) for place, row in enumerate(rows) if row["indexed"]]
        if metric == "recall@10" and quick:
            _dots(axes, [at + 0.2 for at, _ in quick], [one[metric] for _, one in quick], "indexed", color=COLOURS[1])
        axes.plot([row["chance"][metric] for row in rows], places, "x", color=GREY, label="chance")
        _lined(axes, [row["kind"] for row in rows], metric)
        axes.set_xlim(-0.02, 1.02)
    _legend(made, panels[0])
    return made


def _plot_quality(evaluation: "Evaluation") -> "Figure":
    shares = evaluation.found["quality"]["recall@10_by_query"]
    made, (axes,) = _figure(len(shares), 1)
    _dots(axes, range(len(shares)), list(shares.values()), "search", color=COLOURS[0])
    _lined(axes, list(shares), "recall@10 of search against exact search")
    axes.set_xlim(min(0.9, *(share["low"] for share in shares.values())), 1.005)
    return made


def _plot_probes(evaluation: "Evaluation") -> "Figure":
    probes = evaluation.found["probes"]
    made, (axes,) = _figure(len(probes), 1)
    metrics = [MAIN.get(probe["kind"], "auroc") for probe in probes]
    rivals = sorted({name for probe in probes for name in probe["baselines"]})
    found = [p["metrics"][m] for p, m in zip(probes, metrics, strict=True)]
    _dots(axes, range(len(probes)), found, "encoder, 95 %", color=COLOURS[0])
    for name, colour, mark in zip(rivals, (*COLOURS[1:], GREY), "Dos^Xv", strict=False):
        there = [(at + 0.3, p["baselines"].get(name, {}).get(metrics[at])) for at, p in enumerate(probes)]
        known = [(at, value) for at, value in there if value is not None]
        if known:
            places, values = zip(*known, strict=True)
            axes.plot(values, places, mark, color=colour, markersize=5, label=name)
    _lined(axes, [f"{p['task']} ({m})" for p, m in zip(probes, metrics, strict=True)], "probes and baselines")
    _legend(made, axes)
    return made


def _plot_health(evaluation: "Evaluation") -> "Figure":
    made, (axes,) = _figure(8, 1)
    axes.plot(np.arange(1, len(evaluation.spectrum) + 1), np.cumsum(evaluation.spectrum), color=COLOURS[0])
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("directions")
    axes.set_title("share of the variance in the first directions")
    axes.grid(alpha=0.3)
    return made


PLOTS: dict[str, Callable[["Evaluation"], "Figure"]] = {
    "retrieval": _plot_retrieval,
    "quality": _plot_quality,
    "probes": _plot_probes,
    "health": _plot_health,
}
