"""Stage 1: self-distillation of the vision encoder on volumes alone.

Sources: DINO (Caron et al., 2021), iBOT (Zhou et al., 2022), KoLeo (Sablayrolles et al., 2019), all as DINOv2 (Oquab et
al., 2023) joins them, with the Sinkhorn-Knopp centring of SwAV (Caron et al., 2020); 3DINO shows it on MRI.

Decisions:
- The student sees every crop, and of some global ones not all patches; the teacher, its moving average, sees global
  crops whole. They have to agree on prototypes: on those of a volume from any two of its crops, and on those of the
  patches that were hidden.
- Volume and patches have heads of their own, of one kind. Prototypes rest at first, until the heads have settled.
- Centring is over the whole batch of all processes; iBOT is averaged within a volume first, so that a volume counts the
  same however much of it was hidden, and then over the whole batch.
- How far the stage has come is kept in buffers of whole numbers: it is saved with the weights, and no precision of a
  strategy rounds it.
- The stage ends with the teacher's weights, which do better than the student's.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from models.decipher import Decipher
from models.prepare import Prepared
from models.vision import Masking
from training.average import follow
from training.compute import Compute
from training.config import TrainConfig
from training.crops import CropBatch

WARM = 0.3
"""share of the stage over which the teacher's temperature rises"""


class PrototypeHead(nn.Module):
    """Vectors (T, E) to cosines (T, P) with prototypes: a perceptron of three layers, both sides at unit length."""

    def __init__(self, dim: int, config: TrainConfig) -> None:
        super().__init__()
        hidden, narrow = config.head_hidden, config.head_bottleneck
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, narrow)
        )
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, narrow))

    def forward(self, x: torch.Tensor, compute: Compute, moving: torch.Tensor) -> torch.Tensor:
        """moving: 0 or 1, a factor of the prototypes' gradient. They always get one, as data parallelism demands."""
        with compute.autocast():
            narrow = self.mlp(x)
        with torch.autocast(x.device.type, enabled=False):
            still = self.prototypes.detach()
            prototypes = still + (self.prototypes - still) * moving
            return F.normalize(narrow.float(), dim=-1) @ F.normalize(prototypes.float(), dim=-1).T


class Vision(nn.Module):
    """loss = dino_weight * dino + ibot_weight * ibot + koleo_weight * koleo."""

    done: torch.Tensor
    steps: torch.Tensor

    def __init__(self, model: Decipher, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.volume_head = PrototypeHead(model.config.dim, config)
        self.patch_head = PrototypeHead(model.config.dim, config)
        self.hidden_token = nn.Parameter(0.02 * torch.randn(model.config.vision.width))
        self.teacher = nn.ModuleList(copy.deepcopy(part) for part in self._student()).requires_grad_(False)
        self.register_buffer("done", torch.tensor(0))
        self.register_buffer("steps", torch.tensor(1))
        self.train()

    def _student(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """What the teacher follows, in its order."""
        return self.model.vision, self.volume_head, self.patch_head

    def train(self, mode: bool = True) -> "Vision":
        """The teacher stays in evaluation: it drops no paths."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: CropBatch, compute: Compute) -> dict[str, torch.Tensor]:
        """loss, dino, ibot and koleo of this process's crops; their mean over the processes is the whole batch's."""
        hidden = torch.cat(batch.hidden)
        where = hidden.flatten().nonzero()[:, 0]
        targets, patch_targets = self._taught(batch, where, compute)
        volumes, patches = self._seen(batch, hidden, compute)
        moving = (self.done >= self.config.frozen_prototypes * self.steps).float()
        scores = self.volume_head(volumes.flatten(0, 1), compute, moving).unflatten(0, volumes.shape[:2])
        patch_scores = self.patch_head(patches[where], compute, moving)
        with torch.autocast(hidden.device.type, enabled=False):
            cold = self.config.student_temperature
            dino = dino_loss(scores, targets, cold)
            weights = token_weights(hidden, compute)[where]
            ibot = (weights * cross_entropy(patch_scores, patch_targets, cold)).sum()
            wide = compute.gather(volumes[: len(batch.globals)].float().transpose(0, 1).contiguous())
            koleo = torch.stack([koleo_loss(vectors) for vectors in wide.unbind(dim=1)]).mean()
            loss = self.config.dino_weight * dino + self.config.ibot_weight * ibot + self.config.koleo_weight * koleo
        return {"loss": loss, "dino": dino, "ibot": ibot, "koleo": koleo}

    def _seen(self, batch: CropBatch, hidden: torch.Tensor, compute: Compute) -> tuple[torch.Tensor, torch.Tensor]:
        """The student's volume vectors (crops, B, E), and patches of the global crops (crops * B * N, E)."""
        count = len(batch.geometry_known)
        with compute.autocast():
            masking = Masking(hidden, self.hidden_token)
            wide = self.model.vision(joined(batch.globals), self._known(batch, batch.globals), masking)
            volumes = [wide.volume.unflatten(0, (-1, count))]
            if batch.locals:
                near = self.model.vision(joined(batch.locals), self._known(batch, batch.locals))
                volumes.append(near.volume.unflatten(0, (-1, count)))
        return torch.cat(volumes), wide.patches.flatten(0, 1)

    @torch.no_grad()
    def _taught(self, batch: CropBatch, where: torch.Tensor, compute: Compute) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's assignments of the global crops (crops, B, P), and of the patches `where` (T, P)."""
        vision, volume_head, patch_head = self.teacher
        with compute.autocast():
            found = vision(joined(batch.globals), self._known(batch, batch.globals))
        warm = self.temperature
        still = torch.zeros_like(warm)
        volumes = sinkhorn(volume_head(found.volume, compute, still) / warm, compute)
        patches = sinkhorn(patch_head(found.patches.flatten(0, 1)[where], compute, still) / warm, compute)
        return volumes.unflatten(0, (len(batch.globals), -1)), patches

    def _known(self, batch: CropBatch, crops: Sequence[Prepared]) -> torch.Tensor:
        return batch.geometry_known.repeat(len(crops))

    @property
    def temperature(self) -> torch.Tensor:
        """The teacher's, rising over the first three tenths of the stage."""
        first, last = self.config.teacher_temperature
        return first + (last - first) * (self.done / (WARM * self.steps)).clamp(max=1)

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        """After step 1, 2, ... of `steps`: the teacher follows the student, with a momentum that rises to 1 by a cosine."""
        follow(self.teacher.parameters(), self._followed(), momentum_at(self.config.teacher_momentum, step, steps))
        self.done.fill_(step)
        self.steps.fill_(steps)

    @torch.no_grad()
    def finish(self) -> None:
        """The encoder takes the teacher's weights."""
        for mine, theirs in zip(self.model.vision.parameters(), self.teacher[0].parameters(), strict=True):
            mine.copy_(theirs)

    def _followed(self) -> list[torch.Tensor]:
        return [p for part in self._student() for p in part.parameters()]


def joined(crops: Sequence[Prepared]) -> Prepared:
    """Batches one after the other as one batch."""
    return Prepared(*(torch.cat([getattr(c, f) for c in crops]) for f in Prepared.__dataclass_fields__))


def momentum_at(first: float, step: int, steps: int) -> float:
    """The teacher's momentum after step 1, 2, ... of `steps`: `first`, then by a cosine up to 1."""
    return 1 - (1 - first) * 0.5 * (1 + math.cos(math.pi * max(step - 1, 0) / steps))


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, compute: Compute, rounds: int = 3) -> torch.Tensor:
    """Scores over temperature (T, P) to assignments (T, P) whose rows sum to 1 and whose columns share all rows of all
    processes evenly, the more so the more rounds. T may differ between processes. Scores are cosines: exp cannot overflow."""
    share = scores.exp()
    for _ in range(rounds):
        share = share / compute.total(share.sum(dim=0)) / share.shape[1]
        share = share / share.sum(dim=1, keepdim=True)
    return share


def cross_entropy(student: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """-sum target log softmax(student / temperature) over the last axis: (..., P) and (..., P) to (...)."""
    return -(target * F.log_softmax(student / temperature, dim=-1)).sum(dim=-1)


def dino_loss(student: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy of student scores (S, B, P) against targets (G, B, P) over all pairs of different crops of a
    volume; the first G crops of the student are those of the targets."""
    crops = len(targets)
    others = targets.sum(dim=0, keepdim=True).repeat(len(student), 1, 1)
    others[:crops] -= targets
    pairs = crops * (len(student) - 1)
    return cross_entropy(student, others, temperature).sum() / max(1, pairs * student.shape[1])


def token_weights(hidden: torch.Tensor, compute: Compute) -> torch.Tensor:
    """Weights (B * N,) of the tokens of iBOT from hidden (B, N): within a crop they are even and sum to 1 over the crops
    of all processes that hide any, times the number of processes, over which gradients are averaged."""
    each = hidden.sum(dim=1, keepdim=True)
    crops = compute.total((each > 0).sum().float()).clamp(min=1)
    return (hidden / each.clamp(min=1) * (compute.world / crops)).flatten()


def koleo_loss(vectors: torch.Tensor) -> torch.Tensor:
    """Minus the mean log distance of each vector (B, E), at unit length, to its nearest other; 0 for one alone."""
    if len(vectors) < 2:
        return vectors.sum() * 0
    unit = F.normalize(vectors, dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(dim=1)
    return -(F.pairwise_distance(unit, unit[nearest], eps=1e-8) + 1e-8).log().mean()
