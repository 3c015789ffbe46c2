"""Contrast, report generation, masked image modelling and opposite sentences in one loss (COLIPRI, arXiv 2510.15042).

Decisions
- Each term has a weight, and 0 switches it off: report_weight (R), image_weight (M), opposite_weight. The presets colipri-c,
  -cr, -cm and colipri are C, CR, CM and CRM.
- Masked image modelling is iBOT's, on the series without text: stage align's losses for images, with DINO's and KoLeo's
  weights 0.
- The forms of a finding are looked up by F.embedding: gradients of `texts[pairs]` are summed by several threads in any order,
  and a run that was stopped would not end with the same bits.
"""

import torch
from torch.nn import functional as F

from models.decipher import Decipher
from models.report import report_loss
from models.vision import VisionFeatures
from training.compute import Compute
from training.config import TrainConfig
from training.objectives.align import Align
from training.opposite import opposite_sentence_loss
from training.written import WrittenBatch


class Colipri(Align):
    """loss = stage align's + report_weight * next tokens of the reports + opposite_weight * findings against opposites."""

    def __init__(self, model: Decipher, config: TrainConfig) -> None:
        super().__init__(model, config)
        self.weights |= {"report": config.report_weight, "opposite": config.opposite_weight}

    def terms(  # type: ignore[override]
        self, found: list[VisionFeatures], batch: WrittenBatch, compute: Compute
    ) -> dict[str, torch.Tensor]:
        losses = super().terms(found, batch, compute)
        if self.weights["report"]:
            losses["report"] = self._report(found[0], batch, compute)
        if self.weights["opposite"]:
            losses["opposite"] = self._opposite(found[0], batch, compute)
        return losses

    def _report(self, found: VisionFeatures, batch: WrittenBatch, compute: Compute) -> torch.Tensor:
        """Mean cross-entropy of the reports' next tokens over the whole batch."""
        assert self.model.writer is not None
        with compute.autocast():
            logits = self.model.writer(found, batch.tokens)
        return compute.mean(*report_loss(logits, batch.tokens))

    def _opposite(self, found: VisionFeatures, batch: WrittenBatch, compute: Compute) -> torch.Tensor:
        if len(batch.opposites):
            with compute.autocast():
                texts = self.model.text(self._sentences(batch.opposites))
            words = F.embedding(batch.pairs, F.normalize(texts.float(), dim=-1))
            cosines = (F.normalize(found.volume.float(), dim=-1)[:, None, None] * words).sum(-1)
        else:
            cosines = found.volume.float().sum() * 0 + torch.zeros(batch.pairs.shape, device=batch.pairs.device)
        return opposite_sentence_loss(compute.gather(cosines), compute.gather(batch.present), self.model.scale)
