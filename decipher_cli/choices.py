"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from index.options import ScanOptions


def _hush(quiet: bool) -> bool:
    from decipher_cli.output import hush

    if quiet:
        hush(True)
    return quiet


Folder = Annotated[Path | None, typer.Option("-i", "--index", help="Index folder. Default: decipher-index.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", callback=_hush, help="Data and errors alone, no talk.")]
MinSlices = Annotated[int, typer.Option(min=1, help="Fewest slices of a DICOM series.")]
Parts = Annotated[int, typer.Option(min=1, help="Most contrasts or time points taken of one series, evenly chosen.")]
Include = Annotated[
    str,
    typer.Option(
        metavar="CODE,...",
        help="Take in what is rejected as localizer, projection, secondary_capture, burned_in, mask or not_mr.",
    ),
]


def scan_options(min_slices: int, parts: int, include: str) -> "ScanOptions":
    """The choices as one value; a usage error for a code that can't be let in."""
    from index.options import INCLUDABLE, ScanOptions

    codes = frozenset(code.strip() for code in include.split(",") if code.strip())
    if unknown := sorted(codes - set(INCLUDABLE)):
        raise typer.BadParameter(
            f"{', '.join(unknown)}: one of {', '.join(INCLUDABLE)} is expected", param_hint="--include"
        )
    return ScanOptions(min_slices, parts, codes)
