"""Pictures of what was marked: the right slice, the right way round, the outline about it, and words that can be read."""

import zlib

import numpy as np
import pytest

from models.volume import Volume
from training.sheet import ACROSS, BAR_MM, GAP, MOST, OUTLINE, STRIP, TILE, WORDS, sheet_png, tile_of


def volume_of(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Volume:
    data = np.full(shape, 100.0, np.float32)
    data[::2] += 20
    return Volume(data[None], np.diag([*spacing, 1.0]))


def outlined(tile: np.ndarray) -> np.ndarray:
    return (tile[:TILE] == OUTLINE).all(axis=-1)


def test_the_slice_with_most_of_it_is_shown_as_radiologists_expect() -> None:
    """Axial slices of 100 x 100 mm: a small mark to the right in front in one, a large one to the left behind in another."""
    volume, mask = volume_of((50, 50, 10), (2.0, 2.0, 5.0)), np.zeros((50, 50, 10), bool)
    mask[40:42, 40:42, 2] = mask[5:15, 10:14, 7] = True
    rows, columns = np.nonzero(outlined(tile_of(volume, mask, "")))
    scale = TILE / 50
    assert columns.min() == pytest.approx((50 - 15) * scale, abs=4) and columns.max() == pytest.approx(
        (50 - 5) * scale, abs=4
    )
    assert rows.min() == pytest.approx((50 - 14) * scale, abs=4) and rows.max() == pytest.approx(
        (50 - 10) * scale, abs=4
    )


def test_the_outline_leaves_what_is_marked_to_be_seen() -> None:
    volume, mask = volume_of((64, 64, 6), (1.0, 1.0, 5.0)), np.zeros((64, 64, 6), bool)
    mask[20:40, 20:40, 3] = True
    tile = tile_of(volume, mask, "")
    border = outlined(tile)
    inside = np.zeros((TILE, TILE), bool)
    inside[24 * 4 : 44 * 4, 24 * 4 : 44 * 4] = True
    assert not (border & inside).any() and 4 * 80 <= border.sum() <= 4 * 90
    assert not outlined(tile_of(volume, np.zeros_like(mask), "")).any()


@pytest.mark.parametrize("size", [200, 300, 400, 512])
@pytest.mark.parametrize("place", [100, 133, 150])
def test_a_single_voxel_is_outlined(size: int, place: int) -> None:
    volume, mask = volume_of((size, size, 6), (0.5, 0.5, 5.0)), np.zeros((size, size, 6), bool)
    mask[place, place, 3] = True
    assert outlined(tile_of(volume, mask, "")).any()


def test_air_about_the_body_is_cut() -> None:
    volume, mask = volume_of((40, 40, 10), (2.0, 2.0, 5.0)), np.zeros((40, 40, 10), bool)
    mask[10:15, 10:15, 5] = True
    about = np.zeros((1, 100, 100, 10), np.float32)
    about[0, 20:60, 30:70] = volume.data[0]
    wide = np.zeros((100, 100, 10), bool)
    wide[20:60, 30:70] = mask
    assert np.array_equal(tile_of(Volume(about, volume.affine_mm), wide, "a"), tile_of(volume, mask, "a"))


@pytest.mark.parametrize(("spacing", "length_mm"), [(2.0, BAR_MM), (0.5, BAR_MM / 10)])
def test_the_bar_is_as_long_as_it_says(spacing: float, length_mm: float) -> None:
    volume = volume_of((100, 100, 4), (spacing, spacing, 9.0))
    tile = tile_of(volume, np.zeros((100, 100, 4), bool), "")
    row = (tile[TILE - 7, : TILE // 2] == WORDS).all(axis=-1)
    length = np.flatnonzero(~row[6:])[0]
    assert not row[:6].any() and length == pytest.approx(length_mm * TILE / (100 * spacing), abs=1.5)


def test_words_stand_below_the_picture() -> None:
    volume, mask = volume_of((64, 64, 6), (1.0, 1.0, 5.0)), np.zeros((64, 64, 6), bool)
    one, two, none = (tile_of(volume, mask, words) for words in ("1   0.52 ml", "2   0.52 ml", ""))
    assert one.shape == (TILE + STRIP, TILE, 3) and np.array_equal(one[:TILE], two[:TILE])
    assert not np.array_equal(one[TILE:], two[TILE:]) and (none[TILE:] == none[TILE, 0]).all()
    assert tile_of(volume, mask, "far too long " * 20).shape == one.shape


def test_a_sheet_is_row_by_row() -> None:
    tiles = [np.full((TILE + STRIP, TILE, 3), 10 * number, np.uint8) for number in range(1, ACROSS + 3)]
    picture = sheet_png(tiles)
    assert picture[16:24] == (ACROSS * (TILE + GAP) - GAP).to_bytes(4) + (2 * (TILE + STRIP + GAP) - GAP).to_bytes(4)
    start = picture.index(b"IDAT") + 4
    lines = zlib.decompress(picture[start : start + int.from_bytes(picture[start - 8 : start - 4])])
    width = 1 + 3 * (ACROSS * (TILE + GAP) - GAP)
    levels = np.frombuffer(lines, np.uint8).reshape(-1, width)[:, 1:].cumsum(axis=0, dtype=np.uint8)
    assert (
        levels[10, 0] == 10 and levels[10, 3 * (TILE + GAP)] == 20 and levels[-1, 3 * (TILE + GAP)] == 10 * (ACROSS + 2)
    )
    assert levels[-1, -1] == 255 and MOST % ACROSS == 0
