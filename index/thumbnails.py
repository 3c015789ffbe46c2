"""Middle slices of a volume as a small PNG, for pages.

Decisions: axial, coronal and sagittal side by side, each 128 x 128 with true proportions in millimetres, shown as
radiologists expect: superior up, anterior up in axial slices and at the left in sagittal ones, the patient's right at
the viewer's left. Grey levels span the 1st to the 99.5th percentile of the three slices, in steps of 4 of 255: the eye
tells no more apart here, and the file is a third smaller. PNG is written and read here, as it is three chunks, each line
the difference to the one above; isal packs it to zlib's size in a twentieth of the time. Pages of very many hits take
pictures of half the size.
"""

import struct
import zlib
from pathlib import Path

import numpy as np

from index.segment import replace_file
from models.volume import Volume

BOX = 128
WINDOW_PERCENTILES = (1.0, 99.5)
GREY_STEP = 4
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN_LINE, DIFFERENCE_TO_ABOVE = 0, 2
GREY, COLOUR = 0, 2


def thumbnail_png(volume: Volume) -> bytes:
    """An 8-bit greyscale PNG of 384 x 128 pixels: middle axial, coronal and sagittal slice of `volume`."""
    data, spacing = volume.data[0], volume.spacing_mm
    middle_i, middle_j, middle_k = (size // 2 for size in data.shape)
    planes = [
        (data[::-1, ::-1, middle_k].T, spacing[1], spacing[0]),
        (data[::-1, middle_j, ::-1].T, spacing[2], spacing[0]),
        (data[middle_i, ::-1, ::-1].T, spacing[2], spacing[1]),
    ]
    grey = windowed(np.concatenate([fitted(*plane) for plane in planes], axis=1))
    return png(stepped(grey))


def save_thumbnail(folder: Path, series_id: str, volume: Volume) -> Path:
    """Write a volume's thumbnail to thumbnails/SERIES_ID.png below an index folder, atomically; the file's path."""
    path = folder / "thumbnails" / f"{series_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, thumbnail_png(volume))
    return path


def halved(thumbnail: bytes) -> bytes:
    """A thumbnail's PNG at half its width and height. ValueError when it is none of ours."""
    grey = grey_of(thumbnail)
    rows, columns = grey.shape[0] // 2, grey.shape[1] // 2
    corners = [grey[top : 2 * rows : 2, left : 2 * columns : 2] for top in (0, 1) for left in (0, 1)]
    four: np.ndarray = np.stack(corners).sum(axis=0, dtype=np.uint16)
    return png(stepped(((four + 2) // 4).astype(np.uint8)))


def fitted(plane: np.ndarray, row_mm: float, column_mm: float, box: int = BOX) -> np.ndarray:
    """A slice (R, C) of pixels row_mm x column_mm, resampled bilinearly to fit a box with its proportions; rest NaN."""
    rows_mm, columns_mm = plane.shape[0] * row_mm, plane.shape[1] * column_mm
    scale = box / max(rows_mm, columns_mm)
    height, width = max(1, round(rows_mm * scale)), max(1, round(columns_mm * scale))
    canvas = np.full((box, box), np.nan, dtype=np.float32)
    top, left = (box - height) // 2, (box - width) // 2
    canvas[top : top + height, left : left + width] = resampled(plane, height, width)
    return canvas


def resampled(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation at pixel centres, after averaging whole blocks where the slice is much larger."""
    step_r, step_c = max(1, plane.shape[0] // height), max(1, plane.shape[1] // width)
    kept = plane[: plane.shape[0] // step_r * step_r, : plane.shape[1] // step_c * step_c].astype(np.float32)
    kept = np.where(np.isfinite(kept), kept, np.nan)
    small = kept.reshape(kept.shape[0] // step_r, step_r, kept.shape[1] // step_c, step_c).mean(axis=(1, 3))
    return _along(_along(small, height).T, width).T


def _along(plane: np.ndarray, size: int) -> np.ndarray:
    places = np.clip((np.arange(size) + 0.5) * plane.shape[0] / size - 0.5, 0, plane.shape[0] - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, plane.shape[0] - 1)
    share = (places - low)[:, None].astype(np.float32)
    return plane[low] * (1 - share) + plane[high] * share


def windowed(image: np.ndarray) -> np.ndarray:
    """uint8 grey levels of an image; NaN (outside) is black, one value throughout is black too."""
    inside = image[np.isfinite(image)].astype(np.float64)
    low, high = np.percentile(inside, WINDOW_PERCENTILES) if len(inside) else (0.0, 0.0)
    if not high > low:
        return np.zeros(image.shape, dtype=np.uint8)
    scaled = (np.nan_to_num(image.astype(np.float64), nan=low) - low) / (high - low)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def stepped(grey: np.ndarray) -> np.ndarray:
    """uint8 grey levels rounded to steps of 4; black and white stay black and white."""
    steps = (grey.astype(np.uint16) + GREY_STEP // 2) // GREY_STEP
    return np.minimum(steps * GREY_STEP, 255).astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    """A PNG file of an 8-bit image: grey (rows, columns), or in colour (rows, columns, 3)."""
    from isal import isal_zlib

    height, width = picture.shape[:2]
    levels = picture.reshape(height, -1)
    lines = np.empty((height, levels.shape[1] + 1), dtype=np.uint8)
    lines[:, 0] = DIFFERENCE_TO_ABOVE
    lines[0, 1:] = levels[0]
    np.subtract(levels[1:], levels[:-1], out=lines[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR if picture.ndim == 3 else GREY, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(lines.tobytes(), 1)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)


def grey_of(image: bytes) -> np.ndarray:
    """The uint8 pixels (rows, columns) of a PNG that `png` wrote, now or before. ValueError for any other file."""
    from isal import igzip_lib, isal_zlib

    try:
        (length,) = struct.unpack(">I", image[33:37])
        width, height, *kind = struct.unpack(">IIBBBBB", image[16:29])
        lines = np.frombuffer(isal_zlib.decompress(image[41 : 41 + length]), dtype=np.uint8).reshape(height, width + 1)
    except (struct.error, igzip_lib.IsalError, ValueError) as error:  # type: ignore[misc] # isal says it is a value
        raise ValueError("not a thumbnail's PNG") from error
    filters = set(lines[:, 0].tolist())
    if image[:8] != SIGNATURE or kind != [8, 0, 0, 0, 0] or filters not in ({PLAIN_LINE}, {DIFFERENCE_TO_ABOVE}):
        raise ValueError("not a thumbnail's PNG")
    if filters == {PLAIN_LINE}:
        return lines[:, 1:]
    return np.cumsum(lines[:, 1:], axis=0, dtype=np.uint8)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
