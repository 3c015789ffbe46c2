"""Rows on their way to the disk: records, vectors, captions and patch vectors that belong together.

Decisions: vectors and patch vectors come as blocks, which are read while they are written. Captions say the same of many
series: each different one's vector is kept once, and each row's number of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import polars as pl

from models.errors import DecipherError

PatchShape = tuple[int, int]
"""of one series' patch vectors: tokens of the encoder's box N, width E"""


@dataclass(frozen=True)
class Part:
    """Rows to be stored: records; blocks that make up vectors (rows, E); captions (U, E) and each row's number of them;
    blocks that make up patch vectors (rows, N, E), None where none are kept."""

    records: pl.LazyFrame
    rows: int
    vectors: Iterable[np.ndarray]
    captions: np.ndarray
    caption_of: np.ndarray
    patches: Iterable[np.ndarray] | None = None


def part_of(
    records: pl.DataFrame, vectors: np.ndarray, captions: np.ndarray, patches: Iterable[np.ndarray] | None = None
) -> Part:
    """Rows to be stored, from one caption's vector a row: vectors, captions float32 (n, E); patches: see `checked`."""
    return Part(
        records.lazy(), records.height, [vectors], *distinct(captions), None if patches is None else checked(patches)
    )


def joined(parts: Sequence[Part]) -> Part:
    """Several parts as one, in order."""
    first = np.cumsum([0, *(len(part.captions) for part in parts)])
    captions, own = distinct(np.concatenate([part.captions for part in parts]))
    caption_of = [own[part.caption_of + start] for part, start in zip(parts, first, strict=False)]
    patches = [part.patches for part in parts if part.patches is not None]
    return Part(
        pl.concat([part.records for part in parts], how="diagonal_relaxed"),
        sum(part.rows for part in parts),
        chain.from_iterable(part.vectors for part in parts),
        captions,
        np.concatenate(caption_of),
        chain.from_iterable(patches) if patches else None,
    )


def distinct(captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows of float32 (n, E), as they first come, and each row's number of them, int32 (n,)."""
    numbers: dict[bytes, int] = {}
    own = np.fromiter((numbers.setdefault(row.tobytes(), len(numbers)) for row in captions), np.int32, len(captions))
    return np.frombuffer(b"".join(numbers), np.float32).reshape(-1, captions.shape[1]), own


def checked(patches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks of patch vectors (b, N, E) in half precision as they pass; DecipherError for one that it cannot hold."""
    for block in patches:
        with np.errstate(over="ignore"):
            half = block.astype(np.float16, copy=False)
        if not np.isfinite(half).all():
            raise DecipherError("The encoder gave patch vectors that half precision cannot hold.", "Check the model.")
        yield half
