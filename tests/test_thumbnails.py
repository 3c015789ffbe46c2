"""Thumbnails: the PNG decodes to the slices it was made from, in the right place, orientation and proportions."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from index.thumbnails import BOX, fitted, grey_of, halved, png, resampled, save_thumbnail, stepped, thumbnail_png
from models.volume import Volume, to_ras


def decoded(data: bytes) -> np.ndarray:
    """An 8-bit greyscale PNG with line filters None and Up, read by the specification; checksums are checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length]) == (zlib.crc32(kind + body),)
        chunks.append((kind, body))
        place += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 0, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(height, width + 1)
    grey = np.zeros((height, width), np.uint8)
    for row, (kind, *line) in enumerate(lines.tolist()):
        above = grey[row - 1].tolist() if kind == 2 and row else [0] * width
        assert kind in (0, 2)
        grey[row] = [(value + other) % 256 for value, other in zip(line, above, strict=True)]
    return grey


def plain_png(grey: np.ndarray) -> bytes:
    """The same image as former versions wrote it: no line filters."""
    lines = b"".join(b"\0" + row.tobytes() for row in grey)
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def volume(data: np.ndarray, *spacing_mm: float) -> Volume:
    return Volume(np.asarray(data, np.float32)[None], np.diag([*spacing_mm, 1.0]))


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_a_png_decodes_to_what_was_written(grey):
    np.testing.assert_array_equal(decoded(png(grey)), grey)
    np.testing.assert_array_equal(grey_of(png(grey)), grey)
    np.testing.assert_array_equal(grey_of(plain_png(grey)), grey)


@settings(max_examples=20, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))))
def test_a_png_in_colour_is_read_as_it_was_written(picture):
    with Image.open(BytesIO(png(picture))) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_grey_levels_come_in_steps_of_4_and_black_and_white_stay():
    found = stepped(np.arange(256, dtype=np.uint8))
    assert found[0] == 0
    assert found[255] == 255
    assert len(set(found.tolist())) == 65
    assert np.abs(found.astype(int) - np.arange(256)).max() <= 2


def test_a_halved_picture_is_the_mean_of_each_four_pixels(rng):
    grey = rng.integers(0, 256, (128, 384), dtype=np.uint8)
    for written in (png(grey), plain_png(grey)):
        found = decoded(halved(written)).astype(float)
        assert found.shape == (64, 192)
        expected = [[grey[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for c in range(192)] for r in range(64)]
        assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("damage", [b"", b"GIF89a", b"x" * 100, "cut", "colour"])
def test_what_is_no_thumbnail_is_not_halved(damage):
    good = png(np.zeros((8, 8), np.uint8))
    broken = {"cut": good[:45], "colour": good[:25] + b"\2" + good[26:]}
    with pytest.raises(ValueError, match="not a thumbnail"):
        halved(broken[damage] if isinstance(damage, str) else damage)


def test_each_plane_stands_as_radiologists_expect():
    """One bright octant: right, anterior, superior. Right is at the viewer's left, anterior and superior are up."""
    data = np.zeros((64, 64, 64))
    data[32:, 32:, 32:] = 100
    image = decoded(thumbnail_png(volume(data, 1, 1, 1)))
    assert image.shape == (BOX, 3 * BOX)
    axial, coronal, sagittal = (image[:, i * BOX : (i + 1) * BOX] for i in range(3))
    half = BOX // 2
    for plane in (axial, coronal, sagittal):
        quarters = [plane[:half, :half], plane[:half, half:], plane[half:, :half], plane[half:, half:]]
        means = [quarter.mean() for quarter in quarters]
        assert means[0] > 240
        assert max(means[1:]) < 10


@pytest.mark.parametrize(
    ("shape", "spacing", "size"),
    [
        ((100, 50), (1, 1), (128, 64)),
        ((50, 100), (2, 1), (128, 128)),
        ((20, 200), (5, 0.5), (128, 128)),
        ((3, 3), (1, 4), (32, 128)),
    ],
)
def test_proportions_are_those_in_millimetres(shape, spacing, size):
    canvas = fitted(np.ones(shape, np.float32), *spacing)
    inside = np.isfinite(canvas)
    assert canvas.shape == (BOX, BOX)
    assert (inside.any(1).sum(), inside.any(0).sum()) == size
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert abs(rows[0] - (BOX - 1 - rows[-1])) <= 1, "in the middle"
    assert abs(columns[0] - (BOX - 1 - columns[-1])) <= 1


def test_resampling_keeps_a_ramp_a_ramp():
    ramp = np.arange(10, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    found = resampled(ramp, 40, 8)
    centres = np.clip((np.arange(40) + 0.5) / 4 - 0.5, 0, 9)
    np.testing.assert_allclose(found, centres[:, None] * np.ones((1, 8)), atol=1e-5)
    np.testing.assert_allclose(resampled(np.full((300, 301), 7.0), 128, 90), 7.0, atol=1e-5)


def test_one_bright_voxel_does_not_darken_the_rest(rng):
    data = rng.uniform(100, 200, (60, 60, 60))
    data[30, 30, 30] = 1e6
    image = decoded(thumbnail_png(volume(data, 1, 1, 1)))
    assert 90 < np.median(image) < 165


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.sampled_from([1, 2, 7, 300])] * 3),
    spacing=st.tuples(*[st.sampled_from([0.1, 1.0, 30.0])] * 3),
    fill=st.sampled_from([0.0, -5.0, np.nan, np.inf, 1e30]),
)
def test_any_volume_gives_an_image(shape, spacing, fill):
    assert decoded(thumbnail_png(volume(np.full(shape, fill), *spacing))).shape == (BOX, 3 * BOX)


def test_a_thumbnail_lies_under_its_series(tmp_path, rng):
    one = volume(rng.random((9, 9, 9)), 1, 1, 1)
    path = save_thumbnail(tmp_path, "00ff", one)
    assert path == tmp_path / "thumbnails" / "00ff.png"
    assert path.read_bytes() == thumbnail_png(one)
    assert [file.name for file in path.parent.iterdir()] == ["00ff.png"]


def test_a_real_head_has_its_brain_in_the_middle_and_air_in_the_corners(shared):
    import nibabel

    image = nibabel.load(next((shared / "mri" / "nifti" / "ixi").glob("*T1*.nii.gz")))
    grey = decoded(thumbnail_png(to_ras(np.asarray(image.dataobj, np.float32), image.affine)))
    axial = grey[:, :BOX].astype(float)
    assert axial[48:80, 48:80].mean() > 60
    assert axial[:6, :6].mean() < 20
