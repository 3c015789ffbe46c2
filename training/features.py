"""What a decoder reads of a frozen encoder, computed once and kept on disk: patches, prepared pictures, target shares.

Decisions:
- A row is a window (training.windows). Half precision, memory-mapped: epochs read what they need, and the encoder does not
  run again.
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
from models.config import edges
from models.decipher import Decipher
from models.errors import DecipherError
from models.view import View
from training.loader import ahead
from training.masks import Case
from training.once import made_once
from training.regrid import shares_in_box
from training.windows import Layout, patch_grid, views_of

LARGE, SMALL = ("pixels", "patches"), ("content", "level")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Features:
    """w windows of all series together: patches (w, N, 2 * dim) and pixels (w, I, J, K) float16, content (w, 3, 2) int64,
    level (w, 2) float32; layouts: how those of each series lie; rows_of: the rows of each series."""

    patches: np.ndarray
    pixels: np.ndarray
    content: np.ndarray
    level: np.ndarray
    layouts: dict[str, Layout]
    rows_of: dict[str, np.ndarray]

    def view(self, rows: Sequence[int] | np.ndarray, device: torch.device) -> View:
        """Some rows as a decoder sees them."""
        chosen = np.asarray(rows)

        def taken(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array[chosen])

        pixels, patches = (taken(array).float() for array in (self.pixels, self.patches))
        return View(pixels[:, None], taken(self.content), taken(self.level), patches).to(device)


def features_of(
    model: Decipher,
    passport: dict[str, Any],
    contents: Contents,
    cases: Sequence[Case],
    finest_mm: float,
    cache: Path,
    progress: Progress,
) -> Features:
    """The features of the cases' series, from `cache` where they are there; finest_mm: as training.windows has it.

    Errors: DecipherError for a series that cannot be read.
    """
    records = list({case.record["series_id"]: case.record for case in cases}.values())
    key = [passport["hash"], finest_mm, [[r["series_id"], r["fingerprint"], r.get("sequence")] for r in records]]
    folder = _made(cache, "features", key, lambda part: _encode(model, contents, records, finest_mm, part, progress))
    box, tokens = model.config.prepare.box, int(np.prod(patch_grid(model)))
    pixels, patches = (np.memmap(folder / f"{name}.f16", np.float16, "r") for name in LARGE)
    content, level = (np.load(folder / f"{name}.npy") for name in SMALL)
    layouts = {one["series_id"]: _layout(one) for one in json.loads((folder / "layouts.json").read_text())}
    counts = [len(layout.starts) for layout in layouts.values()]
    rows = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    shaped = patches.reshape(-1, tokens, 2 * model.config.dim), pixels.reshape(-1, *box)
    return Features(*shaped, content, level, layouts, dict(zip(layouts, rows, strict=True)))


def targets_of(features: Features, cases: Sequence[Case], cache: Path, progress: Progress) -> np.ndarray:
    """float16 (t, I, J, K), memory-mapped: the share of each voxel that a case's mask marks, a row for each window of each
    case in turn."""
    key = [[str(c.mask.resolve()), c.mask.stat().st_size, c.mask.stat().st_mtime_ns, c.value, c.record["fingerprint"],
            _described(features.layouts[c.record["series_id"]])] for c in cases]  # fmt: skip
    folder = _made(cache, "targets", key, lambda part: _mark(features, cases, part, progress))
    return np.load(folder / "targets.npy", mmap_mode="r")


def _made(cache: Path, kind: str, key: list[Any], write: Callable[[Path], None]) -> Path:
    name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()
    return made_once(cache / f"{kind}-{name}", write)


def _encode(
    model: Decipher, contents: Contents, records: list[dict[str, Any]], finest_mm: float, folder: Path, progress: Progress
) -> None:  # fmt: skip
    small: dict[str, list[np.ndarray]] = {name: [] for name in SMALL}
    layouts = []
    read = ahead(lambda n: contents.read(records[n], model.config.prepare), range(len(records)), 1)
    for number, (record, ready) in enumerate(zip(records, read, strict=True), start=1):
        if isinstance(ready, str):
            raise DecipherError(f"A series of the table cannot be read: {ready}.", "Take its row out of the table.")
        view, layout = views_of(model, *ready, finest_mm)
        layouts.append({"series_id": record["series_id"], **_described(layout)})
        for name in LARGE:
            with (folder / f"{name}.f16").open("ab") as file:
                file.write(getattr(view, name).half().cpu().numpy().tobytes())
        for name, parts in small.items():
            parts.append(getattr(view, name).cpu().numpy())
        progress("encode", number, len(records))
    for name, parts in small.items():
        np.save(folder / f"{name}.npy", np.concatenate(parts))
    (folder / "layouts.json").write_text(json.dumps(layouts))


def _described(layout: Layout) -> dict[str, Any]:
    return {
        "shape": list(layout.shape), "content": layout.content.tolist(), "affine_mm": layout.affine_mm.tolist(),
        "starts": layout.starts.tolist(),
    }  # fmt: skip


def _layout(said: dict[str, Any]) -> Layout:
    return Layout(edges(said["shape"]), *(np.array(said[name]) for name in ("content", "affine_mm", "starts")))


def _mark(features: Features, cases: Sequence[Case], folder: Path, progress: Progress) -> None:
    window = features.pixels.shape[1:]
    layouts = [features.layouts[case.record["series_id"]] for case in cases]
    shape = (sum(len(layout.starts) for layout in layouts), *window)
    targets = np.lib.format.open_memmap(folder / "targets.npy", mode="w+", dtype=np.float16, shape=shape)
    row = 0
    for number, (case, layout) in enumerate(zip(cases, layouts, strict=True), start=1):
        volume_affine = np.array(case.record["affine_mm"]).reshape(4, 4)
        shares = shares_in_box(case.read_mask(), volume_affine, layout.affine_mm, layout.shape)
        for start in layout.starts:
            targets[row] = shares[tuple(slice(a, a + own) for a, own in zip(start, window, strict=True))]
            row += 1
        progress("masks", number, len(cases))
