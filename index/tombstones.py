"""Which rows of a segment were removed, as a manifest writes it: "3 7-9 12", row numbers and runs of them, ascending."""

import numpy as np


def write(rows: np.ndarray) -> str:
    """The text of ascending, different row numbers."""
    if not len(rows):
        return ""
    breaks = np.flatnonzero(np.diff(rows) > 1)
    first, last = rows[np.r_[0, breaks + 1]], rows[np.r_[breaks, len(rows) - 1]]
    return " ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(first.tolist(), last.tolist(), strict=True))


def read(text: str) -> np.ndarray:
    """Ascending row numbers, int64, of what `write` gave; ValueError for anything else."""
    runs = [word.split("-") for word in text.split()]
    rows = [np.arange(int(run[0]), int(run[-1]) + 1) for run in runs]
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)


def keep(text: str, rows: int) -> np.ndarray | None:
    """bool (rows,): which of a segment's rows still live; None when all do."""
    if not text:
        return None
    living = np.ones(rows, dtype=bool)
    living[read(text)] = False
    return living
