"""Fit a light decoder on the frozen encoder's patches, and apply it: masks and boxes in the patient's own geometry."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decipher_cli.choices import AsJson, Quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from index.contents import Contents

EXAMPLES = {
    "fit": (
        "decipher decode fit --masks masks.csv --data ./archive -o lesions",
        "decipher decode fit --task localise --masks masks.csv --epochs 40 --json",
        "decipher decode fit --masks organs.csv --decoder unetr --folds 5 -o organs",
    ),
    "apply": (
        "decipher decode apply lesions ./archive -o masks",
        "decipher decode apply lesions brain.nii.gz -o masks --json",
        'decipher decode apply organs ./archive -o masks --text "left kidney"',
    ),
}
WORDS = {
    "dice": "overlap with the mask as drawn: 0 nothing, 1 all",
    "hd95_mm": "95th percentile of the distance between the borders",
    "surface_mm": "mean distance between the borders",
    "lesion_f1": "lesions found by any voxel, against false ones and missed ones",
    "found": "of volumes with something marked, the share in which something was",
    "false_alarms": "of volumes with nothing marked, the share in which something was",
    "box_iou": "overlap with the box about what is marked",
    "centre_error_mm": "from the box's centre to the true one",
}
BASELINES = {"mean_shape": "mean of the training masks", "intensity": "one threshold of intensity"}


def fit(
    masks: Annotated[Path, typer.Option(help="Table of path or series_id, mask, and label if any.")],
    task: Annotated[str, typer.Option(help="segment or localise.")] = "segment",
    data: Annotated[
        Path | None,
        typer.Option(help="Archive or index. Default: decipher-index if there is one, else the table's folder."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("-m", "--model", help="Model folder. Default: the index's, else the one that ships.")
    ] = None,
    decoder: Annotated[str, typer.Option(help="linear, resnet or unetr.")] = "resnet",
    folds: Annotated[int, typer.Option(min=2, help="Parts for cross-validation; no patient is in two.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Times that the decoder sees each case.")] = 20,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the encoder's features for the next fit.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other folds and another start.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder to save the decoder in.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a decoder to masks on the frozen encoder: figures of patients it did not see, with intervals and baselines.

    The encoder runs once a series; epochs take the decoder's time alone. With several labels in the table, one decoder serves
    all: it is told by the label's text what to look for.
    """
    from tempfile import TemporaryDirectory

    from decipher_cli.output import progress, put_json, say
    from index.contents import contents_of
    from index.embed import device_for
    from models.decipher import load
    from models.folder import lasting_name, passport
    from training.decode import FitOptions, fit_decoder
    from training.decoding import Learning
    from training.masks import read_cases
    from training.saved_decoder import check_free, save_decoder

    options = FitOptions(task, decoder, folds, Learning(epochs=epochs, seed=seed))
    if output:
        check_free(output)
    place = _data(data, masks)
    with progress() as bars, TemporaryDirectory(prefix="decipher-") as temporary:
        contents = contents_of(place, progress=lambda done, of: bars("scan", done, of))
        cases = read_cases(masks, contents)
        for note in [*contents.notes, *cases.notes]:
            say(note)
        named = lasting_name(str(model) if model else contents.model)
        who = passport(named)
        loaded = load(named).to(device_for(device))
        fitted = fit_decoder(loaded, who, contents, cases, cache or Path(temporary), options, bars)
    if output:
        save_decoder(fitted, output, named, who)
        say(f"decoder saved in {output}")
    if as_json:
        put_json(fitted.report)
    else:
        _show(fitted.report)


def _data(data: Path | None, masks: Path) -> Path:
    from decipher_cli.places import index_folder
    from index.store import is_index

    if data:
        return data
    default = index_folder(None)
    return default if is_index(default) else masks.absolute().parent


def _show(report: dict[str, Any]) -> None:
    from decipher_cli.output import paper, say, table

    shown = table("figure", "value", "what it is")
    for name, figure in report["metrics"].items():
        if figure["value"] is not None:
            shown.add_row(name, _interval(figure), WORDS[name])
    for name, figures in {"after one epoch": report["one_epoch"], **report["baselines"]}.items():
        for first, figure in figures.items():
            shown.add_row(f"{first}, {name.replace('_', ' ')}", _interval(figure), BASELINES.get(name, "the decoder"))
    for label, figures in report.get("by_label", {}).items():
        first = next(iter(figures))
        shown.add_row(f"{first}, {label}", _interval(figures[first]), "cases of this label")
    paper().print(shown)
    taken = report["seconds"]
    say(f"{report['task']}: {report['decoder']}, {report['n']} masks ({report['empty']} empty) of {report['groups']} "
        f"patients, {report['folds']} folds, {report['epochs']} epochs; features {taken['features']:.0f} s, "
        f"decoders {taken['decoders']:.0f} s.")  # fmt: skip
    say("95 % intervals resample patients; every figure is from patients the decoder did not see.")


def _interval(figure: dict[str, Any]) -> str:
    from decipher_cli.output import number

    return f"{number(figure['value'], 3)} ({number(figure['low'], 3)} to {number(figure['high'], 3)})"


def apply(
    decoder: Annotated[Path, typer.Argument(help="Folder that `decode fit -o` wrote.")],
    places: Annotated[list[Path], typer.Argument(metavar="ARCHIVE|INDEX|VOLUME...", help="What to look through.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for masks, volumes.csv and sheet.png.")],
    model: Annotated[
        Path | None,
        typer.Option("-m", "--model", help="Model folder. Default: where it was when the decoder was fitted."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="What a guided decoder looks for; may be repeated. Default: all its labels."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Mark series with a fitted decoder: a NIfTI mask of each in its file's own geometry, volumes in ml, a picture sheet."""
    from decipher_cli.output import progress, put_json, say
    from index.embed import device_for
    from models.decipher import load
    from models.folder import passport
    from training.saved_decoder import check_encoder, load_decoder
    from training.segmenting import contents_at, labels_asked, segment

    saved = load_decoder(decoder)
    labels_asked(saved, text or [])
    named = str(model) if model else saved.model
    check_encoder(saved, passport(named))
    rows: list[dict[str, Any]] = []
    with progress() as bars:
        opened = _opened(places, lambda place: contents_at(place, lambda done, of: bars("scan", done, of)))
        loaded = load(named).to(device_for(device))
        found = segment(saved, loaded, opened, output, text or [], lambda done, of: bars("decode", done, of))
        for one in found:
            if one.unread:
                say(f"not read: {one.unread}")
                continue
            rows.append(one.row)
            if as_json:
                put_json(one.row)
    if not as_json:
        _show_rows(rows)
    say(f"{len(rows)} masks, volumes.csv and sheet.png in {output}. Not a medical device: marked by a model.")


def _opened(places: list[Path], open_one: "Callable[[Path], Contents]") -> "list[Contents]":
    from decipher_cli.output import say

    found = [open_one(place) for place in places]
    for note in [note for one in found for note in one.notes]:
        say(note)
    return found


def _show_rows(rows: list[dict[str, Any]]) -> None:
    from decipher_cli.output import number, paper, table

    shown = table("tile", "series", "path", "label", "ml", "components", right=("tile", "ml", "components"))
    for row in rows:
        words = [str(row["tile"]), row["series_id"], row["path"], row["label"] or "-", number(row["volume_ml"], 2)]
        shown.add_row(*words, str(row["components"]))
    paper().print(shown)
    for row in rows:
        for box in row.get("boxes", []):
            _show_box(row["series_id"], box)


def _show_box(series_id: str, box: dict[str, Any]) -> None:
    from decipher_cli.output import put

    centre, extent = (", ".join(f"{value:.1f}" for value in box[key]) for key in ("centre_mm", "extent_mm"))
    put(f"{series_id}: box at ({centre}) mm, {extent} mm wide, {box['volume_ml']:.2f} ml")


VERBS = (fit, apply)
