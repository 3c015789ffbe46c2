"""The patch vectors of an index as an array that is not in memory: choosing rows costs nothing, reading is by block.

Decisions: rows of padding tokens are zeros. A choice of a choice reads only what is left in the end, so that training may
pass folds of a large index around as it does with arrays.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from index.array_files import row_blocks
from index.part import PatchShape


@dataclass(frozen=True)
class Patches:
    """float16 (n, N, E) of the live `rows` (n,) of an index; np.asarray(patches) reads them, patches[rows] chooses."""

    gather: Callable[[np.ndarray], np.ndarray]
    rows: np.ndarray
    each: PatchShape

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.rows), *self.each)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice | np.ndarray) -> "Patches":
        return replace(self, rows=self.rows[chosen])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self.gather(self.rows)
        return found if dtype is None else found.astype(dtype, copy=False)

    def blocks(self) -> Iterator[np.ndarray]:
        """All of them in order, float16 (b, N, E) at a time."""
        for block in row_blocks(len(self), 2 * int(np.prod(self.each))):
            yield self.gather(self.rows[block])
