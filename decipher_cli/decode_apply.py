"""`decode apply`: what a fitted decoder marks in series, kept in a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decipher_cli.choices import AsJson, Device, Quiet

if TYPE_CHECKING:
    from index.contents import Contents
    from training.saved_decoder import SavedDecoder

SHOWN = 10
"""boxes of a series that are shown"""


def apply(
    decoder: Annotated[Path, typer.Argument(help="Folder that `decode fit -o` wrote.")],
    places: Annotated[list[Path], typer.Argument(metavar="ARCHIVE|INDEX|VOLUME...", help="What to look through.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for masks, volumes.csv, boxes.csv, sheet.png.")
    ],
    model: Annotated[
        Path | None,
        typer.Option("-m", "--model", help="Model folder. Default: where it was when the decoder was fitted."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="What a guided decoder looks for; may be repeated. Default: all its labels."),
    ] = None,
    format: Annotated[
        str, typer.Option(help="nifti, seg (DICOM SEG), or both: seg too for what came from DICOM.")
    ] = "both",
    everything: Annotated[
        bool, typer.Option("--all", help="Also series of sequences and body regions that the decoder never saw.")
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Mark series with a fitted decoder: masks in their own geometry, volumes in ml, a picture sheet.

    Masks are NIfTI files, and DICOM SEG too for series that came from DICOM. A DICOM SEG names no patient: no name, birth
    date or study date, and a hash of the index as PatientID. It keeps the UIDs of study, series and images, by which a
    viewer lays it over them, and by which who holds the archive can find the patient.
    """
    from decipher_cli.output import progress, put_json, say
    from index.embed import device_for
    from models.decipher import load
    from models.folder import passport
    from training.saved_decoder import check_encoder, load_decoder
    from training.segmenting import Asked, contents_at, labels_asked, segment

    saved = load_decoder(decoder)
    labels_asked(saved, text or [])
    named = str(model) if model else saved.model
    check_encoder(saved, passport(named))
    rows: list[dict[str, Any]] = []
    with progress() as bars:
        found = [contents_at(place, lambda done, of: bars("scan", done, of)) for place in places]
        opened = _chosen(saved, places, found, everything)
        loaded = load(named).to(device_for(device))
        asked = Asked(text or [], format)
        for one in segment(saved, loaded, opened, output, asked, lambda done, of: bars("decode", done, of)):
            if one.note:
                say(one.note)
                continue
            rows.append(one.row)
            if as_json:
                put_json(one.row)
    if not as_json:
        _show(rows)
    _say_end(rows, output)


def _chosen(saved: "SavedDecoder", places: list[Path], found: "list[Contents]", everything: bool) -> "list[Contents]":
    """What is to be marked: files, and of the rest what the decoder was fitted for, unless `everything` is."""
    from decipher_cli.output import say
    from models.errors import DecipherError
    from training.segmenting import fitting

    for note in [note for one in found for note in one.notes]:
        say(note)
    if everything:
        return found
    kept = [(one, 0) if place.is_file() else fitting(saved, one) for place, one in zip(places, found, strict=True)]
    passed = sum(count for _, count in kept)
    if passed and not any(one.records.height for one, _ in kept):
        seen = " of ".join(" or ".join(values) for values in saved.fitted_on.values() if values)
        raise DecipherError(
            f"None of the {passed} series is like those that the decoder was fitted on: {seen}.",
            "Take them with --all.",
        )
    if passed:
        say(f"{passed} series of other sequences or body regions passed over; --all takes them")
    return [one for one, _ in kept]


def _say_end(rows: list[dict[str, Any]], output: Path) -> None:
    from decipher_cli.output import say
    from training.sheet import MOST

    masks = sum(row["mask"] is not None for row in rows)
    segs = len({row["seg"] for row in rows} - {None})
    made = [f"{count} {noun}{'s' * (count > 1)}" for count, noun in ((masks, "mask"), (segs, "DICOM SEG")) if count]
    made += ["volumes.csv", *(["boxes.csv"] if any(row.get("boxes") for row in rows) else [])]
    first = f" (the first {MOST})" if len(rows) > MOST else ""
    say(f"{', '.join(made)} and sheet.png{first} in {output}. Not a medical device: marked by a model.")


def _show(rows: list[dict[str, Any]]) -> None:
    from decipher_cli.output import number, paper, table

    shown = table("tile", "series", "path", "label", "ml", "components", right=("tile", "ml", "components"))
    for row in rows:
        words = [str(row["tile"]), row["series_id"], row["path"], row["label"] or "-", number(row["volume_ml"], 2)]
        shown.add_row(*words, str(row["components"]))
    paper().print(shown)
    if any(row.get("boxes") for row in rows):
        _show_boxes(rows)


def _show_boxes(rows: list[dict[str, Any]]) -> None:
    from decipher_cli.output import number, paper, say, table

    shown = table("tile", "label", "score", "centre (R, A, S) mm", "extent mm", "ml", right=("tile", "score", "ml"))
    for row, box in ((one, box) for one in rows for box in one["boxes"][:SHOWN]):
        places = [", ".join(f"{value:.1f}" for value in box[key]) for key in ("centre_mm", "extent_mm")]
        figures = [number(box.get("score"), 2), *places, number(box["volume_ml"], 2)]
        shown.add_row(str(row["tile"]), row["label"] or "-", *figures)
    paper().print(shown)
    rest = sum(max(0, len(row["boxes"]) - SHOWN) for row in rows)
    if rest:
        say(f"{rest} more boxes in boxes.csv: of each series the first {SHOWN} are shown.")
