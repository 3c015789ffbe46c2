"""A saved decoder applied to series: a mask of each in the patient's own geometry, a table of volumes, a picture sheet.

Decisions:
- A mask is named by its series, and by its label where the decoder knows several; the table says which is whose.
- The table is there from the beginning, so that a folder that was begun is known as our own and may be gone on with.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from index.catalog import root_of
from index.contents import Contents, contents_of
from index.reading import volume_at
from index.record import SCHEMA
from index.segment import replace_file
from index.writing import write_mask
from models.decipher import Decipher
from models.decoder import inside
from models.errors import DecipherError
from models.prepare import Prepared, collate
from models.volume import Volume
from training.loader import ahead
from training.overlap import boxes_in, components, without_strays
from training.regrid import to_volume
from training.saved_decoder import SavedDecoder
from training.sheet import MOST, sheet_png, tile_of

TABLE, SHEET = "volumes.csv", "sheet.png"
COLUMNS = {"tile": pl.Int64, "series_id": pl.String, "path": pl.String, "label": pl.String,
           "volume_ml": pl.Float64, "components": pl.Int64, "mask": pl.String}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """row: what the table says, with boxes where the task is localise; unread: a sentence, where there is no row."""

    row: dict[str, Any]
    unread: str = ""


def contents_at(place: Path, progress: Callable[[int, int], None]) -> Contents:
    """What an archive, an index or a single volume (a NIfTI or DICOM file) holds.

    Errors: DecipherError where there is none.
    """
    if not place.is_file():
        return contents_of(place, progress=progress)
    _, record = volume_at(place)
    return Contents(pl.DataFrame([record], schema=SCHEMA), lambda record: root_of(place), [])


def labels_asked(saved: SavedDecoder, asked: Sequence[str]) -> list[str]:
    """What the decoder looks for: the texts that are asked for, else all it was fitted on.

    Errors: DecipherError for a text where the decoder takes none.
    """
    if asked and not saved.decoder.config.guided:
        known = saved.labels[0] or "one thing"
        raise DecipherError(f"The decoder is not guided by text: it marks {known}.", "Leave --text out.")
    return list(dict.fromkeys(asked)) or saved.labels


def check_output(folder: Path) -> None:
    """Errors: DecipherError where `folder` holds something else than masks that were written before."""
    if folder.exists() and not (folder / TABLE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DecipherError(f"{folder} holds something else than masks.", "Name a new folder with -o.")


def segment(
    saved: SavedDecoder, model: Decipher, places: Sequence[Contents], folder: Path, asked: Sequence[str],
    progress: Callable[[int, int], None],
) -> Iterator[Result]:  # fmt: skip
    """Each series and label in turn, its mask written below `folder`; the table and the sheet at the end.

    Errors: DecipherError as `check_output` and `labels_asked` have, or where no series could be read.
    """
    labels = labels_asked(saved, asked)
    check_output(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(folder, [])
    queries = model.encode_texts(labels) if saved.decoder.config.guided else None
    saved.decoder.to(next(model.parameters()).device)
    work = [(one, record) for one in places for record in one.records.iter_rows(named=True)]
    rows: list[dict[str, Any]] = []
    tiles: list[np.ndarray] = []
    read = ahead(lambda n: work[n][0].read(work[n][1], model.config.prepare), range(len(work)), 1)
    for done, ((contents, record), ready) in enumerate(zip(work, read, strict=True), start=1):
        progress(done, len(work))
        if isinstance(ready, str):
            yield Result({}, ready)
            continue
        volume, prepared = ready
        for label, found in zip(labels, masks_of(saved, model, volume, prepared, queries), strict=True):
            name = _free_name(record["series_id"], label if len(saved.labels) > 1 or asked else "", rows)
            write_mask(folder / name, found, contents.root_of(record), record)
            rows.append({**_row(record, label, found, volume), "tile": len(rows) + 1, "mask": name})
            if len(tiles) < MOST:
                tiles.append(tile_of(volume, found))
            boxes = boxes_in(without_strays(found), volume.affine_mm) if saved.task == "localise" else None
            yield Result(rows[-1] if boxes is None else {**rows[-1], "boxes": boxes})
    if not rows:
        raise DecipherError("No series could be read.", "See why: decipher scan ARCHIVE --check")
    _write_table(folder, rows)
    replace_file(folder / SHEET, sheet_png(tiles))


@torch.inference_mode()
def masks_of(
    saved: SavedDecoder, model: Decipher, volume: Volume, prepared: Prepared, queries: torch.Tensor | None
) -> list[np.ndarray]:
    """bool (I, J, K) on the volume's grid: one mask, or one of each query (L, dim) of a guided decoder."""
    batch = collate([prepared]).to(next(model.parameters()).device)
    patches = model.encode_prepared(batch).patches.half().float()
    found = []
    for query in [None] if queries is None else queries[:, None]:
        values = (saved.decoder(batch, patches, query).sigmoid() * inside(batch))[0, 0].cpu().numpy()
        geometry = (prepared.content.numpy(), volume.affine_mm, prepared.affine_mm.numpy(), volume.data.shape[1:])
        found.append(to_volume(values, *geometry) > saved.threshold)
    return found


def _row(record: Mapping[str, Any], label: str, found: np.ndarray, volume: Volume) -> dict[str, Any]:
    voxel_ml = abs(float(np.linalg.det(volume.affine_mm[:3, :3]))) / 1000
    return {
        "tile": 0, "series_id": record["series_id"], "path": record["path"],
        "label": label, "volume_ml": round(float(found.sum()) * voxel_ml, 4), "components": components(found)[1],
    }  # fmt: skip


def _free_name(series_id: str, label: str, rows: Sequence[dict[str, Any]]) -> str:
    """A file's name that no earlier row has."""
    stem = "-".join(filter(None, [series_id, re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")]))
    names, taken = [stem, *(f"{stem}-{n}" for n in range(2, len(rows) + 3))], {row["mask"] for row in rows}
    return next(f"{name}.nii.gz" for name in names if f"{name}.nii.gz" not in taken)


def _write_table(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    replace_file(folder / TABLE, pl.DataFrame(list(rows), schema=COLUMNS).write_csv().encode())
