"""Labelled series as an encoder takes them, read once and kept in a folder.

Decisions
- The archive is copied under names that say nothing, and the labels are joined only after it was read: what a model is told
  beside the pixels is what it is told of any archive (DICOM's own tags), never a label or a speaking file name.
- What is kept is known by the labels, the preparation's settings and its code: change one and it is read again.
- A mask is laid over the box through both affines, since it need not have the volume's grid. Only what marks disease counts
  (mask_content lesion or tumour): masks of organs are no lesions.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
import torch

import models.prepare
from index.contents import Contents
from index.labelled import read_archive
from index.labels import join_labels, load_labels
from index.nifti import read_part
from index.record import subjects
from models.config import PrepareConfig
from models.prepare import Prepared
from training.once import made_once

AT_ONCE = 8
DISEASE = ("lesion", "tumour")
Label = dict[str, str]


@dataclass(frozen=True, eq=False)
class Boxes:
    """n series: labels, the table's row of each; records, the catalogue's with the labels joined; prepared, as an encoder
    takes them; marked (n, I, J, K) bool, box voxels with disease in them; name: what all that was made of; lost: paths of the
    table's rows of which nothing was read."""

    name: str
    labels: list[Label]
    records: pl.DataFrame
    prepared: list[Prepared]
    marked: np.ndarray
    lost: list[str]

    def column(self, name: str) -> np.ndarray:
        """(n,) text, "" where the table says nothing."""
        return np.array([row.get(name) or "" for row in self.labels], dtype=object)

    @property
    def people(self) -> np.ndarray:
        """(n,) the subjects over whom intervals are resampled: the table's, else the catalogue's patients."""
        told = self.column("subject_id")
        return np.where(told == "", np.array(subjects(self.records), dtype=object), told).astype(str)

    @property
    def sources(self) -> np.ndarray:
        """(n,) the public collection of each series: what stands before the colon."""
        return np.array([source.partition(":")[0] for source in self.column("source")], dtype=object)


def boxes_of(data: Path, config: PrepareConfig, cache: Path) -> Boxes:
    """The series that DATA/labels.csv names, read and prepared, or as they were kept in `cache`."""
    told = data / "labels.csv"
    code = Path(models.prepare.__file__).read_bytes()
    whole = (
        told.read_bytes(),
        json.dumps(asdict(config), sort_keys=True).encode(),
        code,
        str(data.absolute()).encode(),
    )
    name = hashlib.blake2b(b"\0".join(whole), digest_size=8).hexdigest()
    folder = made_once(cache / f"boxes-{name}", lambda part: _write(part, data, config))
    return _read(name, folder)


def _write(part: Path, data: Path, config: PrepareConfig) -> None:
    """Read everything below `data` into the folder `part`."""
    archive = part / "archive"
    with (data / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    opaque = [_place(data / row["path"], archive, number) for number, row in enumerate(rows)]
    found = read_archive(archive)
    contents = Contents(found.records, lambda record: found.root, [])
    groups = [list(block.iter_rows(named=True)) for block in found.records.iter_slices(AT_ONCE)]
    boxes = [one for group in contents.prepared_all(groups, config) for one in group]
    kept = [number for number, one in enumerate(boxes) if isinstance(one, Prepared)]
    prepared = [one for one in boxes if isinstance(one, Prepared)]
    row_of = [_row_of(path, opaque) for path in found.records[kept]["path"]]
    for field in fields(Prepared):
        np.save(part / f"{field.name}.npy", np.stack([getattr(one, field.name).numpy() for one in prepared]))
    masks = [rows[row].get("mask") if rows[row].get("mask_content") in DISEASE else "" for row in row_of]
    np.save(part / "marked.npy", np.stack([_marked(data, *both) for both in zip(masks, prepared, strict=True)]))
    told = [{**row, "path": name} for row, name in zip(rows, opaque, strict=True)]
    pl.DataFrame(told).write_csv(part / "opaque.csv")
    join_labels(found.records[kept], load_labels(part / "opaque.csv")).records.write_parquet(part / "records.parquet")
    unread = sorted(set(range(len(rows))) - set(row_of))
    known = {"labels": [rows[row] for row in row_of], "lost": [rows[row]["path"] for row in unread]}
    (part / "labels.json").write_text(json.dumps(known))
    shutil.rmtree(archive)


def _read(name: str, folder: Path) -> Boxes:
    stacks = [torch.from_numpy(np.load(folder / f"{field.name}.npy")) for field in fields(Prepared)]
    prepared = [Prepared(*one) for one in zip(*stacks, strict=True)]
    records, known = pl.read_parquet(folder / "records.parquet"), json.loads((folder / "labels.json").read_text())
    return Boxes(name, known["labels"], records, prepared, np.load(folder / "marked.npy"), known["lost"])


def _place(source: Path, archive: Path, number: int) -> str:
    """Put a series into the archive under a name that says nothing: a folder, or a file with its ending. Returns that name."""
    name = f"s{number:05d}"
    if not source.is_dir():
        name += "".join(ending for ending in source.suffixes[-2:] if ending in (".nii", ".gz"))
        _link(source, archive / name)
        return name
    for place, file in enumerate(sorted(one for one in source.rglob("*") if one.is_file())):
        _link(file, archive / name / f"{place:05d}")
    return name


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def _row_of(path: str, opaque: Sequence[str]) -> int:
    """The row of labels that speaks of a path: its first folder, or the file."""
    return opaque.index(path.partition("/")[0])


def _marked(data: Path, mask: str | None, prepared: Prepared) -> np.ndarray:
    """Box voxels (I, J, K) bool that hold the centre of a voxel of the mask; none without a mask."""
    found = np.zeros(prepared.pixels.shape[1:], dtype=bool)
    if mask:
        volume = read_part(data / mask, 0)
        into = np.linalg.inv(prepared.affine_mm.numpy()) @ volume.affine_mm
        places = np.argwhere(volume.data[0] > 0.5) @ into[:3, :3].T + into[:3, 3]
        inside = np.rint(places).astype(int)
        inside = inside[((inside >= 0) & (inside < found.shape)).all(axis=1)]
        found[tuple(inside.T)] = True
    return found
