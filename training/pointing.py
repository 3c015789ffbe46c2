"""Where the lesions of a batch lie, and a name for each: what patches learn to be near to.

Decisions:
- A lesion's name is that of its finding or, as often, a word for any lesion, so that both point.
- Where it lies is known of digital patients; of all others nothing is taught.
"""

import numpy as np
import torch

from models.config import ModelConfig
from training.captions import ATTRIBUTES, VALUES
from training.data import TrainingSet
from training.place import touched
from training.wordings import WORDS

ANY = ["lesion", "hyperintense lesion", "bright lesion", "dark lesion", "focal lesion", *WORDS["lesion"]["yes"]]
"""words for any lesion"""


class Pointing:
    """Where and what the lesions of a training set are, for an encoder of a shape."""

    def __init__(self, data: TrainingSet, config: ModelConfig) -> None:
        self.data, self.patch = data, config.vision.patch
        self.nowhere = touched(np.zeros(config.prepare.box, bool), self.patch)
        self.findings = data.attributes[:, ATTRIBUTES.index("finding")]

    def places(self, which: np.ndarray) -> torch.Tensor:
        """(P, N) bool: the tokens that a known lesion of each row touches."""
        masks = [self.data.lesion(row) for row in which]
        return torch.from_numpy(np.stack([self.nowhere if m is None else touched(m, self.patch) for m in masks]))

    def called(self, which: np.ndarray, rng: np.random.Generator) -> list[str]:
        """A name for the lesion of each row."""
        return [str(rng.choice(self._words(row) if rng.random() < 0.5 else ANY)) for row in which]

    def _words(self, row: int) -> list[str]:
        """What the finding of a row is called."""
        finding = VALUES["finding"][self.findings[row]] if self.findings[row] >= 0 else "none"
        return ANY if finding == "none" else WORDS["finding"][finding]
