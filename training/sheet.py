"""A sheet of pictures: of each series the slice that shows most of what was found, its outline in colour.

Decisions:
- The slice lies across the axis of the thickest voxels, as it was acquired, and is shown as radiologists expect (see
  index.thumbnails), cut to the body, which fills the tile.
- The outline runs about what is marked, not on it, so that the brightness that was marked stays to be seen.
- A strip below each tile has its number, by which the table tells it, and what else is said of it; a bar in the picture is
  as long as `BAR_MM`, or a tenth of that where the body is small.
"""

from collections.abc import Sequence

import numpy as np

from index.thumbnails import fitted, png, windowed
from models.volume import Volume

TILE = 256
STRIP = 20
"""pixels of the strip below a picture"""
GAP = 4
ACROSS = 5
MOST = 200
"""tiles of a sheet"""
OUTLINE = (255, 64, 64)
WORDS, PAPER = (230, 230, 230), (40, 40, 40)
SHOWN = 0.25
"""share of a picture's pixel that is marked, from which on it counts as marked: a single voxel of a fine picture is seen"""
AIR = 0.02
"""of the brightest: what is darker is not the body"""
BAR_MM = 50.0


def tile_of(volume: Volume, mask: np.ndarray, words: str) -> np.ndarray:
    """uint8 (TILE + STRIP, TILE, 3): the slice of `volume` with most of `mask` (I, J, K) bool, outlined; else the middle."""
    spacing = volume.spacing_mm
    axis = max(range(3), key=lambda a: (round(float(spacing[a]), 3), a))
    marked = mask.sum(axis=tuple(a for a in range(3) if a != axis))
    place = int(marked.argmax()) if marked.any() else mask.shape[axis] // 2
    across, down = (a for a in range(3) if a != axis)
    where = _body(volume.data[0], axis)
    picture, drawn = (_turned(np.take(one, place, axis)[where]) for one in (volume.data[0], mask.astype(np.float32)))
    millimetres = float(spacing[down]), float(spacing[across])
    tile = np.full((TILE + STRIP, TILE, 3), PAPER, np.uint8)
    tile[:TILE] = windowed(fitted(picture, *millimetres, TILE))[..., None]
    tile[:TILE][_about(np.nan_to_num(fitted(drawn, *millimetres, TILE)) >= SHOWN)] = OUTLINE
    return _written(tile, words, TILE / max(picture.shape[0] * millimetres[0], picture.shape[1] * millimetres[1]))


def _body(data: np.ndarray, axis: int) -> tuple[slice, slice]:
    """Slices (two of I, J, K in order) that hold what is brighter than air anywhere along the axis."""
    shown = data.max(axis=axis)
    bright = shown > AIR * np.percentile(shown, 99)
    found = [np.flatnonzero(bright.any(axis=other)) for other in (1, 0)]
    first, second = (slice(int(one[0]), int(one[-1]) + 1) if len(one) else slice(None) for one in found)
    return first, second


def _turned(plane: np.ndarray) -> np.ndarray:
    """A slice (two of I, J, K in order) as it is looked at: rows from above, columns from the viewer's left."""
    return plane[::-1, ::-1].T


def _about(marked: np.ndarray) -> np.ndarray:
    """The pixels that are not marked and have a neighbour that is."""
    from scipy.ndimage import binary_dilation

    return binary_dilation(marked) & ~marked


def _written(tile: np.ndarray, words: str, pixels_per_mm: float) -> np.ndarray:
    """The tile with a line of words in its strip, and in its picture a bar with its length."""
    from PIL import Image, ImageDraw, ImageFont

    image, font = Image.fromarray(tile), ImageFont.load_default(11)
    draw = ImageDraw.Draw(image)
    length_mm = BAR_MM if BAR_MM * pixels_per_mm < TILE / 2 else BAR_MM / 10
    end = 6 + round(length_mm * pixels_per_mm)
    draw.line([(6, TILE - 7), (end, TILE - 7)], fill=WORDS, width=2)
    draw.text((end + 5, TILE - 7), f"{length_mm:g} mm", fill=WORDS, font=font, anchor="lm")
    draw.text((4, TILE + STRIP // 2), words, fill=WORDS, font=font, anchor="lm")
    return np.array(image)


def sheet_png(tiles: Sequence[np.ndarray]) -> bytes:
    """A PNG of tiles, row by row from the top left, five in a row."""
    rows, across = -(-len(tiles) // ACROSS), min(ACROSS, len(tiles))
    height, width = tiles[0].shape[0] + GAP, TILE + GAP
    whole = np.full((rows * height - GAP, across * width - GAP, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        down, right = divmod(number, ACROSS)
        whole[down * height : down * height + tile.shape[0], right * width : right * width + TILE] = tile
    return png(whole)
