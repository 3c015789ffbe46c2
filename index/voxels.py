"""A look at stored voxels, to tell images from masks and from damage at no more cost than the doubt is worth.

Design: a small file is unpacked whole, checksum included. A larger gzip file that ends with the size its header claims, and
packs no tighter than noise does, is trusted unread; any other is unpacked as far as the doubt goes, a megabyte at a time.
Of a larger plain file, whose size tells whether it is whole, some slices are read.
"""

import struct
from collections.abc import Iterable, Iterator
from io import BufferedIOBase, BytesIO
from itertools import islice

import numpy as np

from index.finding import Opened, named_damage, open_unpacked, read_at
from index.ledger import Rejection
from index.nifti import NiftiHeader, check_size

SMALL_BYTES = 1 << 20
BUDGET_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20
LABEL_BYTES_A_VOXEL = 0.12
FEWEST_VOXELS = 4096
SLICES, SLICES_BYTES = 16, 1 << 26
LABELS_ALONE, LABELS_AT_MOST, FLAT_SHARE = 16, 256, 0.5


def check_voxels(header: NiftiHeader, file: Opened, masks: bool = False) -> None:
    """Raise Rejection for a constant image, one without a finite voxel, truncated or corrupt data, and, where `masks` are
    not let in, a mask."""
    check_size(header, file.size_bytes, file.packed)
    voxels = header.volume_bytes // header.dtype.itemsize
    tight = not file.packed or file.size_bytes <= LABEL_BYTES_A_VOXEL * voxels * header.volumes
    if file.whole:
        _check_blocks(header, [file.start[header.offset_bytes : header.needed_bytes]], True)
    elif file.packed:
        trusted = file.size_bytes > SMALL_BYTES and _ends_as_claimed(header, file)
        if trusted and not tight:
            return
        _check_blocks(header, _blocks(header, file), not trusted)
    elif _is_all(header, _finite(header, b"".join(_slices(header, file)))):
        _check_blocks(header, _blocks(header, file), False)
    if tight and not masks and voxels >= FEWEST_VOXELS and is_label_map(_filled_slices(header, file)):
        raise Rejection("mask", "few values, in flat areas")


def _ends_as_claimed(header: NiftiHeader, file: Opened) -> bool:
    """True where the last member's size, modulo 2^32, is what the header needs: then the file is whole (RFC 1952)."""
    end = read_at(file.place, file.size_bytes - 4, 4)
    return len(end) == 4 and struct.unpack("<I", end)[0] == header.needed_bytes % (1 << 32)


def _check_blocks(header: NiftiHeader, blocks: Iterable[bytes], to_end: bool) -> None:
    """Look at voxels in file order until they vary and, where `to_end` is not asked for, BUDGET_BYTES are seen."""
    seen, first, varying = 0, b"", False
    for block in blocks:
        values = _finite(header, block)
        first = first or values[: header.dtype.itemsize]
        varying = varying or not _is_all(header, values, first)
        seen += len(block)
        if varying and not to_end and seen >= BUDGET_BYTES:
            return
    claimed = header.needed_bytes - header.offset_bytes
    if seen < claimed:
        raise Rejection("truncated", f"{claimed} bytes of voxels are claimed, {seen} are there")
    if not first:
        raise Rejection("no_finite_voxels")
    if not varying:
        raise Rejection("constant_image", f"every voxel is {np.frombuffer(first, header.dtype)[0]}")


def _is_all(header: NiftiHeader, values: bytes, first: bytes = b"") -> bool:
    """True where each of the values is the `first`; by default their own."""
    size = header.dtype.itemsize
    return values == (first or values[:size]) * (len(values) // size)


def _finite(header: NiftiHeader, block: bytes) -> bytes:
    """A block of voxels without those that are not finite, and without a last one that is cut; one zero, not two."""
    whole = block[: len(block) // header.dtype.itemsize * header.dtype.itemsize]
    if header.dtype.kind != "f":
        return whole
    values = np.frombuffer(whole, header.dtype)
    values = values[np.isfinite(values)]
    values[values == 0] = 0
    return values.tobytes()


def _stream(file: Opened) -> BufferedIOBase:
    return BytesIO(file.start) if file.whole else open_unpacked(file.place)


def _blocks(header: NiftiHeader, file: Opened) -> Iterator[bytes]:
    """The voxels in file order, a megabyte at a time; at the end the stream is read out, so that checksums are checked."""
    left = header.needed_bytes - header.offset_bytes
    with named_damage(), _stream(file) as stream:
        stream.seek(header.offset_bytes)
        while left > 0 and (block := stream.read(min(CHUNK_BYTES, left))):
            left -= len(block)
            yield block
        stream.read(1)


def _slices(header: NiftiHeader, file: Opened, every: int | None = None) -> Iterator[bytes]:
    """One in `every` slice of the first volume; by default evenly chosen ones, as many as `_held` says, or twice that."""
    held, count, size = _held(header), header.shape[2], header.volume_bytes // header.shape[2]
    if not held:
        return
    with named_damage(), _stream(file) as stream:
        for place in range(0, count, every or max(1, count // held)):
            stream.seek(header.offset_bytes + place * size)
            yield stream.read(size)


def _held(header: NiftiHeader) -> int:
    """How many slices may be held at once: SLICES, fewer large ones, none of a size that only damage claims."""
    return min(SLICES, SLICES_BYTES * header.shape[2] // header.volume_bytes)


def _filled_slices(header: NiftiHeader, file: Opened) -> np.ndarray:
    """Evenly chosen slices of the first volume without the empty ones; the first filled ones where those are empty."""
    few = _filled(header, _slices(header, file)) or _filled(header, _slices(header, file, 1))
    return np.frombuffer(b"".join(few), header.dtype).reshape((*header.shape[:2], len(few)), order="F")


def _filled(header: NiftiHeader, slices: Iterable[bytes]) -> list[bytes]:
    size = header.volume_bytes // header.shape[2]
    return list(islice((one for one in slices if len(one) == size and one != bytes(size)), 2 * _held(header)))


def is_label_map(data: np.ndarray) -> bool:
    """True for whole numbers of few values that fill flat areas: what labels do and a noisy image does not.

    data (I, J, K'): a slab as stored. A few values alone are enough; more need neighbours along I that mostly agree.
    """
    foreground = data != 0
    if not foreground.any() or (data.dtype.kind == "f" and not (data == np.round(data)).all()):
        return False
    some = data.ravel(order="K")[:: max(1, data.size // FEWEST_VOXELS)]
    if len(np.unique(some)) > LABELS_AT_MOST:
        return False
    count = len(np.unique(data))
    if count <= LABELS_ALONE or count > LABELS_AT_MOST:
        return count <= LABELS_ALONE
    equal = (data[1:] == data[:-1])[foreground[1:]]
    return equal.size > 0 and bool(equal.mean() >= FLAT_SHARE)
