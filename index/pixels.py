"""DICOM pixels: the frames of a stack, decoded by the registered decoders, each rescaled once by its own slope.

Design: RLE is decoded by pydicom itself, since the registered decoder for it panics on damaged data in a way that no handler of
exceptions stops.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from index.dicom import named_errors, transfer_syntax
from index.finding import named_damage, open_unpacked, path_of, read_at, read_head
from index.frames import Frame, Stack
from index.intensity import finite_float32, rescaled
from index.ledger import Rejection
from index.plain import BIG_ENDIAN, NATIVE, Plain, read_plain
from index.tags import number, text, wanted
from models.volume import Volume, to_ras


def read_stack(stack: Stack, opened: Callable[[str], Any]) -> Volume:
    """The stack's pixels, rescaled, in RAS+ order, float32; NaN and Inf are 0. Raises Rejection.

    `opened` gives the whole data set of a file by its name in the catalogue.
    """
    data = np.zeros(stack.shape, dtype=np.float32)
    by_file: dict[str, list[tuple[int, Frame]]] = {}
    for place, frame in enumerate(stack.frames):
        by_file.setdefault(frame.file, []).append((place, frame))
    inverted = False
    for file, places in by_file.items():
        with named_errors("undecodable"):
            dataset = opened(file)
            inverted |= text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
            for place, image in images_of(dataset, places):
                data[:, :, place] = image.T
    if inverted:
        data = data.max() + data.min() - data
    return to_ras(data, stack.affine_mm)


def is_flat(root: Path, frame: Frame) -> bool | Rejection:
    """True where the frame, decoded, has but one value; the Rejection undecodable where it cannot be decoded."""
    try:
        with named_errors("undecodable"):
            ((_, image),) = images_of(load(path_of(root, frame.file)), [(0, frame)])
            return bool(image.min() == image.max())
    except Rejection as rejection:
        return rejection


def check_varies(stack: Stack, root: Path) -> None:
    """Raise Rejection constant_image where all voxels of the stack have one value."""
    data = read_stack(stack, lambda file: load(path_of(root, file))).data
    if data.min() == data.max():
        raise Rejection("constant_image", f"every voxel is {data.flat[0]:g}")


def load(path: Path) -> Any:
    """The whole data set of a file: Plain with its image where it is plain and not compressed, else pydicom's."""
    return _plain(path) or _by_pydicom(path)


def _plain(path: Path) -> Plain | None:
    plain = read_plain(path, read_head(path), wanted())
    if plain is None or plain.syntax not in NATIVE:
        return None
    names = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
    rows, columns, allocated, stored, signed = (int(number(plain, name) or 0) for name in names)
    single = (number(plain, "NumberOfFrames") or 1) == (number(plain, "SamplesPerPixel") or 1) == 1
    order = ">" if plain.syntax == BIG_ENDIAN else "<"
    if not single or allocated not in (16, 32) or not 1 <= stored <= allocated:
        return None
    raw = read_at(path, plain.pixels_at, rows * columns * allocated // 8)
    if len(raw) < rows * columns * allocated // 8:
        return None
    image = np.frombuffer(raw, f"{order}{'i' if signed else 'u'}{allocated // 8}").reshape(rows, columns)
    unused = allocated - stored
    plain.image = (image << unused) >> unused if unused else image
    return plain


def _by_pydicom(path: Path) -> Any:
    """pydicom's data set, with a transfer syntax that its pixels can be decoded by."""
    import pydicom

    with named_damage(), open_unpacked(path) as stream:
        dataset = pydicom.dcmread(stream, force=True)
    if not getattr(dataset, "file_meta", None) or "TransferSyntaxUID" not in dataset.file_meta:
        syntax = transfer_syntax(dataset)
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def images_of(dataset: Any, places: list[tuple[int, Frame]]) -> Iterator[tuple[int, np.ndarray]]:
    """(place, image (rows, columns) float32, rescaled and finite) of each (place, frame) of one data set."""
    sheet, at = np.zeros((0, 0)), -1
    for place, frame in places:
        if frame.index != at:
            sheet, at = _sheet(dataset, frame.index), frame.index
        yield place, finite_float32(rescaled(tile_of(sheet, frame), *_rescale(dataset, frame.index)))


def _sheet(dataset: Any, index: int) -> np.ndarray:
    """Stored values (rows, columns) of one frame, in the bits that count."""
    if isinstance(dataset, Plain):
        return dataset.image
    from pydicom.pixels import pixel_array
    from pydicom.uid import RLELossless

    many = int(number(dataset, "NumberOfFrames") or 1) > 1
    plugin = "pydicom" if dataset.file_meta.TransferSyntaxUID == RLELossless else ""
    return pixel_array(dataset, index=index if many else None, raw=True, decoding_plugin=plugin)


def tile_of(image: np.ndarray, frame: Frame) -> np.ndarray:
    """The frame's own pixels (rows, columns): the image, or its tile of a mosaic or grid."""
    if image.ndim != 2:
        raise Rejection("undecodable", f"pixels of shape {image.shape}")
    if frame.tile is None:
        return image
    down, across = divmod(frame.tile, image.shape[1] // frame.columns)
    top, left = down * frame.rows, across * frame.columns
    return image[top : top + frame.rows, left : left + frame.columns]


def _rescale(dataset: Any, index: int) -> tuple[float, float]:
    """Slope and intercept of one frame: its own functional group's, else the shared one's, else the file's."""
    for key, item in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        groups = dataset.get(key)
        transform = groups[item].get("PixelValueTransformationSequence") if groups and item < len(groups) else None
        if transform:
            return _slope(transform[0])
    return _slope(dataset)


def _slope(holder: Any) -> tuple[float, float]:
    slope, intercept = number(holder, "RescaleSlope"), number(holder, "RescaleIntercept")
    return (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)
