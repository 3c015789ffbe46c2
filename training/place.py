"""Where a lesion lies: masks on the encoder's box as shards keep them, and the tokens that they touch."""

import zlib

import numpy as np

from models.config import Edges


def packed_mask(mask: np.ndarray) -> bytes | None:
    """A mask (I, J, K) bool in a few hundred bytes; None for an empty one."""
    return zlib.compress(np.packbits(mask).tobytes()) if mask.any() else None


def unpacked_mask(packed: bytes, box: Edges) -> np.ndarray:
    """The mask (box) bool that `packed_mask` was given."""
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(box))).reshape(box).astype(bool)


def touched(mask: np.ndarray, patch: Edges) -> np.ndarray:
    """(N,) bool: whether anything of a mask (I, J, K) lies in each patch of its box."""
    (i, j, k), (a, b, c) = mask.shape, patch
    return mask.reshape(i // a, a, j // b, b, k // c, c).any(axis=(1, 3, 5)).ravel()
