"""Arrays on disk, written and read a block of rows at a time, so that memory stays small however many rows there are."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

BLOCK_BYTES = 2**24


def write_npy(path: Path, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """An array file from blocks of its rows; not through a memory map, where a full disk would kill the process.

    Errors: ValueError where the blocks do not make up `shape`.
    """
    rows = 0
    with path.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            if block.shape[1:] != shape[1:]:
                raise ValueError(f"a block of shape {block.shape} for an array of shape {shape}")
            stream.write(np.ascontiguousarray(block, dtype=dtype).data)
            rows += len(block)
    if rows != shape[0]:
        raise ValueError(f"blocks of {rows} rows in all for an array of shape {shape}")


def row_blocks(rows: int, row_bytes: int) -> Iterator[slice]:
    """Slices that together cover `rows` rows, each of BLOCK_BYTES or less, but of one row at least."""
    size = max(1, BLOCK_BYTES // max(1, row_bytes))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def blocks_of(array: np.ndarray, keep: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """The rows of an array in order, a block at a time; with `keep` (rows,) bool, those alone."""
    for block in row_blocks(len(array), array.nbytes // max(1, len(array))):
        yield array[block] if keep is None else array[block][keep[block]]
