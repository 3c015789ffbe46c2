"""The viewer of a page: NiiVue's single JavaScript file, and volumes small enough to travel with the page.

Decisions: the JavaScript is read from the nilearn wheel, which ships it; nilearn itself is never imported. A volume is
averaged on a coarser grid until it has no more voxels than a cube of 128 and no side over 256, which every WebGL2 can
hold; the finest edges give way first, so that thick slices keep their plane and voxels grow towards cubes.
Intensities become 8-bit between the 0.5th and the 99.5th percentile. The NIfTI header is made anew from shape and
affine, so that nothing else of the file can travel along.
"""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from index.ledger import Rejection
from index.reading import read_volume
from index.search import Hit
from index.store import Index
from models.errors import DecipherError
from models.volume import Volume

MOST_VOXELS = 128**3
MOST_SIDE = 256
WINDOW_PERCENTILES = (0.5, 99.5)
PACKING_LEVEL = 2
Progress = Callable[[int, int], None]


def embedded(hits: Sequence[Hit], index: Index, progress: Progress | None = None) -> tuple[dict[str, str], list[str]]:
    """The hits' volumes, packed, by series_id; and a sentence for each reason why some are not among them."""
    packed_volumes: dict[str, str] = {}
    missing: dict[str, list[str]] = defaultdict(list)
    for done, hit in enumerate(hits, start=1):
        series_id = hit.record["series_id"]
        try:
            volume = read_volume(index.root_of(hit.record), hit.record)
            packed_volumes[series_id] = packed(nifti_bytes(thinned(volume)))
        except Rejection as rejection:
            missing[rejection.code].append(series_id)
        except (DecipherError, OSError) as error:
            missing[getattr(error, "strerror", None) or str(error)].append(series_id)
        if progress:
            progress(done, len(hits))
    return packed_volumes, [_note(reason, ids) for reason, ids in missing.items()]


def _note(reason: str, ids: Sequence[str]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return f"Without a volume to open, for it could not be read ({reason.rstrip('.')}): {', '.join(ids[:3])}{more}."


def thinned(volume: Volume) -> Volume:
    """The volume on a grid of MOST_VOXELS voxels at most and MOST_SIDE a side, over the same millimetres.

    Each new voxel is the mean over its own box, voxels that it cuts counted by their share.
    """
    shape, data = np.array(volume.data.shape[1:]), volume.data[0]
    sides = _sides(shape, volume.spacing_mm)
    for axis in range(3):
        if sides[axis] < shape[axis]:
            means = np.tensordot(_overlaps(shape[axis], sides[axis]), data, axes=(1, axis))
            data = np.moveaxis(means, 0, axis)
    larger, affine = shape / sides, volume.affine_mm.copy()
    affine[:3, 3] += affine[:3, :3] @ ((larger - 1) / 2)
    affine[:3, :3] *= larger
    return Volume(np.ascontiguousarray(data)[None], affine)


def _sides(shape: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """The new grid's shape (3,): edges finer than some length become that length, the smallest that makes it fit."""
    sides, edge_mm = shape, float(spacing_mm.min())
    while sides.prod() > MOST_VOXELS or sides.max() > MOST_SIDE:
        edge_mm *= 1.002
        sides = np.maximum(1, np.round(shape * np.minimum(1, spacing_mm / edge_mm))).astype(int)
    return sides


def _overlaps(voxels: int, boxes: int) -> np.ndarray:
    """float32 (boxes, voxels): the share that each voxel has in each of equal boxes along the same line."""
    edges, starts = np.linspace(0, voxels, boxes + 1), np.arange(voxels)
    inside = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return (np.clip(inside, 0, None) * boxes / voxels).astype(np.float32)


def nifti_bytes(volume: Volume) -> bytes:
    """A NIfTI-1 file of the volume: uint8 (I, J, K), affine in mm, an otherwise empty header."""
    from nibabel import Nifti1Image

    image = Nifti1Image(windowed(volume.data[0]), volume.affine_mm)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine_mm, code="scanner")
    image.header["cal_max"] = 255
    return image.to_bytes()


def windowed(data: np.ndarray) -> np.ndarray:
    """uint8 intensities between the window's percentiles of all voxels; one value throughout becomes 0."""
    low, high = np.percentile(data, WINDOW_PERCENTILES)
    if not high > low:
        low, high = float(data.min()), float(data.max())
    if not high > low:
        return np.zeros(data.shape, dtype=np.uint8)
    return np.round(np.clip((data - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def packed(data: bytes) -> str:
    """Bytes as gzip in base64, without a file name or a time of day in it."""
    from isal import igzip

    return b64encode(igzip.compress(data, PACKING_LEVEL, mtime=0)).decode()


def niivue() -> str:
    """NiiVue's JavaScript, as the nilearn wheel ships it. DecipherError when that is not installed."""
    spec = find_spec("nilearn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).rglob("niivue.umd.js")):
            return path.read_text(encoding="utf-8")
    raise DecipherError("The viewer is not installed.", "Type pip install 'nilearn>=0.14.1', or leave out --volumes.")
