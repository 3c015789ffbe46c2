"""Alignment of sequence families with one frozen text encoder (MedMAP, arXiv 2602.23652).

Decisions
- The contrast is asymmetric in weight and in kind. A volume chooses among all texts of the batch; a text chooses among the
  volumes of one family at a time, since the sequences of a study are all right answers to its report and no rivals.
- The paper names the asymmetry and gives no formula; this one is the project's own.
- Volumes of unknown or hidden family are a family of their own: the encoder's shared path learns from them.
"""

import torch

from models.decipher import Decipher
from training.config import TrainConfig
from training.objectives.align import Align, one_way_contrast
from training.pairs import PairBatch


class Families(Align):
    """Stage align's loss with the asymmetric contrast."""

    def __init__(self, model: Decipher, config: TrainConfig) -> None:
        super().__init__(model, config)
        self.volume_to_text = config.volume_to_text

    def contrast(self, logits: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        return asymmetric_contrast(logits, batch.positive, batch.negative, batch.family, self.volume_to_text)


def asymmetric_contrast(
    logits: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, family: torch.Tensor, volume_to_text: float
) -> torch.Tensor:
    """volume_to_text * (volumes among all texts) + the rest * (texts among the volumes of each family, family by family).

    logits (B, T); positive, negative (B, T) bool; family (B,) int64. A family weighs as its share of the volumes.
    """
    forth = one_way_contrast(logits, positive, negative)
    back = logits.new_zeros(())
    for one in family.unique():
        own = family == one
        back = back + own.float().mean() * one_way_contrast(logits[own].T, positive[own].T, negative[own].T)
    return volume_to_text * forth + (1 - volume_to_text) * back
