"""Fit a quick probe on stored vectors: how well they tell a label, with intervals, beside baselines.

COLUMN is age, sex, sequence, body_region, or any column of the catalogue or of --labels. Numbers are regressed,
categories are classified; patients never lie on both sides of a fold. The encoder does not run.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import polars as pl

    from training.probe import ProbeResult

EXAMPLES = (
    "decipher probe --task age",
    "decipher probe --task diagnosis --labels labels.csv --json",
    "decipher probe --task sex --head knn",
)
ALIASES = {"age": "age_years", "region": "body_region"}


def probe(
    task: Annotated[str, typer.Option("--task", help="Label column.")],
    index: Annotated[Path | None, typer.Option("-i", "--index", help="Index folder. Default: decipher-index.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels to join (CSV, TSV or Parquet).")] = None,
    head: Annotated[str, typer.Option(help="linear, knn or mlp.")] = "linear",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to save the probe in.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    from decipher_cli.output import put_json, say
    from decipher_cli.places import index_folder
    from index.labels import join_labels, load_labels
    from index.record import subjects
    from index.store import Index
    from training.baselines import baseline_features
    from training.probe import fit_probe
    from training.saved_probe import save_probe

    opened = Index.open(index_folder(index))
    records = opened.records
    if labels:
        joined = join_labels(records, load_labels(labels), opened.key)
        records = joined.records
        say(f"labels from {labels.name}: {joined.matched} rows matched, {joined.unmatched} not")
    column = column_named(task, records)
    result = fit_probe(
        opened.vectors,
        records[column].to_list(),
        subjects(records),
        head=head,
        task=task,
        baselines=baseline_features(records, exclude=[column]),
    )
    for note in result.notes:
        say(note)
    if output:
        save_probe(result, output, opened.passport)
        say(f"probe saved in {output}")
    if as_json:
        put_json(result.to_json())
    else:
        _show(result)


def column_named(task: str, records: "pl.DataFrame") -> str:
    """The column a task means. Errors: DecipherError naming the nearest column."""
    from difflib import get_close_matches

    from models.errors import DecipherError

    for name in (ALIASES.get(task, task), task):
        if name in records.columns:
            return name
    near = get_close_matches(task, [*ALIASES, *records.columns], n=1)
    hint = f"Did you mean --task {near[0]}?" if near else "Columns of your own come with --labels FILE."
    raise DecipherError(f"No column {task!r} to probe.", hint)


def _show(result: "ProbeResult") -> None:
    from decipher_cli.output import number, paper, say, table

    names = list(result.metrics)
    shown = table("features", *names, right=tuple(names))
    shown.add_row("encoder", *(_interval(result.metrics[name]) for name in names))
    for rival, scores in result.baselines.items():
        shown.add_row(rival, *(number(scores.get(name), 3) for name in names))
    paper().print(shown)
    left = f", {result.n_missing} without a label left out" if result.n_missing else ""
    say(f"{result.task}: {result.kind}, {result.head} head, {result.n} series of {result.groups} patients{left}")
    say("95 % intervals resample patients; every figure is from patients the probe did not see.")


def _interval(metric: dict[str, Any]) -> str:
    from decipher_cli.output import number

    return f"{number(metric['value'], 3)} ({number(metric['low'], 3)} to {number(metric['high'], 3)})"
