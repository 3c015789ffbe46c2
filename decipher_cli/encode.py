"""Make an archive searchable: one vector a series, with its metadata, in an index folder.

Runs again in seconds: only what is new or changed is encoded. Several archives may feed one index. labels.csv,
participants.tsv and reports.csv at the archive's root are taken by themselves. With --patches a new index also keeps a vector
for every patch of a volume, which attentive probes read; it goes on so by itself.
"""

from pathlib import Path
from typing import Annotated

import typer

from decipher_cli.choices import Include, MinSlices, Parts, Quiet, scan_options

EXAMPLES = (
    "decipher encode ./archive",
    "decipher encode ./archive -i hospital-a --labels ages.csv",
    "decipher encode ./archive --prune",
    "decipher encode ./archive --patches -i with-patches",
)


def encode(
    archive: Annotated[Path, typer.Argument(help="Folder of DICOM or NIfTI files, one file, or a catalogue.")],
    index: Annotated[Path | None, typer.Option("-i", "--index", help="Index folder. Default: decipher-index.")] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Model folder or shipped name.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels (CSV, TSV or Parquet).")] = None,
    reports: Annotated[Path | None, typer.Option(help="Table of reports.")] = None,
    min_slices: MinSlices = 5,
    parts: Parts = 4,
    include: Include = "",
    workers: Annotated[int, typer.Option(min=0, help="Reading threads; 0: one a processor.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    prune: Annotated[bool, typer.Option("--prune", help="Remove series that the archive no longer has.")] = False,
    patches: Annotated[
        bool, typer.Option("--patches", help="A new index keeps patch vectors too, for attentive probes.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 3 when something was rejected.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")] = False,
    quiet: Quiet = False,
) -> None:
    from dataclasses import asdict

    from decipher_cli.output import progress, put_json, say
    from decipher_cli.places import index_folder
    from index.encode import EncodeOptions, encode_archive

    scan = scan_options(min_slices, parts, include)
    options = EncodeOptions(model, labels, reports, scan, workers, device, prune, patches)
    folder = index_folder(index)
    with progress() as bars:
        done = encode_archive(archive, folder, options, bars, say)
    for note in done.notes:
        say(note)
    if done.elsewhere:
        say(f"{done.elsewhere} series are in the index already, from another archive; they stay as they are.")
    if done.missing:
        say(f"{done.missing} series of the index are no longer in {archive}; they stay. --prune removes them.")
    if done.removed:
        say(f"{done.removed} series that {archive} no longer has were removed.")
    if done.rejected:
        codes = ", ".join(f"{code} {count}" for code, count in done.codes.items())
        say(f"{done.rejected} files are no series ({codes}); reasons in {folder / 'rejects.parquet'}")
    if as_json:
        put_json({k: v for k, v in asdict(done).items() if k != "notes"})
    else:
        say(f"{done.encoded} series encoded, {done.unchanged} unchanged, in {done.seconds:.1f} s -> {folder}")
        say(f'Next: decipher search "T2 hyperintense lesion"{"" if index is None else f" -i {index}"}')
    if strict and done.rejected:
        raise typer.Exit(3)
