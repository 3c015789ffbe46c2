"""A saved decoder applied to series: what it marks, in the patient's own geometry; training.results keeps it.

Decisions:
- Of an archive, series of sequences and body regions that the decoder never saw are passed over: what it would mark there
  means nothing. A series that nothing is known of is taken, and so is one that is named as a file.
- A DICOM SEG calls a patient by the hash of an index, which has a key; the hash of an archive has none and could be guessed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from index.catalog import root_of
from index.contents import Contents, contents_of
from index.reading import volume_at
from index.record import SCHEMA
from models.decipher import Decipher
from models.errors import DecipherError
from models.folder import titled
from models.prepare import Prepared
from models.volume import Volume
from training.boxes import scored_boxes
from training.loader import ahead
from training.overlap import boxes_in, without_strays
from training.regrid import to_volume
from training.results import Results, Source, check_format
from training.saved_decoder import SavedDecoder
from training.windows import blend, decoded, views_of


@dataclass(frozen=True)
class Asked:
    """texts: what a guided decoder looks for, all it was fitted on where there are none; format: of results.FORMATS."""

    texts: Sequence[str] = ()
    format: str = "both"


@dataclass(frozen=True)
class Result:
    """row: what the table says of a mask, with boxes where the task gives them, empty where there is none; note: a sentence
    on what could not be done."""

    row: dict[str, Any]
    note: str = ""


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


def fitting(saved: SavedDecoder, contents: Contents) -> tuple[Contents, int]:
    """The series that are not known to be of another sequence or body region than the decoder was fitted on, and how many
    are."""
    known = pl.lit(True)
    for column, fitted in saved.fitted_on.items():
        if fitted:
            known &= pl.col(column).is_null() | pl.col(column).is_in(fitted)
    kept = contents.records.filter(known)
    return replace(contents, records=kept), contents.records.height - kept.height


def segment(
    saved: SavedDecoder, model: Decipher, places: Sequence[Contents], folder: Path, asked: Asked,
    progress: Callable[[int, int], None],
) -> Iterator[Result]:  # fmt: skip
    """Each series and label in turn, its masks written below `folder`; the table and the sheet at the end.

    Errors: DecipherError as `labels_asked`, `check_format` and `check_output` have, or where no series could be read.
    """
    labels = labels_asked(saved, asked.texts)
    work = [(one, record) for one in places for record in one.records.iter_rows(named=True)]
    check_format(asked.format, [record for _, record in work], labels)
    results = Results(folder, asked.format, f"decipher {titled(saved.passport)}"[:64], _named(saved, asked))
    results.begin()
    queries = model.encode_texts(labels) if saved.decoder.config.guided else None
    saved.decoder.to(next(model.parameters()).device)
    read = ahead(lambda n: work[n][0].read(work[n][1], model.config.prepare), range(len(work)), 1)
    for done, ((contents, record), ready) in enumerate(zip(work, read, strict=True), start=1):
        progress(done, len(work))
        if isinstance(ready, str):
            yield Result({}, f"not read: {ready}")
            continue
        volume, prepared = ready
        source = Source(contents.root_of(record), record, volume, _patient_id(contents, record))
        maps = dict(zip(labels, maps_of(saved, model, volume, prepared, queries), strict=True))
        yield from _kept(saved, results, source, maps)
    results.finish()


def _named(saved: SavedDecoder, asked: Asked) -> bool:
    """Whether a mask's name tells its label."""
    return len(saved.labels) > 1 or bool(asked.texts)


def _kept(saved: SavedDecoder, results: Results, source: Source, maps: Mapping[str, np.ndarray]) -> Iterator[Result]:
    """What is written of a series, of which `maps` (I, J, K) are the probabilities by label."""
    rows, why = results.add(source, {label: values > saved.threshold for label, values in maps.items()})
    for row, values in zip(rows, maps.values(), strict=True):
        boxes = _boxes(saved, values, source.volume)
        results.add_boxes(row, boxes or [])
        yield Result(row if boxes is None else {**row, "boxes": boxes})
    if why:
        yield Result({}, why)


def _patient_id(contents: Contents, record: Mapping[str, Any]) -> str:
    return (contents.model and record["patient_id"]) or ""


def _boxes(saved: SavedDecoder, values: np.ndarray, volume: Volume) -> list[dict[str, Any]] | None:
    """The boxes of what a map marks; None where the task gives none."""
    if saved.task == "detect":
        return scored_boxes(values, saved.threshold, volume.affine_mm)
    if saved.task == "localise":
        return boxes_in(without_strays(values > saved.threshold), volume.affine_mm)
    return None


@torch.inference_mode()
def maps_of(
    saved: SavedDecoder, model: Decipher, volume: Volume, prepared: Prepared, queries: torch.Tensor | None
) -> list[np.ndarray]:
    """float32 (I, J, K), probabilities on the volume's grid: one map, or one of each query (L, dim) of a guided decoder."""
    view, layout = views_of(model, volume, prepared, saved.decoder.config.finest_mm)
    where = (layout.content, volume.affine_mm, layout.affine_mm, volume.data.shape[1:])
    maps = (decoded(saved.decoder, view, query) for query in ([None] if queries is None else queries[:, None]))
    return [to_volume(blend(found, layout), *where) for found in maps]
