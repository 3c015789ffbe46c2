"""Fit a quick probe on stored vectors: how well they tell a label, with intervals, beside baselines.

COLUMN is age, sex, sequence, body_region, or any column of the catalogue or of --labels. Numbers are regressed,
categories are classified, several columns (or a column of lists, or of text parted by ;) are labels that may hold together.
Patients never lie on both sides of a fold. The encoder does not run; baselines from the pixels read the archive once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decipher_cli.choices import AsJson, Folder, Quiet

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from index.patches import Patches
    from index.store import Index

EXAMPLES = (
    "decipher probe --task age",
    "decipher probe --task diagnosis --labels labels.csv --by sex,vendor --json",
    "decipher probe --task oedema,haemorrhage,infarct --labels findings.csv --unit study",
    "decipher probe --task sex --group site --curve -o sex-probe",
)
ALIASES = {"age": "age_years", "region": "body_region"}


def probe(
    task: Annotated[str, typer.Option("--task", metavar="COLUMN,...", help="Label column, or several of yes and no.")],
    index: Folder = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels to join (CSV, TSV or Parquet).")] = None,
    head: Annotated[str, typer.Option(help="linear, knn, mlp, or attentive (takes patch vectors).")] = "linear",
    unit: Annotated[str, typer.Option(help="What is judged at once: series, study or patient.")] = "series",
    pool: Annotated[
        str, typer.Option(help="Series of a unit: mean of their vectors, or vote of their outputs.")
    ] = "mean",
    group: Annotated[str | None, typer.Option(metavar="COLUMN", help="Folds leave whole values of it out.")] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Also with 1, 3, 10 and 30 % of the patients.")] = False,
    by: Annotated[str, typer.Option(metavar="COLUMN,...", help="Also for each value of these columns.")] = "",
    pixels: Annotated[
        bool | None,
        typer.Option("--pixels/--no-pixels", help="Baselines from the pixels. Default: where few are to be read."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other folds.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to save probe and plots in.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    from decipher_cli.output import put_json, say
    from decipher_cli.places import index_folder
    from decipher_cli.probed import show, tell_saved
    from index.record import subjects
    from index.store import Index
    from training.probe import fit_probe
    from training.probe_plots import draw
    from training.saved_probe import check_savable, save_probe
    from training.units import unit_names

    if output:
        check_savable(head, output)
    opened = Index.open(index_folder(index))
    records = _labelled(opened, labels)
    columns = {name: column_named(name, records, "--task") for name in _names(task, records)}
    values = {name: records[column].to_list() for name, column in columns.items()}
    result = fit_probe(
        _features(opened, head),
        values if len(values) > 1 else values[task],
        subjects(records),
        head=head,
        task=task,
        baselines=_baselines(opened, records, list(columns.values()), head, pixels),
        seed=seed,
        units=(unit, unit_names(records, unit)) if unit != "series" else None,
        pool=pool,
        apart={group: records[column_named(group, records, "--group")].to_list()} if group else None,
        by={name: records[column_named(name, records, "--by")].to_list() for name in _names(by, records)},
        curve=curve,
    )
    for note in result.notes:
        say(note)
    if as_json:
        put_json(result.to_json())
    else:
        show(result)
    if output:
        tell_saved(save_probe(result, output, opened.passport, opened.card.get("model")), output, draw(result, output))


def _labelled(opened: "Index", labels: Path | None) -> "pl.DataFrame":
    """The records, a table of labels joined. Errors: DecipherError where no row of the table is about one of them."""
    from decipher_cli.output import say
    from index.labels import KEYS, join_labels, load_labels
    from models.errors import DecipherError

    if labels is None:
        return opened.records
    joined = join_labels(opened.records, load_labels(labels), opened.key)
    if not joined.matched:
        raise DecipherError(
            f"No row of {labels.name} is about a series of {opened.folder}.",
            f"Name series, studies or patients as the archive does, in a column: {', '.join(KEYS)}.",
        )
    say(f"labels from {labels.name}: {joined.matched} rows matched, {joined.unmatched} not")
    return joined.records


def _names(listed: str, records: "pl.DataFrame") -> list[str]:
    """The names in a list parted by commas; a column may have one in its own name."""
    if listed in records.columns:
        return [listed]
    return list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def column_named(task: str, records: "pl.DataFrame", option: str = "--task") -> str:
    """The column a task means. Errors: DecipherError naming the nearest column."""
    from difflib import get_close_matches

    from models.errors import DecipherError

    for name in (ALIASES.get(task, task), task):
        if name in records.columns:
            return name
    near = get_close_matches(task, [*ALIASES, *records.columns], n=1)
    hint = f"Did you mean {option} {near[0]}?" if near else "Columns of your own come with --labels FILE."
    raise DecipherError(f"There is no column {task!r}.", hint)


def _features(opened: "Index", head: str) -> "np.ndarray | Patches":
    """Vectors (n, E), or what was stored of patches (n, N, E) for a head that takes them."""
    from training.heads import PATCH_HEADS

    return opened.patches if head in PATCH_HEADS else opened.vectors


def _baselines(
    opened: "Index", records: "pl.DataFrame", columns: list[str], head: str, pixels: bool | None
) -> "dict[str, np.ndarray]":
    """What the probe must beat: how series were acquired, what their pixels are without the encoder, and for patches
    the whole vector."""
    from decipher_cli.output import progress, say
    from training.baselines import baseline_features
    from training.heads import PATCH_HEADS
    from training.rivals import pixel_features

    features = baseline_features(records, exclude=columns)
    if head in PATCH_HEADS:
        features["whole_vector"] = opened.vectors
    if pixels is not False:
        with progress() as bars:
            found, notes = pixel_features(opened, records, bars, force=pixels is True)
        for note in notes:
            say(note)
        features |= found
    return features
