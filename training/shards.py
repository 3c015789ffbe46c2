"""Prepared volumes on disk, memory-mapped: what the training loop reads.

Decisions:
- A shard is a folder: pixels.npy (n, I, J, K) uint8, content.npy, geometry.npy, rows.parquet (row i describes volume
  i), its name holding a hash of all that it was made from; an existing name is never made again.
- A shard is written under a temporary name and renamed when whole; how large it gets is told before it is written, and
  which series it had to leave out after.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from models.config import PrepareConfig, family_of
from models.errors import DecipherError
from models.prepare import Prepared
from training.once import made_once
from training.place import unpacked_mask
from training.preparing import HEAD, PHANTOM, Kind, Made, head_patients, patient_series, series_versions, work_through

COLUMNS: dict[str, Any] = {
    "series_id": pl.Utf8, "study_id": pl.Utf8, "patient_id": pl.Utf8, "path": pl.Utf8, "source": pl.Utf8,
    "redistributable": pl.Utf8, "sequence": pl.Utf8, "body_region": pl.Utf8, "plane": pl.Utf8, "contrast": pl.Utf8,
    "age_years": pl.Float64, "sex": pl.Utf8, "diagnosis": pl.Utf8, "lesion": pl.Utf8, "findings": pl.Utf8, "report": pl.Utf8,
    "skull_stripped": pl.Utf8, "fat_suppressed": pl.Boolean, "variant": pl.Int64, "origin": pl.Utf8,
    "lesion_mask": pl.Binary,
}  # fmt: skip
FINDINGS = "findings"
"""column that keeps an archive's own label column of findings"""
Say = Callable[[str], None]
MOST_SEQUENCES = 8
"""series of one digital patient, at most"""


def kept_as(column: str) -> str:
    """Under which name shards keep a label column, '' for none."""
    return column if not column or column in COLUMNS else FINDINGS


@dataclass(frozen=True)
class Shard:
    """rows.height volumes; pixels (n, I, J, K) uint8 stand for intensities 0..1."""

    pixels: np.ndarray
    content: np.ndarray
    geometry: np.ndarray
    rows: pl.DataFrame

    @cached_property
    def families(self) -> np.ndarray:
        """int64 (n,): each row's place in FAMILIES, -1 where its sequence is unknown."""
        return np.array([family_of(sequence) for sequence in self.rows["sequence"]], dtype=np.int64)

    def sample(self, row: int) -> Prepared:
        """One volume, without a batch axis."""
        pixels = torch.from_numpy(self.pixels[row].copy()).float().div_(255)[None]
        content, geometry = torch.from_numpy(self.content[row]), torch.from_numpy(self.geometry[row])
        family = torch.tensor(self.families[row])
        return Prepared(pixels, content, geometry, torch.eye(4, dtype=torch.float64), family)

    def lesion(self, row: int) -> np.ndarray | None:
        """The voxels (I, J, K) bool of a volume that are lesion, None where that is not known or there is none."""
        packed = self.rows["lesion_mask"][row]
        return None if packed is None else unpacked_mask(packed, self.pixels.shape[1:])


def open_shard(folder: Path) -> Shard:
    """A finished shard, its pixels memory-mapped."""
    rows = pl.read_parquet(folder / "rows.parquet")
    there = (folder / "pixels.npy").is_file()
    pixels = np.load(folder / "pixels.npy", mmap_mode="r") if there else np.zeros((0, 0, 0, 0), np.uint8)
    return Shard(pixels, np.load(folder / "content.npy"), np.load(folder / "geometry.npy"), rows)


@dataclass(frozen=True)
class Making:
    """How shards are made: where, for which encoder, from which seed, and who hears of it."""

    cache: Path
    config: PrepareConfig
    seed: int
    progress: Callable[[str, int, int], None]
    say: Say


def archive_shard(root: Path, records: pl.DataFrame, variants: int, making: Making) -> Path:
    """Folder of the series of a catalogue, each in `variants` versions: the first as it is, the others varied.

    Errors: DecipherError when the disk is too small.
    """
    kept = [c for c in records.columns if c != "variant"]
    rows = list(records.select(kept).iter_rows(named=True))
    jobs = [(str(root), row, making.config, variants, making.seed) for row in rows]
    named = ["archive", variants, records.sort("series_id").select(kept).write_json()]
    folder = _shard(named, series_versions, jobs, variants, making)
    made = set(open_shard(folder).rows["series_id"])
    lost = [row["path"] for row in rows if row["series_id"] not in made]
    if lost:
        making.say(f"{len(lost)} of {len(rows)} series could not be prepared and are left out: {', '.join(lost[:5])}"
                   f"{' and more' if len(lost) > 5 else ''}. Why: decipher scan {root} --check")  # fmt: skip
    return folder


def rows_shard(records: pl.DataFrame, making: Making) -> Path:
    """Folder of a catalogue's rows without their volumes: enough for a stage that reads reports alone."""
    digest = hashlib.blake2b(records.write_json().encode(), digest_size=8).hexdigest()
    folder = making.cache / f"rows-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{name: row.get(name) for name in COLUMNS} for row in records.iter_rows(named=True)]
    _write_rows(folder, [], [], [{**row, "variant": 0, "origin": "archive"} for row in rows])
    return folder


def phantom_shard(patients: int, making: Making, kinds: Sequence[Kind] = ()) -> Path:
    """Folder of `patients` digital patients, all the sequences of each; of `kinds` in turn, where they are not to be drawn."""
    jobs = [
        (making.config, making.seed + 7919 * (number + 1), kinds[number % len(kinds)] if kinds else {})
        for number in range(patients)
    ]
    named = [PHANTOM, _phantom_source(), patients, *kinds]
    return _shard(named, patient_series, jobs, MOST_SEQUENCES, making)


def head_shard(root: Path, records: pl.DataFrame, patients: int, making: Making) -> Path | None:
    """Folder of digital patients with the heads of the T1-weighted brains of a catalogue, `patients` of each, all their
    sequences; None where there is no such brain."""
    t1 = (
        (pl.col("sequence") == "T1") & (pl.col("body_region") == "brain") & (pl.col("contrast").fill_null("no") == "no")
    )
    brains = records.filter(t1).sort("series_id")
    jobs = [(str(root), row, making.config, patients, making.seed) for row in brains.iter_rows(named=True)]
    if not jobs:
        return None
    named = [HEAD, _phantom_source(), patients, brains.write_json()]
    return _shard(named, head_patients, jobs, patients * MOST_SEQUENCES, making)


def _phantom_source() -> str:
    """Hash of the phantom's own code: another phantom makes another shard."""
    files = sorted((Path(__file__).parent / "phantom").glob("*.py"))
    return hashlib.blake2b(b"".join(f.read_bytes() for f in files), digest_size=8).hexdigest()


def _shard(named: list[Any], work: Callable[[Any], Made], jobs: Sequence[Any], versions: int, making: Making) -> Path:
    kind = named[0]
    whole = json.dumps([*named, making.seed, asdict(making.config), *COLUMNS], sort_keys=True, default=str)
    folder = making.cache / f"{kind}-{hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()}"

    def write(part: Path) -> None:
        _tell_size(kind, len(jobs) * versions, making)
        parts = work_through(work, jobs, lambda done, of: making.progress(f"prepare {kind}", done, of))
        _write(part, parts, len(jobs) * versions)

    return made_once(folder, write)


def _tell_size(kind: str, most: int, making: Making) -> None:
    """Say how large a shard can get, and refuse what the disk cannot hold."""
    box = making.config.box
    need, free = most * math.prod(box), shutil.disk_usage(making.cache).free
    size = f"up to {most:,} volumes of {' x '.join(map(str, box))}, {need / 1e9:.2f} GB"
    making.say(f"preparing {kind}: {size} in {making.cache}")
    if need > free:
        raise DecipherError(
            f"Prepared volumes take {size}, but {making.cache} has {free / 1e9:.2f} GB free.",
            "Name another folder with --set cache=FOLDER, or fewer versions with --set variants=1.",
        )


def _write(folder: Path, parts: Iterator[Made], most: int) -> None:
    pixels = None
    contents: list[np.ndarray] = []
    geometries: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    for part in parts:
        for volume, content, geometry, row in part:
            if pixels is None:
                pixels = np.lib.format.open_memmap(
                    folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(most, *volume.shape)
                )
            pixels[len(rows)] = volume
            contents.append(content)
            geometries.append(geometry)
            rows.append({name: row.get(name) for name in COLUMNS})
    _write_rows(folder, contents, geometries, rows)


def _write_rows(
    folder: Path, contents: list[np.ndarray], geometries: list[np.ndarray], rows: list[dict[str, Any]]
) -> None:
    np.save(folder / "content.npy", np.array(contents))
    np.save(folder / "geometry.npy", np.array(geometries))
    pl.DataFrame(rows, schema=COLUMNS).write_parquet(folder / "rows.parquet")
