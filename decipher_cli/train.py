"""Train an encoder from a preset or a YAML file; the same command resumes a run that was interrupted.

With no argument: both stages on the archive of the index in this folder or, where there is none, on a phantom archive
made on the spot. Ends with a model folder for `decipher encode -m`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.run import Source

EXAMPLES = (
    "decipher train",
    "decipher train align --data ./archive --set steps=500",
    "decipher train my-preset.yaml -o runs/mine --fresh",
)
PHANTOM_PATIENTS = 24


def train(
    preset: Annotated[str | None, typer.Argument(help="Preset or YAML file. Default: both stages.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Archive, or an index whose archive is meant.")] = None,
    reports: Annotated[Path | None, typer.Option(help="Table of reports.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Run folder. Default: runs/PRESET.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE; may be repeated.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin again in a folder that holds a run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and end.")] = False,
) -> None:
    from decipher_cli.output import progress, put, say
    from training.config import load_config

    config = load_config(preset, settings or [])
    if dry_run:
        put(config.to_yaml().rstrip())
        return
    from training import run as runs

    folder = output or Path("runs") / config.preset
    source = _source(data, reports, folder)
    runs.open_run(folder, config, source, fresh)
    _make_if_missing(source, folder)
    with progress() as bars:

        def told(row: dict[str, Any]) -> None:
            bars(row["stage"], row["step"], row["steps"], f"loss {row['loss']:.3f}")
            if bars.bars is None:
                say(f"{row['stage']} step {row['step']}/{row['steps']} loss {row['loss']:.4f}")

        model = runs.train(config, source, folder, bars, told)
    say(f"model: {model}")
    say(f"Next: decipher encode ARCHIVE -m {model} -i new-index")


def _source(data: Path | None, reports: Path | None, folder: Path) -> "Source":
    """What to train on: as told, else the archive of the index in this folder, else a phantom archive in the run."""
    from decipher_cli.output import say
    from decipher_cli.places import index_folder
    from index.store import Index, is_index
    from models.errors import DecipherError
    from training.run import Source

    asked = data or (index_folder(None) if is_index(index_folder(None)) else None)
    if asked is None:
        say(f"No index here: training on a phantom archive, {folder / 'archive'}")
        return Source(folder / "archive", reports=reports)
    if not is_index(asked):
        if not asked.exists():
            raise DecipherError(f"No such archive: {asked}.", "Name a folder of DICOM or NIfTI files, or an index.")
        return Source(asked, reports=reports)
    roots = [archive.root for archive in Index.open(asked).archives.values()]
    if len(roots) != 1:
        raise DecipherError(f"{len(roots)} archives feed {asked}.", "Name the one to train on: --data ARCHIVE")
    if not roots[0].exists():
        raise DecipherError(f"The archive of {asked} is not there: {roots[0]}.", "Name it with --data ARCHIVE.")
    say(f"training on {roots[0]}, the archive of {asked}")
    return Source(roots[0], reports=reports)


def _make_if_missing(source: "Source", folder: Path) -> None:
    from decipher_cli.output import progress
    from training.phantom.archive import make_archive

    if source.archive == folder / "archive" and not (folder / "archive" / "labels.csv").is_file():
        with progress() as bars:
            make_archive(source.archive, patients=PHANTOM_PATIENTS, progress=lambda done, of: bars("phantom", done, of))
