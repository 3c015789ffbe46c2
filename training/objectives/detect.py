"""Findings of a study, seen in several sequences at once: the fine-tuning of MedMAP (arXiv 2602.23652), with focal loss.

The vision encoder is trained on under the detector; the text encoder stays as it was and only starts the detector's queries.
"""

import torch
from torch import nn

from models.decipher import Decipher
from models.fusion import StudyFeatures, focal_loss
from models.vision import VisionFeatures
from training.compute import Compute
from training.config import TrainConfig
from training.studies import StudyBatch


class Detect(nn.Module):
    """loss = focal loss (Lin et al., 2017) over all findings that are known of the batch's studies."""

    def __init__(self, model: Decipher, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.gamma, self.series = config.focal_gamma, config.study_series

    def forward(self, batch: StudyBatch, compute: Compute) -> dict[str, torch.Tensor]:
        assert self.model.detector is not None
        with compute.autocast():
            found = self.model.vision(batch.volumes)
            shape = (batch.count, self.series)
            logits = self.model.detector(by_study(found, batch.volumes.family, batch.study, batch.slot, shape))
        logits = compute.gather(logits.float())
        loss = focal_loss(logits, batch.labels, batch.known, self.gamma, alpha=None)
        right = ((logits > 0) == (batch.labels > 0.5))[batch.known].float().mean()
        return {"loss": loss, "focal": loss, "accuracy": right}

    def after_step(self, step: int, steps: int) -> None:
        """Nothing follows a step."""

    def finish(self) -> None:
        """The model is what was trained."""


def by_study(
    found: VisionFeatures, family: torch.Tensor, study: torch.Tensor, slot: torch.Tensor, shape: tuple[int, int]
) -> StudyFeatures:
    """Features of n series laid out by study and slot; shape: (studies, slots). What has no series is absent, and zero."""

    def laid(values: torch.Tensor) -> torch.Tensor:
        out = values.new_zeros(*shape, *values.shape[1:])
        return out.index_put((study, slot), values)

    return StudyFeatures(
        volumes=laid(found.volume),
        patches=laid(found.patches),
        valid=laid(found.valid),
        family=laid(family),
        present=laid(torch.ones_like(family, dtype=torch.bool)),
    )
