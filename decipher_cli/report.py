"""Write a report of volumes, beside the nearest real report of an index.

Needs a model that writes: decipher train colipri. The nearest report is that of the most similar series in the index, where it
was encoded with the same model: compare, and trust neither. Not a medical device, not for diagnosis.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decipher_cli.choices import AsJson, Folder, Quiet

if TYPE_CHECKING:
    import numpy as np

    from index.store import Index

EXAMPLES = (
    "decipher report brain.nii.gz -m runs/colipri/model",
    "decipher report ./dicom/series-1 ./dicom/series-2 --beams 4 --json",
    "decipher report brain.nii.gz --temperature 0.7 --seed 3",
)


def report(
    volumes: Annotated[list[Path], typer.Argument(metavar="VOLUME...", help="NIfTI or DICOM files, or DICOM folders.")],
    model: Annotated[
        Path | None, typer.Option("-m", "--model", help="Model folder that writes. Default: the index's.")
    ] = None,
    index: Folder = None,
    beams: Annotated[int, typer.Option(min=1, help="Texts kept while searching; 1 is greedy.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="Above 0, words are drawn at random.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, other words.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    from decipher_cli.output import progress, put, put_json, say
    from index.reading import volume_at
    from models.prepare import prepare
    from training.reporting import NOT_A_DEVICE, Writing, describe, writing_model

    opened = _index_of(index, model)
    writer = writing_model(model, opened.folder if opened else None)
    read = [volume_at(path.expanduser()) for path in volumes]
    prepared = [prepare(volume, writer.config.prepare) for volume, _ in read]
    with progress() as bars:
        bars("write", 0, len(prepared))
        found = describe(writer, prepared, Writing(beams, temperature, seed))
    for path, (_, record), one in zip(volumes, read, found, strict=True):
        near = _nearest(opened, one.vector, record["series_id"])
        if as_json:
            put_json({"path": str(path), "report": one.text, "log_probability": round(one.log_probability, 4),
                      "nearest": near, "note": NOT_A_DEVICE})  # fmt: skip
        else:
            put(_page(path, one.text, near))
    say(NOT_A_DEVICE)


def _index_of(folder: Path | None, model: Path | None) -> "Index | None":
    """The index to look in; None where there is none, or none of this model."""
    from decipher_cli.output import say
    from decipher_cli.places import index_folder
    from index.store import Index, is_index
    from models.folder import passport

    place = index_folder(folder)
    if folder is None and not is_index(place):
        return None
    opened = Index.open(place)
    if model and opened.passport["hash"] != passport(str(model))["hash"]:
        say(f"{place} was encoded with another model: no nearest report is shown.")
        return None
    return opened


def _nearest(index: "Index | None", vector: "np.ndarray", series_id: str) -> dict[str, Any] | None:
    """The most similar series with a report, other than the volume itself."""
    import numpy as np

    from training.reporting import nearest_reports

    if index is None or not len(index):
        return None
    rows = index.columns(["series_id", "path", "report", "patient_id"])
    mine = rows.filter(rows["series_id"] == series_id)["patient_id"]
    owners = rows["patient_id"].fill_null(rows["series_id"]).to_list()
    owner = (mine[0] if len(mine) else None) or series_id
    vectors = index.gather(np.arange(len(index)))
    row = nearest_reports(vector[None], [owner], vectors, rows["report"].fill_null("").to_list(), owners)[0]
    if row < 0:
        return None
    score = round(float(vectors[row] @ vector), 4)
    return {
        "report": rows["report"][row],
        "series_id": rows["series_id"][row],
        "path": rows["path"][row],
        "score": score,
    }


def _page(path: Path, text: str, near: dict[str, Any] | None) -> str:
    lines = [str(path), "", "  written:", *_wrapped(text)]
    if near:
        lines += ["", f"  nearest real report ({near['path']}, cosine {near['score']:.2f}):", *_wrapped(near["report"])]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 76, initial_indent="    ", subsequent_indent="    ") or ["    (nothing)"]
