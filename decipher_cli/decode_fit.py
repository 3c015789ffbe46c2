"""`decode fit`: a decoder fitted to masks, and how good it is on patients that it did not see."""

from pathlib import Path
from typing import Annotated, Any

import typer

from decipher_cli.choices import AsJson, Device, Quiet

WORDS = {
    "dice": "overlap with the mask as drawn: 0 nothing, 1 all",
    "hd95_mm": "95th percentile of the distance between the borders",
    "surface_mm": "mean distance between the borders",
    "lesion_f1": "lesions found by any voxel, against false ones and missed ones",
    "found": "of volumes with something marked, the share in which something was",
    "false_alarms": "of volumes with nothing marked, the share in which something was",
    "box_iou": "overlap with the box about what is marked",
    "centre_error_mm": "from the box's centre to the true one",
    "average_precision": "of the boxes, by falling score: how few false ones come with the lesions",
    "froc": "mean sensitivity at half, 1, 2, 4 and 8 false boxes a volume",
    "sensitivity": "lesions whose box is met by one that was found",
    "false_positives": "boxes a volume that meet no lesion",
}
BASELINES = {"mean_shape": "mean of the training masks", "intensity": "one threshold of intensity"}


def fit(
    masks: Annotated[
        Path, typer.Option(help="Table of path or series_id, mask (NIfTI or DICOM SEG), and label or value if any.")
    ],
    task: Annotated[
        str, typer.Option(help="segment, localise (the object's box) or detect (a box and score for each lesion).")
    ] = "segment",
    data: Annotated[
        Path | None,
        typer.Option(help="Archive or index. Default: decipher-index if there is one, else the table's folder."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("-m", "--model", help="Model folder. Default: the index's, else the one that ships.")
    ] = None,
    decoder: Annotated[str, typer.Option(help="linear, resnet or unetr.")] = "resnet",
    folds: Annotated[int, typer.Option(min=2, help="Parts for cross-validation; no patient is in two.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Times that the decoder sees up to two windows of a case.")] = 20,
    windows: Annotated[
        bool, typer.Option(help="Show volumes finer than the encoder's box in windows, at their own voxel size.")
    ] = True,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the encoder's features for the next fit.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other folds and another start.")] = 0,
    device: Device = "auto",
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

    options = FitOptions(task, decoder, folds, Learning(epochs=epochs, seed=seed), windows)
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
        save_decoder(fitted, output, named, who, [case.record for case in cases.cases])
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
    from decipher_cli.output import many, paper, say, table

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
    say(f"{report['task']}: {report['decoder']}, {many(report['n'], 'mask')} ({report['empty']} empty) of {report['groups']} "
        f"patients, {report['folds']} folds, {many(report['epochs'], 'epoch')}; features {taken['features']:.0f} s, "
        f"decoders {taken['decoders']:.0f} s.")  # fmt: skip
    say("95 % intervals resample patients; every figure is from patients the decoder did not see.")


def _interval(figure: dict[str, Any]) -> str:
    from decipher_cli.output import number

    return f"{number(figure['value'], 3)} ({number(figure['low'], 3)} to {number(figure['high'], 3)})"
