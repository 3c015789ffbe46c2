"""Stage 2: volumes and texts into one space by a contrast with many positives.

Source: the symmetric image-text contrast of CLIP (Radford et al., 2021), its positives generalised to sets, since several
captions are true of a volume and several series share a report. Each positive is held against the negatives alone: in
the supervised contrast of Khosla et al. (2020) positives compete with each other, which keeps the temperature high.
Linear heads on the volume vector name the known attributes directly; they only train, and are not saved with the model.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.decipher import Decipher
from training.captions import VALUES
from training.config import TrainConfig
from training.data import Autocast, Batch


class Align(nn.Module):
    """loss = contrast of volumes with texts + heads_weight * attribute heads + views_weight * contrast of two views."""

    def __init__(self, model: Decipher, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.views_weight, self.heads_weight = config.views_weight, config.heads_weight
        self.heads = nn.ModuleList(nn.Linear(model.config.dim, len(values)) for values in VALUES.values())

    def forward(self, batch: Batch, autocast: Autocast) -> dict[str, torch.Tensor]:
        with autocast():
            found = [self.model.vision(v, batch.geometry_known).volume for v in batch.views]
        volumes = [F.normalize(v.float(), dim=-1) for v in found]
        texts = F.normalize(self.model.text(batch.sentences), dim=-1)
        contrast = torch.stack(
            [many_positive_contrast(self.model.scale * v @ texts.T, batch.positive, batch.negative) for v in volumes]
        ).mean()
        losses = {"contrast": contrast, "loss": contrast}
        if self.heads_weight:
            losses["heads"] = torch.stack([self._name(v.float(), batch.attributes) for v in found]).mean()
            losses["loss"] = losses["loss"] + self.heads_weight * losses["heads"]
        if self.views_weight:
            losses["views"] = view_contrast(volumes[0], volumes[1], batch.same_subject)
            losses["loss"] = losses["loss"] + self.views_weight * losses["views"]
        return losses

    def _name(self, volumes: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        """Mean over attributes of the cross-entropy on volumes (B, E) where attributes (B, A) are known."""
        terms = [
            F.cross_entropy(head(volumes), attributes[:, a], ignore_index=-1)
            for a, head in enumerate(self.heads)
            if (attributes[:, a] >= 0).any()
        ]
        return torch.stack(terms).mean() if terms else volumes.sum() * 0.0

    def after_step(self, step: int, steps: int) -> None:
        """Nothing follows a step."""


def many_positive_contrast(logits: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Mean over both directions and all positives of -log(e^p / (e^p + sum of e^negatives)); logits (B, T).

    Pairs that are neither positive nor negative stay out; rows or columns without both are left out.
    """
    return (_one_way(logits, positive, negative) + _one_way(logits.T, positive.T, negative.T)) / 2


def _one_way(logits: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    rows = positive.any(dim=1) & negative.any(dim=1)
    if not rows.any():
        return logits.sum() * 0.0
    logits, positive, negative = logits[rows], positive[rows], negative[rows]
    against = logits.masked_fill(~negative, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    each = F.softplus(against - logits).masked_fill(~positive, 0.0).sum(dim=1) / positive.sum(dim=1)
    return each.mean()


def view_contrast(
    first: torch.Tensor, second: torch.Tensor, same: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """NT-Xent (Chen et al., 2020) between two views (B, E) of B volumes; other series of the same subject are no negatives."""
    logits = first @ second.T / temperature
    own = torch.eye(len(first), dtype=torch.bool, device=first.device)
    return many_positive_contrast(logits, own, ~same)
