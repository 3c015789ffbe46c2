"""What a decoder reads of a frozen encoder, computed once and kept on disk: patches, prepared pictures, target shares.

Decisions:
- Half precision, memory-mapped: epochs read what they need, and the encoder does not run again.
- The name of a folder holds a hash of all that it was made from: the encoder, the series and their files, the masks. It is
  written under another name and renamed when whole, so that an existing name is never made again.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.contents import Contents
from models.config import family_of
from models.decipher import Decipher
from models.errors import DecipherError
from models.prepare import Prepared, collate
from training.masks import Case
from training.once import made_once
from training.regrid import shares_in_box

AT_ONCE = 4
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Features:
    """n series: patches (n, N, E) and pixels (n, I, J, K) float16, content (n, 3, 2) int64, geometry (n, 7) float32,
    affine_mm (n, 4, 4) float64, families (n,) int64; row_of: the place of a series_id."""

    patches: np.ndarray
    pixels: np.ndarray
    content: np.ndarray
    geometry: np.ndarray
    affine_mm: np.ndarray
    families: np.ndarray
    row_of: dict[str, int]

    def batch(self, rows: Sequence[int], device: torch.device) -> tuple[Prepared, torch.Tensor]:
        """The prepared volumes of some rows, and their patches (B, N, E) float32."""
        chosen = list(rows)

        def taken(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array[chosen])

        batch = Prepared(taken(self.pixels).float()[:, None], taken(self.content), taken(self.geometry),
                         taken(self.affine_mm), taken(self.families))  # fmt: skip
        return batch.to(device), taken(self.patches).float().to(device)


def features_of(
    model: Decipher,
    passport: dict[str, Any],
    contents: Contents,
    cases: Sequence[Case],
    cache: Path,
    progress: Progress,
) -> Features:
    """The features of the cases' series, from `cache` where they are there.

    Errors: DecipherError for a series that cannot be read.
    """
    records = list({case.record["series_id"]: case.record for case in cases}.values())
    key = [passport["hash"], [[r["series_id"], r["fingerprint"], r.get("sequence")] for r in records]]
    folder = _made(cache, "features", key, lambda part: _encode(model, contents, records, part, progress))
    patches, pixels = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("patches", "pixels"))
    content, geometry, affine_mm = (np.load(folder / f"{name}.npy") for name in ("content", "geometry", "affine_mm"))
    families = np.array([family_of(record.get("sequence")) for record in records], dtype=np.int64)
    row_of = {record["series_id"]: row for row, record in enumerate(records)}
    return Features(patches, pixels, content, geometry, affine_mm, families, row_of)


def targets_of(features: Features, cases: Sequence[Case], cache: Path, progress: Progress) -> np.ndarray:
    """(n, I, J, K) float16, memory-mapped: the share of each box voxel that each case's mask marks."""
    key = [[str(c.mask.resolve()), c.mask.stat().st_size, c.mask.stat().st_mtime_ns, c.value, c.record["fingerprint"],
            features.affine_mm[features.row_of[c.record["series_id"]]].tolist()] for c in cases]  # fmt: skip
    folder = _made(cache, "targets", key, lambda part: _mark(features, cases, part, progress))
    return np.load(folder / "targets.npy", mmap_mode="r")


def _made(cache: Path, kind: str, key: list[Any], write: Callable[[Path], None]) -> Path:
    name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()
    return made_once(cache / f"{kind}-{name}", write)


def _encode(
    model: Decipher, contents: Contents, records: list[dict[str, Any]], folder: Path, progress: Progress
) -> None:
    groups = [records[start : start + AT_ONCE] for start in range(0, len(records), AT_ONCE)]
    device = next(model.parameters()).device
    box, done = model.config.prepare.box, 0
    tokens = int(np.prod([edge // p for edge, p in zip(box, model.config.vision.patch, strict=True)]))
    patches = _memory(folder / "patches.npy", (len(records), tokens, model.config.dim))
    pixels = _memory(folder / "pixels.npy", (len(records), *box))
    small: dict[str, list[np.ndarray]] = {"content": [], "geometry": [], "affine_mm": []}
    for found in contents.prepared_all(groups, model.config.prepare):
        read = [one for one in found if isinstance(one, Prepared)]
        if len(read) < len(found):
            unread = next(one for one in found if isinstance(one, str))
            raise DecipherError(f"A series of the table cannot be read: {unread}.", "Take its row out of the table.")
        batch = collate(read)
        rows = slice(done, done + len(read))
        patches[rows] = model.encode_prepared(batch.to(device)).patches.half().cpu().numpy()
        pixels[rows] = batch.pixels[:, 0].half().numpy()
        for name, parts in small.items():
            parts.extend(getattr(batch, name).numpy())
        done += len(read)
        progress("encode", done, len(records))
    for name, parts in small.items():
        np.save(folder / f"{name}.npy", np.stack(parts))


def _mark(features: Features, cases: Sequence[Case], folder: Path, progress: Progress) -> None:
    box = features.pixels.shape[1:]
    targets = _memory(folder / "targets.npy", (len(cases), *box))
    for number, case in enumerate(cases):
        volume_affine = np.array(case.record["affine_mm"]).reshape(4, 4)
        box_affine = features.affine_mm[features.row_of[case.record["series_id"]]]
        targets[number] = shares_in_box(case.read_mask(), volume_affine, box_affine, box)
        progress("masks", number + 1, len(cases))


def _memory(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
