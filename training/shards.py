"""Prepared volumes on disk, memory-mapped: what the training loop reads.

Decisions:
- A shard is a folder: pixels.npy (n, S, S, S) uint8, content.npy, geometry.npy, rows.parquet (row i describes volume
  i), its name holding a hash of all that it was made from; an existing name is never made again.
- Volumes are read, varied and prepared in worker processes, each item from its own seed, so that the order of work
  changes nothing. A shard is written under a temporary name and renamed when whole.
"""

import hashlib
import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from models.config import PrepareConfig
from models.prepare import Prepared

COLUMNS: dict[str, Any] = {
    "series_id": pl.Utf8, "study_id": pl.Utf8, "patient_id": pl.Utf8, "path": pl.Utf8, "source": pl.Utf8,
    "redistributable": pl.Utf8, "sequence": pl.Utf8, "body_region": pl.Utf8, "plane": pl.Utf8, "contrast": pl.Utf8,
    "age_years": pl.Float64, "sex": pl.Utf8, "diagnosis": pl.Utf8, "lesion": pl.Utf8, "report": pl.Utf8,
    "variant": pl.Int64, "origin": pl.Utf8,
}  # fmt: skip
Made = list[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shard:
    """rows.height volumes; pixels (n, S, S, S) uint8 stand for intensities 0..1."""

    pixels: np.ndarray
    content: np.ndarray
    geometry: np.ndarray
    rows: pl.DataFrame

    def take(self, which: np.ndarray) -> Prepared:
        """The volumes of rows `which` (B,) as one batch."""
        pixels = torch.from_numpy(np.stack([self.pixels[i] for i in which])).float().div_(255)[:, None]
        eye = torch.eye(4, dtype=torch.float64).expand(len(which), 4, 4)
        return Prepared(pixels, torch.from_numpy(self.content[which]), torch.from_numpy(self.geometry[which]), eye)


def open_shard(folder: Path) -> Shard:
    """A finished shard, its pixels memory-mapped."""
    rows = pl.read_parquet(folder / "rows.parquet")
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    return Shard(pixels, np.load(folder / "content.npy"), np.load(folder / "geometry.npy"), rows)


def archive_shard(
    root: Path,
    records: pl.DataFrame,
    config: PrepareConfig,
    cache: Path,
    *,
    variants: int,
    seed: int,
    progress: Progress,
) -> Shard:
    """The series of a catalogue, each in `variants` versions: the first as it is, the others varied."""
    kept = [c for c in records.columns if c != "variant"]
    jobs = [(str(root), row, asdict(config), variants, seed) for row in records.select(kept).iter_rows(named=True)]
    named = ["archive", variants, seed, asdict(config), records.sort("series_id").select(kept).write_json()]
    return _shard(cache, named, _series_versions, jobs, variants, progress)


def phantom_shard(patients: int, config: PrepareConfig, cache: Path, *, seed: int, progress: Progress) -> Shard:
    """`patients` digital patients, all the sequences of each."""
    jobs = [(asdict(config), seed + 7919 * (number + 1)) for number in range(patients)]
    return _shard(
        cache, ["phantom", _phantom_source(), patients, seed, asdict(config)], _patient_series, jobs, 8, progress
    )


def _phantom_source() -> str:
    """Hash of the phantom's own code: another phantom makes another shard."""
    files = sorted((Path(__file__).parent / "phantom").glob("*.py"))
    return hashlib.blake2b(b"".join(f.read_bytes() for f in files), digest_size=8).hexdigest()


def _shard(
    cache: Path, named: list[Any], work: Callable[[Any], Made], jobs: Sequence[Any], most: int, progress: Progress
) -> Shard:
    digest = hashlib.blake2b(json.dumps(named, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
    folder = cache / f"{named[0]}-{digest}"
    if not folder.is_dir():
        making = cache / f".{folder.name}.{os.getpid()}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        _write(making, _work_through(work, jobs, progress), len(jobs) * most)
        making.rename(folder)
    return open_shard(folder)


def _work_through(work: Callable[[Any], Made], jobs: Sequence[Any], progress: Progress) -> Iterator[Made]:
    with ProcessPoolExecutor(min(len(jobs), os.cpu_count() or 1), get_context("spawn"), _start_worker) as pool:
        for done, made in enumerate(pool.map(work, jobs), start=1):
            progress(done, len(jobs))
            yield made


def _start_worker() -> None:
    """One thread each, since the workers share the processors; and no worker outlives a killed parent."""
    torch.set_num_threads(1)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


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
    np.save(folder / "content.npy", np.array(contents))
    np.save(folder / "geometry.npy", np.array(geometries))
    pl.DataFrame(rows, schema=COLUMNS).write_parquet(folder / "rows.parquet")


def _packed(prepared: Prepared, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    pixels = (prepared.pixels[0] * 255).round().to(torch.uint8).numpy()
    return pixels, prepared.content.numpy(), prepared.geometry.numpy(), row


def _series_versions(job: tuple[str, dict[str, Any], dict[str, Any], int, int]) -> Made:
    from index.geometry import plane_of
    from index.ledger import Rejection
    from index.reading import read_volume
    from models.errors import DecipherError
    from models.prepare import prepare
    from training.augment import pixel_variation, reacquire

    root, row, config, variants, seed = job
    item_seed = zlib.crc32(f"{seed} {row['series_id']}".encode())
    rng = np.random.default_rng(item_seed)
    made: Made = []
    try:
        volume = read_volume(Path(root), row)
        plain = prepare(volume, PrepareConfig(**config))
    except (Rejection, DecipherError):
        return made
    made.append(_packed(plain, {**row, "variant": 0, "origin": "archive"}))
    vary = pixel_variation(item_seed) if variants > 1 else None
    for number in range(1, variants):
        other = reacquire(volume, rng)
        described = {**row, "plane": plane_of(other.affine_mm), "variant": number, "origin": "archive"}
        try:
            prepared = prepare(other, PrepareConfig(**config))
        except DecipherError:
            continue
        made.append(_packed(vary(prepared) if vary else prepared, described))
    return made


def _patient_series(job: tuple[dict[str, Any], int]) -> Made:
    from models.prepare import prepare
    from training.phantom.series import make_patient

    config, seed = job
    made: Made = []
    for number, series in enumerate(make_patient(seed)):
        row = {**series.labels, "series_id": f"phantom-{seed}-{number}", "study_id": f"phantom-{seed}",
               "patient_id": f"phantom-{seed}", "source": "phantom", "report": series.report,
               "variant": 0, "origin": "phantom"}  # fmt: skip
        made.append(_packed(prepare(series.volume, PrepareConfig(**config)), row))
    return made
