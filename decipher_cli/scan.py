"""List the MRI series of an archive, and every other file with the reason why it is none.

Reads headers, and of pixels only a look. Writes a catalogue (Parquet, one row a series) and, beside it, the ledger of rejects.
A second scan looks at what changed alone. ARCHIVE may be such a catalogue, to look at it again.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decipher_cli.choices import Include, MinSlices, Parts, scan_options

if TYPE_CHECKING:
    import polars as pl

    from index.catalog import Catalogue
    from index.options import ScanOptions

EXAMPLES = (
    "decipher scan ./archive",
    "decipher scan ./archive -o site-a.parquet",
    "decipher scan ./archive --check",
    "decipher scan ./archive --include localizer,mask --parts 8",
    "decipher scan ./archive --json",
)


def scan(
    archive: Annotated[Path, typer.Argument(help="Folder of DICOM or NIfTI files, one file, or a catalogue.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Catalogue to write.")] = Path("catalogue.parquet"),
    min_slices: MinSlices = 5,
    parts: Parts = 4,
    include: Include = "",
    check: Annotated[bool, typer.Option("--check", help="List the series whose tags contradict each other.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")] = False,
) -> None:
    import time

    from decipher_cli.output import put_json, say
    from index.ledger import count_codes

    began = time.monotonic()
    found = _found(archive, output, scan_options(min_slices, parts, include))
    contradicting = found.records.drop_nulls("contradictions")
    codes = count_codes(found.rejects)
    if check:
        _list(contradicting, as_json)
    if as_json:
        counts = {"files": found.files, "series": found.records.height, "rejected": found.rejects.height}
        seconds = round(time.monotonic() - began, 2)
        put_json({**counts, "codes": codes, "contradicting": contradicting.height, "seconds": seconds})
    elif not check:
        _summarise(found.records)
    say(f"{found.files} files: {found.records.height} series, {found.rejects.height} rejects")
    if codes:
        say("rejects: " + ", ".join(f"{code} {count}" for code, count in codes.items()))
    if contradicting.height and not check:
        say(f"{contradicting.height} series have tags that contradict each other; list them with --check")


def _found(archive: Path, output: Path, options: "ScanOptions") -> "Catalogue":
    """The archive's catalogue, saved at `output`; or the catalogue that `archive` is, of which nothing is written."""
    import secrets

    from decipher_cli.output import progress, say
    from index import scanned
    from index.catalog import root_of
    from index.catalog import scan as catalogue_of

    if scanned.is_catalogue(archive):
        return scanned.read_catalogue(archive)[0]
    scanned.check_free(output)
    root, key = root_of(archive), scanned.own_key(output)
    known = scanned.load(output, root, options) if key else None
    key = key or secrets.token_bytes(32)
    with progress() as bars:
        found = catalogue_of(archive, options, key=key, known=known, progress=lambda done, of: bars("scan", done, of))
    if found is known:
        say(f"Nothing changed since the scan in {output}.")
    else:
        scanned.save_key(output, key)
        scanned.save(output, found, root, options)
        say(f"catalogue: {output}, rejects: {scanned.beside(output, scanned.REJECTS)}")
    return found


def _summarise(records: "pl.DataFrame") -> None:
    import polars as pl

    from decipher_cli.output import paper, table

    shown = table("sequence", "region", "series", "patients", right=("series", "patients"))
    groups = records.group_by("sequence", "body_region").agg(pl.len(), pl.col("patient_id").drop_nulls().n_unique())
    for sequence, region, count, patients in groups.sort(
        "len", "sequence", "body_region", descending=[True, False, False]
    ).iter_rows():
        shown.add_row(sequence or "unknown", region or "unknown", str(count), str(patients or "-"))
    paper().print(shown)


def _list(contradicting: "pl.DataFrame", as_json: bool) -> None:
    from decipher_cli.output import paper, put_json, table

    rows = contradicting.select("series_id", "path", "part", "contradictions")
    if as_json:
        for row in rows.iter_rows(named=True):
            put_json(row)
        return
    shown = table("path", "part", "what contradicts")
    for _, path, part, told in rows.iter_rows():
        shown.add_row(path, part or "", told)
    paper().print(shown if rows.height else "No series has tags that contradict each other.")
