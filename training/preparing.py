"""Worker processes that read, vary and prepare volumes for the shards.

Each item is made from its own seed, so that the order of work changes nothing.
"""

import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.config import PrepareConfig
from models.prepare import Prepared
from training.place import packed_mask
from training.regrid import shares_in_box

Made = list[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]]
"""prepared volumes as a shard keeps them: pixels, content, geometry, row"""
Kind = dict[str, Any]
"""what is not left to chance of a digital patient, as phantom.series.make_patient takes it"""
HEAD, PHANTOM = "head", "phantom"
"""origins of digital patients: with a real head, and built"""
Progress = Callable[[int, int], None]


def work_through(work: Callable[[Any], Made], jobs: Sequence[Any], progress: Progress) -> Iterator[Made]:
    """What `work` makes of each job, in the order of the jobs."""
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


def _packed(prepared: Prepared, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    pixels = (prepared.pixels[0] * 255).round().to(torch.uint8).numpy()
    return pixels, prepared.content.numpy(), prepared.geometry.numpy(), row


def series_versions(job: tuple[str, dict[str, Any], PrepareConfig, int, int]) -> Made:
    """A series of an archive as it is, and varied; nothing where it cannot be read."""
    from index.geometry import plane_of
    from index.ledger import Rejection
    from index.reading import read_volume
    from models.errors import DecipherError
    from models.prepare import prepare
    from training.artifacts import pixel_variation
    from training.augment import reacquire
    from training.side import names_side

    root, row, config, variants, seed = job
    item_seed = zlib.crc32(f"{seed} {row['series_id']}".encode())
    rng = np.random.default_rng(item_seed)
    made: Made = []
    try:
        volume = read_volume(Path(root), row)
        plain = prepare(volume, config)
    except (Rejection, DecipherError):
        return made
    made.append(_packed(plain, {"origin": "archive", **row, "variant": 0}))
    if variants == 1:
        return made
    vary = pixel_variation(item_seed)
    for number in range(1, variants):
        other = reacquire(volume, rng, not names_side(row.get("report")))
        described = {"origin": "archive", **row, "plane": plane_of(other.affine_mm), "variant": number}
        try:
            prepared = prepare(other, config)
        except DecipherError:
            continue
        made.append(_packed(vary(prepared), described))
    return made


def head_patients(job: tuple[str, dict[str, Any], PrepareConfig, int, int]) -> Made:
    """Digital patients with the head of a T1-weighted series, `count` of them; none where it cannot be read or shows none.

    They are the person's and the source's, so that whatever leaves those out leaves these out.
    """
    from index.ledger import Rejection
    from index.reading import read_volume
    from training.phantom.head_tissue import head_map

    root, row, config, count, seed = job
    try:
        head = head_map(read_volume(Path(root), row), row)
    except Rejection:
        return []
    if head is None:
        return []
    made: Made = []
    who = {name: row.get(name) for name in ("patient_id", "path", "source", "redistributable")}
    for number in range(count):
        own = zlib.crc32(f"{seed} {row['series_id']} {number}".encode())
        made += _scanned(config, own, {"head": head}, f"head-{row['series_id']}-{number}", {**who, "origin": HEAD})
    return made


def patient_series(job: tuple[PrepareConfig, int, Kind]) -> Made:
    """All series of one digital patient of a kind."""
    config, seed, kind = job
    name = f"phantom-{seed}"
    return _scanned(config, seed, kind, name, {"patient_id": name, "source": PHANTOM, "origin": PHANTOM})


def _scanned(config: PrepareConfig, seed: int, kind: Kind, study: str, who: dict[str, Any]) -> Made:
    """The series of one digital patient, prepared; `who` goes into each row."""
    from models.prepare import prepare
    from training.phantom.series import make_patient

    made: Made = []
    for number, series in enumerate(make_patient(seed, **kind)):
        prepared = prepare(series.volume, config)
        grids = series.volume.affine_mm, prepared.affine_mm.numpy()
        marked = shares_in_box(series.lesion_mask[0], *grids, config.box) > 0
        row = {**series.labels, "series_id": f"{study}-{number}", "study_id": study, "report": series.report,
               "fat_suppressed": series.tags["fat_suppressed"], "lesion_mask": packed_mask(marked),
               "variant": 0, **who}  # fmt: skip
        made.append(_packed(prepared, row))
    return made
