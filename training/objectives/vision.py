"""Stage 1: self-distillation of the vision encoder on volumes alone.

Source: DINO (Caron et al., 2021) with the Sinkhorn-Knopp centring of SwAV and DINOv2 (Oquab et al., 2023): a student sees
global and local views, a teacher that is its moving average sees the global ones, and their prototype scores shall agree.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from models.decipher import Decipher
from training.augment import random_box
from training.config import TrainConfig
from training.data import Autocast, Batch

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.05


class PrototypeHead(nn.Module):
    """Vectors (B, E) to cosine scores against prototypes (B, P)."""

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim // 2))
        self.prototypes = nn.Parameter(torch.randn(prototypes, dim // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Vision(nn.Module):
    """loss = cross-entropy of the student's scores on every view against the teacher's on the other global views."""

    def __init__(self, model: Decipher, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.head = PrototypeHead(model.config.dim, config.prototypes)
        self.teacher = copy.deepcopy(nn.ModuleList([model.vision, self.head])).requires_grad_(False)
        self.momentum = config.teacher_momentum
        self.local_size = model.config.prepare.box // 2

    def forward(self, batch: Batch, autocast: Autocast) -> dict[str, torch.Tensor]:
        local = [random_box(v, self.local_size, batch.generator) for v in batch.views]
        with autocast():
            seen = [self.model.vision(v, batch.geometry_known).volume for v in (*batch.views, *local)]
            with torch.no_grad():
                taught = [self.teacher[0](v).volume for v in batch.views]
        students = [self.head(v.float()) for v in seen]
        with torch.no_grad():
            targets = [sinkhorn(self.teacher[1](v.float()) / TEACHER_TEMPERATURE) for v in taught]
        terms = [
            cross_entropy(student, target)
            for t, target in enumerate(targets)
            for s, student in enumerate(students)
            if s != t
        ]
        return {"loss": torch.stack(terms).mean()}

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """The teacher follows the student; momentum rises to 1 by a cosine over the run."""
        share = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
        momentum = 1 - (1 - self.momentum) * share
        for old, new in zip(
            self.teacher.parameters(), [*self.model.vision.parameters(), *self.head.parameters()], strict=True
        ):
            old.lerp_(new, 1 - momentum)


def sinkhorn(scores: torch.Tensor, rounds: int = 3) -> torch.Tensor:
    """Scores (B, P) to assignments whose rows sum to 1 and whose columns share the batch evenly."""
    share = (scores - scores.max()).exp()
    for _ in range(rounds):
        share = share / share.sum(dim=0, keepdim=True) / share.shape[1]
        share = share / share.sum(dim=1, keepdim=True) / share.shape[0]
    return share * share.shape[0]


def cross_entropy(student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over B of -sum target log softmax(student / temperature); both (B, P)."""
    return -(target * F.log_softmax(student / STUDENT_TEMPERATURE, dim=-1)).sum(dim=-1).mean()
