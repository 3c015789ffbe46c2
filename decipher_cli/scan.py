"""List the MRI series of an archive, and every other file with the reason why it is none.

Reads headers only. Writes a catalogue (Parquet, one row a series) and, beside it, the ledger of rejects.
"""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = (
    "decipher scan ./archive",
    "decipher scan ./archive -o site-a.parquet",
    "decipher scan ./archive --json",
)


def scan(
    archive: Annotated[Path, typer.Argument(help="Folder of DICOM or NIfTI files, or one file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Catalogue to write.")] = Path("catalogue.parquet"),
    min_slices: Annotated[int, typer.Option(min=1, help="Fewest slices of a DICOM series.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    import time

    from decipher_cli.output import paper, progress, put_json, say, table
    from index.archive import read_archive
    from index.ledger import count_codes

    began = time.monotonic()
    with progress() as bars:
        found = read_archive(archive, min_slices=min_slices, progress=lambda done, of: bars("scan", done, of))
    rejects = output.with_suffix(".rejects.parquet")
    found.records.write_parquet(output, compression="zstd")
    found.rejects.write_parquet(rejects, compression="zstd")
    codes = count_codes(found.rejects)
    if as_json:
        seconds = round(time.monotonic() - began, 2)
        counts = {"files": found.files, "series": found.records.height, "rejected": found.rejects.height}
        put_json({**counts, "codes": codes, "seconds": seconds})
    else:
        shown = table("sequence", "region", "series", "patients", right=("series", "patients"))
        for row in _summary(found.records):
            shown.add_row(*row)
        paper().print(shown)
    for note in found.notes:
        say(note)
    say(f"{found.files} files: {found.records.height} series in {output}, {found.rejects.height} rejects in {rejects}")
    if codes:
        say("rejects: " + ", ".join(f"{code} {count}" for code, count in codes.items()))


def _summary(records) -> list[tuple[str, ...]]:  # type: ignore[no-untyped-def]
    import polars as pl

    groups = records.group_by("sequence", "body_region").agg(pl.len(), pl.col("patient_id").n_unique())
    ordered = groups.sort("len", descending=True).iter_rows()
    return [(sequence or "unknown", region or "unknown", str(n), str(who)) for sequence, region, n, who in ordered]
