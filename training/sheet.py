"""A sheet of pictures: of each series the slice that shows most of what was found, its outline in colour.

Decisions: the slice lies across the axis of the thickest voxels, as it was acquired, and is shown as radiologists expect
(see index.thumbnails).
"""

from collections.abc import Sequence

import numpy as np

from index.thumbnails import fitted, png, windowed
from models.volume import Volume

TILE = 192
ACROSS = 6
MOST = 240
"""tiles of a sheet"""
OUTLINE = (255, 64, 64)
SHOWN = 0.3
"""share of a picture's pixel that is marked, from which on it counts as marked"""


def tile_of(volume: Volume, mask: np.ndarray) -> np.ndarray:
    """uint8 (192, 192, 3): the slice of `volume` with most of `mask` (I, J, K) bool, its outline drawn; else the middle."""
    spacing = volume.spacing_mm
    axis = max(range(3), key=lambda a: (round(float(spacing[a]), 3), a))
    marked = mask.sum(axis=tuple(a for a in range(3) if a != axis))
    place = int(marked.argmax()) if marked.any() else mask.shape[axis] // 2
    picture = _shown(np.take(volume.data[0], place, axis), axis, spacing)
    drawn = _shown(np.take(mask, place, axis).astype(np.float32), axis, spacing)
    tile = np.repeat(windowed(picture)[..., None], 3, axis=2)
    tile[_outline(np.nan_to_num(drawn) > SHOWN)] = OUTLINE
    return tile


def _shown(plane: np.ndarray, axis: int, spacing_mm: np.ndarray) -> np.ndarray:
    """A slice (two of I, J, K in order) as it is looked at: rows from above, columns from the viewer's left."""
    across, down = (a for a in range(3) if a != axis)
    turned = plane[::-1, ::-1].T
    return fitted(turned, float(spacing_mm[down]), float(spacing_mm[across]), TILE)


def _outline(marked: np.ndarray) -> np.ndarray:
    """The marked pixels that have a neighbour which is not."""
    padded = np.pad(marked, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return marked & ~inner


def sheet_png(tiles: Sequence[np.ndarray]) -> bytes:
    """A PNG of tiles, row by row from the top left, six in a row."""
    rows = -(-len(tiles) // ACROSS)
    across = min(ACROSS, len(tiles))
    whole = np.zeros((rows * TILE, across * TILE, 3), np.uint8)
    for number, tile in enumerate(tiles):
        down, right = divmod(number, ACROSS)
        whole[down * TILE : (down + 1) * TILE, right * TILE : (right + 1) * TILE] = tile
    return png(whole)
