"""Middle slices of a volume as a small PNG, for pages.

Decisions: axial, coronal and sagittal side by side, each 128 x 128 with true proportions in millimetres, shown as
radiologists expect: superior up, anterior up in axial slices and at the left in sagittal ones, the patient's right at
the viewer's left. Grey levels span the 1st to the 99.5th percentile of the three slices. PNG is written with the
standard library: it is three chunks.
"""

import struct
import zlib
from pathlib import Path

import numpy as np

from index.segment import replace_file
from models.volume import Volume

BOX = 128
WINDOW_PERCENTILES = (1.0, 99.5)


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
    return png(grey)


def save_thumbnail(folder: Path, series_id: str, volume: Volume) -> Path:
    """Write a volume's thumbnail to thumbnails/SERIES_ID.png below an index folder, atomically; the file's path."""
    path = folder / "thumbnails" / f"{series_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, thumbnail_png(volume))
    return path


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


def png(grey: np.ndarray) -> bytes:
    """A PNG file of an 8-bit greyscale image (rows, columns)."""
    height, width = grey.shape
    lines = b"".join(b"\0" + row.tobytes() for row in grey)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
