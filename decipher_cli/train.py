"""Train an encoder from a preset or a YAML file; the same command resumes a run that was interrupted.

With no argument: all stages on the archive of the index in this folder or, where there is none, on a phantom archive
made on the spot. Ends with a model folder for `decipher encode -m`. Several GPUs: --set devices=8, or
torchrun --no-python decipher train ..., or a SLURM job.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decipher_cli.choices import AsJson

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.source import Source

EXAMPLES = (
    "decipher train",
    "decipher train align --data ./archive --set steps=500",
    "decipher train --set vision.steps=2000 --set text.steps=200 --dry-run",
    "decipher train my-preset.yaml -o runs/mine --fresh",
)
PHANTOM_PATIENTS = 24
PHANTOM_STUDIES = 96
"""the same where findings are learnt, each of which needs several patients"""


def train(
    preset: Annotated[str | None, typer.Argument(help="Preset or YAML file. Default: all stages.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Archive, or an index whose archive is meant.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels.")] = None,
    reports: Annotated[Path | None, typer.Option(help="Table of reports.")] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="A further archive, of which only the volumes are taken.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Run folder. Default: runs/PRESET.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE or STAGE.KEY=VALUE; may be repeated.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin again in a folder that holds a run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print steps, sizes, operations and memory, and end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    from decipher_cli.output import say
    from training.config import load_config

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    config = load_config(preset, settings or [])
    if dry_run:
        _print_costs(config, as_json)
        return
    from training import run as runs
    from training.launch import is_first

    folder = output or Path("runs") / config.preset
    source = replace(_source(config, data, folder), labels=labels, reports=reports, images=images)
    complete = not fresh and runs.is_complete(folder)
    if is_first():
        runs.open_run(folder, config, source, fresh)
        if complete:
            say("This run is complete. To begin again: --fresh")
        else:
            _make_if_missing(source, folder, PHANTOM_STUDIES if "detect" in config.stages else PHANTOM_PATIENTS)
    model = folder / "model" if complete else _run(config, source, folder)
    if is_first():
        _end(model, as_json)


def _run(config: "TrainConfig", source: "Source", folder: Path) -> Path:
    """Train with a bar on a terminal, with lines elsewhere; silent on all processes but the first."""
    from decipher_cli.output import progress, say
    from training import run as runs
    from training.launch import is_first

    with progress() as bars:

        def told(row: dict[str, Any]) -> None:
            if row.get("check"):
                say(_check_line(row))
                if row["collapse"]:
                    say(f"COLLAPSE in stage {row['stage']} at step {row['step']}: {row['collapse']}")
                return
            speed = f"{row['volumes_per_second']:.1f}/s {row['memory_gb']:.1f} GB"
            bars(row["stage"], row["step"], row["steps"], f"loss {row['loss']:.3f} · {speed}")
            if bars.bars is None:
                say(f"{row['stage']} step {row['step']}/{row['steps']} loss {row['loss']:.4f}, {speed}")

        return runs.train(config, source, folder, bars if is_first() else _silent, told, say if is_first() else _silent)


def _silent(*said: object) -> None:
    pass


def _check_line(row: dict[str, Any]) -> str:
    """The figures of a frozen check in one line, each beside what no learning would give."""
    parts = [
        f"{name} kNN {row[key]:.2f} (majority {row[key + '_majority']:.2f})"
        for name, key in (("sequence", "knn_sequence"), ("region", "knn_region"))
        if key in row
    ]
    parts += [
        f"{row['queries']} to volume R@{k} {row[f'recall_at_{k}']:.2f} (chance {row[f'chance_at_{k}']:.2f})"
        for k in (1, 5, 10)
        if f"recall_at_{k}" in row
    ]
    parts += [f"effective rank {row['effective_rank']:.0f}"] if "effective_rank" in row else []
    whose = "held out" if row["held_out"] else "trained on"
    return f"check {row['stage']} {row['step']}: {'; '.join(parts)}; {row['volumes']} volumes {whose}"


def _end(model: Path, as_json: bool) -> None:
    from decipher_cli.output import put_json, say

    if as_json:
        put_json({"model": str(model), "run": str(model.parent)})
    say(f"model: {model}")
    say(f"Next: decipher encode ARCHIVE -m {model} -i new-index")


def _print_costs(config: "TrainConfig", as_json: bool) -> None:
    from decipher_cli.output import paper, put, put_json, table
    from training.run import stage_costs

    costs = stage_costs(config)
    if as_json:
        for cost in costs:
            put_json(cost)
        return
    columns = ("steps", "batch", "parameters", "trained", "TFLOP/step", "PFLOP", "memory")
    made = table("stage", *columns, right=columns, title=config.preset)
    for c in costs:
        parameters, trained = f"{c['parameters'] / 1e6:.1f} M", f"{c['trained'] / 1e6:.1f} M"
        flops = f"{c['flops'] / 1e12:.3g}", f"{c['total_flops'] / 1e15:.3g}"
        made.add_row(
            c["stage"], f"{c['steps']:,}", str(c["batch_size"]), parameters, trained, *flops, f"{c['memory_gb']:.1f} GB"
        )
    paper().print(made)
    put(config.to_yaml().rstrip())


def _source(config: "TrainConfig", data: Path | None, folder: Path) -> "Source":
    """What to train on: as told, else the archive of the index in this folder, else a phantom archive in the run."""
    from decipher_cli.output import say
    from decipher_cli.places import index_folder
    from index.store import Index, is_index
    from models.errors import DecipherError
    from training.source import Source

    if data is None and set(config.stages) == {"text"} and config.texts:
        return Source(None)
    asked = data or (index_folder(None) if is_index(index_folder(None)) else None)
    if asked is None:
        say(f"No index here: training on a phantom archive, {folder / 'archive'}")
        return Source(folder / "archive")
    if not is_index(asked):
        if not asked.exists():
            raise DecipherError(f"No such archive: {asked}.", "Name a folder of DICOM or NIfTI files, or an index.")
        return Source(asked)
    roots = [archive.root for archive in Index.open(asked).archives.values()]
    if len(roots) != 1:
        raise DecipherError(f"{len(roots)} archives feed {asked}.", "Name the one to train on: --data ARCHIVE")
    if not roots[0].exists():
        raise DecipherError(f"The archive of {asked} is not there: {roots[0]}.", "Name it with --data ARCHIVE.")
    say(f"training on {roots[0]}, the archive of {asked}")
    return Source(roots[0])


def _make_if_missing(source: "Source", folder: Path, patients: int) -> None:
    from decipher_cli.output import progress
    from training.phantom.archive import make_archive

    if source.archive == folder / "archive" and not (folder / "archive" / "labels.csv").is_file():
        with progress() as bars:
            make_archive(source.archive, patients=patients, progress=lambda done, of: bars("phantom", done, of))
