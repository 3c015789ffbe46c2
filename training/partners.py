"""Which series of the same patient, in another sequence, a series can be held against.

Decisions:
- Digital patients with one real head share its owner, but no anatomy to the voxel: a partner is of the same digital patient.
- A series without a partner stands alone; so do series whose sequence is not known.
"""

import numpy as np

from training.data import TrainingSet
from training.preparing import HEAD


class Partners:
    """For each row of a training set the rows that may stand beside it; usable (n,) bool narrows both."""

    def __init__(self, data: TrainingSet, usable: np.ndarray) -> None:
        head = (data.rows["origin"] == HEAD).fill_null(False).to_numpy()
        whose = np.where(head, data.rows["study_id"].fill_null("").to_numpy(), data.subjects).astype(str)
        self.sequence = data.rows["sequence"].fill_null("").to_numpy().astype(str)
        rows = np.flatnonzero(usable & (self.sequence != ""))
        rows = rows[np.argsort(whose[rows], kind="stable")]
        _, self.group, counts = np.unique(whose, return_inverse=True, return_counts=True)
        ends = np.cumsum(np.bincount(self.group[rows], minlength=len(counts)))
        self.members = np.split(rows, ends[:-1])

    def of(self, row: int, rng: np.random.Generator) -> int:
        """A row of the same patient in another sequence, -1 where there is none."""
        members = self.members[self.group[row]]
        others = members[self.sequence[members] != self.sequence[row]] if self.sequence[row] else members[:0]
        return int(rng.choice(others)) if len(others) else -1
