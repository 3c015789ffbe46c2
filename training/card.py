"""The card of a trained model, in Markdown: what it was made from, and what the last frozen check found."""

import json
from pathlib import Path
from typing import Any

from models.decipher import Decipher
from models.folder import FIGURES
from training.config import TrainConfig
from training.data import TrainingSet
from training.preparing import HEAD, PHANTOM

CHECKED = ("knn_sequence", "knn_sequence_majority", "knn_region", "knn_region_majority", "recall_at_1", "recall_at_5",
           "recall_at_10", "chance_at_10", "pool", "effective_rank", "mean_cosine", "hubness", "uniformity", "alignment",
           "certain_scale")  # fmt: skip


def card_of(config: TrainConfig, data: TrainingSet, run: Path, model: Decipher) -> str:
    """The card of a run's model."""
    drawn = data.rows.filter(data.weights > 0)
    real = drawn.filter(drawn["origin"] == "archive")
    heads = drawn.filter(drawn["origin"] == HEAD)
    stages = ", ".join(f"{name} ({config.stage(name).steps} steps)" for name in config.stages)
    lines = [
        f"# {config.preset}",
        "",
        f"Trained by `decipher train {config.preset}`: {stages}; {config.batch_size} volumes a batch, seed {config.seed}.",
        "",
        f"- real series: {real['series_id'].n_unique()}, each in {config.variants} versions",
        f"- phantom series: {drawn.filter(drawn['origin'] == PHANTOM)['series_id'].n_unique()}",
        f"- phantom series with {heads['patient_id'].n_unique()} real people's heads: {heads['series_id'].n_unique()}",
        f"- sources: {', '.join(sorted({s.split(':')[0] for s in real['source'].drop_nulls()})) or 'not named'}",
        "",
        *_head_lines(model),
        *_check_lines(_last_check(run)),
        "Not a medical device. Not for diagnosis.",
    ]
    return "\n".join(lines) + "\n"


def _head_lines(model: Decipher) -> list[str]:
    """What it can do beside encoding."""
    found = []
    if model.writer is not None:
        found.append(f"Writes reports with {len(model.writer.config.pieces)} pieces of words.")
    if model.detector is not None:
        found.append("Detects " + ", ".join(f"{t.organ} {t.name}" for t in model.detector.config.targets) + ".")
    return [line for said in found for line in (said, "")]


def write_figures(folder: Path, run: Path) -> None:
    """The figures of a run's last check into a model folder, to four digits after the point."""
    found = {name: round(value, 4) if isinstance(value, float) else value for name, value in _last_check(run).items()}
    (folder / FIGURES).write_text(json.dumps(found, indent=2) + "\n")


def _last_check(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    log = run / "metrics.jsonl"
    for line in log.read_text().splitlines() if log.is_file() else []:
        row = json.loads(line)
        found = row if row.get("check") else found
    return found


def _check_lines(check: dict[str, Any]) -> list[str]:
    if not check:
        return []
    whose = "patients that were not trained on" if check["held_out"] else "volumes that were trained on"
    said = [f"| {name} | {check[name]:.3g} |" for name in CHECKED if name in check]
    return [f"Last check, {check['volumes']} volumes of {whose}:", "", "| figure | value |", "|---|---|", *said, ""]
