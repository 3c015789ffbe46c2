"""A look at stored voxels, to tell images from masks and from damage without decoding the whole file.

Design: at most a few megabytes of a NIfTI file are unpacked, and more only while every voxel seen so far is the same or
the file packs as tightly as only label maps do. Small files are thus read to their end, checksum included.
"""

from collections.abc import Iterator

import numpy as np

from index.finding import GZIP_MAGIC, named_damage, open_unpacked
from index.ledger import Rejection
from index.nifti import NiftiHeader, read_stored

BUDGET_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20
LABEL_BYTES_A_VOXEL = 0.12
FEWEST_VOXELS = 4096
LABELS_ALONE, LABELS_AT_MOST, FLAT_SHARE = 16, 256, 0.5


def check_voxels(header: NiftiHeader) -> None:
    """Raise Rejection for a mask, a constant image, one without a finite voxel, and truncated or corrupt data."""
    _check_stream(header)
    size = header.data_path.stat().st_size
    with header.data_path.open("rb") as stream:
        packed = stream.read(2) == GZIP_MAGIC
    voxels = header.volume_bytes // header.dtype.itemsize
    if voxels < FEWEST_VOXELS or (packed and size > LABEL_BYTES_A_VOXEL * voxels * header.volumes):
        return
    if is_label_map(_filled_slices(header, packed)):
        raise Rejection("mask", "few values, in flat areas")


def is_label_map(data: np.ndarray) -> bool:
    """True for whole numbers of few values that fill flat areas: what labels do and a noisy image does not.

    data (I, J, K'): a slab as stored. A few values alone are enough; more need neighbours along I that mostly agree.
    """
    foreground = data != 0
    if not foreground.any() or not (data == np.round(data)).all():
        return False
    count = len(np.unique(data))
    if count <= LABELS_ALONE or count > LABELS_AT_MOST:
        return count <= LABELS_ALONE
    equal = (data[1:] == data[:-1])[foreground[1:]]
    return equal.size > 0 and bool(equal.mean() >= FLAT_SHARE)


def _filled_slices(header: NiftiHeader, packed: bool) -> np.ndarray:
    """Sixteen evenly chosen slices of the first volume, without the empty ones; all filled ones where those are empty."""
    if packed:
        data = read_stored(header, 0)
    else:
        data = np.memmap(header.data_path, header.dtype, "r", header.offset_bytes, header.shape, order="F")
    few = np.asarray(data[:, :, :: max(1, header.shape[2] // 16)])
    few = few[:, :, few.any(axis=(0, 1))]
    return few if few.shape[2] else np.asarray(data[:, :, data.any(axis=(0, 1))])


def _check_stream(header: NiftiHeader) -> None:
    seen, first, varying, finite = 0, None, False, False
    needed = header.volume_bytes * header.volumes
    for block in _blocks(header, needed):
        values = block[np.isfinite(block)] if block.dtype.kind == "f" else block
        finite |= len(values) > 0
        if len(values) and first is None:
            first = values[0]
        varying |= bool(len(values) and (values != first).any())
        seen += block.nbytes
        if varying and seen >= BUDGET_BYTES:
            return
    if seen < needed // header.dtype.itemsize * header.dtype.itemsize:
        raise Rejection("truncated", f"{needed} bytes of voxels are claimed, {seen} are there")
    if not finite:
        raise Rejection("no_finite_voxels")
    if not varying:
        raise Rejection("constant_image", f"every voxel is {first}")


def _blocks(header: NiftiHeader, needed: int) -> Iterator[np.ndarray]:
    """The voxels in file order, a megabyte at a time; at the end the stream is read out, so that checksums are checked."""
    with named_damage(), open_unpacked(header.data_path) as stream:
        stream.read(header.offset_bytes)
        while needed > 0:
            chunk = stream.read(min(CHUNK_BYTES, needed))
            if not chunk:
                return
            needed -= len(chunk)
            yield np.frombuffer(chunk[: len(chunk) // header.dtype.itemsize * header.dtype.itemsize], header.dtype)
        stream.read(1)
