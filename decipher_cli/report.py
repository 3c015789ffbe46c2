"""Write a report of volumes, beside the nearest real report of an index.

Needs a model that writes: decipher train colipri. The nearest report is that of the most similar series in the index, where it
was encoded with the same model: compare, and trust neither. Not a medical device, not for diagnosis.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decipher_cli.choices import AsJson, Device, Folder, Quiet

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

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
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    import numpy as np

    from decipher_cli.output import progress, put, put_json, say
    from decipher_cli.places import index_folder
    from index.catalog import root_of
    from index.embed import device_for
    from index.reading import volume_at
    from index.store import Index, is_index
    from models.prepare import prepare
    from training.reporting import NOT_A_DEVICE, Writing, describe, writing_model

    place = index_folder(index)
    opened = Index.open(place) if index or is_index(place) else None
    writer = writing_model(str(model) if model else opened.card.get("model") if opened else None, device_for(device))
    read = [volume_at(path.expanduser()) for path in volumes]
    prepared = [prepare(volume, writer.config.prepare) for volume, _ in read]
    with progress() as bars:
        bars("write", 0, len(prepared))
        found = describe(writer, prepared, Writing(beams, temperature, seed))
    if opened and _is_of_another(opened, model):
        say(f"{place} was encoded with another model: no nearest report is shown.")
        opened = None
    records = [(root_of(path.expanduser()), record) for path, (_, record) in zip(volumes, read, strict=True)]
    nearest = _nearest(opened, records, np.stack([one.vector for one in found]))
    for path, one, near in zip(volumes, found, nearest, strict=True):
        if as_json:
            put_json({"path": str(path), "report": one.text, "log_probability": round(one.log_probability, 4),
                      "nearest": near, "note": NOT_A_DEVICE})  # fmt: skip
        else:
            put(_page(path, one.text, near))
    (say if as_json else put)(NOT_A_DEVICE)


def _is_of_another(index: "Index", model: Path | None) -> bool:
    """Whether the vectors of an index are not those of the model that writes, or no longer."""
    from models.folder import passport

    name = str(model) if model else index.card.get("model")
    return bool(index.passport["hash"] != passport(name)["hash"])


def _nearest(
    index: "Index | None", asked: list[tuple[Path, dict[str, Any]]], vectors: "np.ndarray"
) -> list[dict[str, Any] | None]:
    """For each volume, its archive's root and its record, the most similar series with the report of another patient."""
    import numpy as np

    from index.record import subjects
    from training.reporting import nearest_reports

    if index is None or not len(index):
        return [None] * len(asked)
    rows = index.columns(["series_id", "study_id", "patient_id", "archive", "path", "report"])
    owners, pool = subjects(rows), index.gather(np.arange(len(index)))
    mine = [next((owners[row] for row in _rows_of(index, rows, *one)), "") for one in asked]
    best = nearest_reports(vectors, mine, pool, rows["report"].fill_null("").to_list(), owners)
    found: list[dict[str, Any] | None] = []
    for vector, row in zip(vectors, best, strict=True):
        said = rows.row(row, named=True) if row >= 0 else None
        keys = ("report", "series_id", "path")
        found.append(said and {**{key: said[key] for key in keys}, "score": round(float(pool[row] @ vector), 4)})
    return found


def _rows_of(index: "Index", rows: "pl.DataFrame", root: Path, record: dict[str, Any]) -> list[int]:
    """The rows of an index that are a volume itself, or of its study: by the ids of DICOM, or by where a NIfTI file lies."""
    import polars as pl

    same = pl.col("series_id") == record["series_id"]
    if record["format"] == "dicom":
        same |= pl.col("study_id") == record["study_id"]
    place = (root / record["path"]).resolve()
    for name, archive in index.archives.items() if record["format"] == "nifti" else ():
        if place.is_relative_to(archive.root.resolve()):
            inside = str(place.relative_to(archive.root.resolve()))
            same |= (pl.col("archive") == name) & (pl.col("path") == inside)
    return rows.select(same.fill_null(False).arg_true()).to_series().to_list()


def _page(path: Path, text: str, near: dict[str, Any] | None) -> str:
    lines = [str(path), "", "  written:", *_wrapped(text)]
    if near:
        lines += ["", f"  nearest real report ({near['path']}, cosine {near['score']:.2f}):", *_wrapped(near["report"])]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 76, initial_indent="    ", subsequent_indent="    ") or ["    (nothing)"]
