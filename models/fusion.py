"""The detector: findings of organs from several sequences of one study, in two streams (after MedMAP, 2602.23652).

Decisions:
- A target, a finding of an organ, asks with one query, which starts as the text encoder's vector of its prompt. In the
  semantic stream it asks the volume vectors of the sequences; in the detail stream, all their patches.
- Then the streams ask each other, layer by layer, so that whole and detail, and findings that go together, inform each
  other. MedMAP's settings beyond this are not published; widths and depth are ours.
- A sequence that is missing, and padding, are zeroed before anything is computed of them and never looked at, so that
  whatever stands there changes nothing. Sequences have a family, no order.
- Volume vectors are read at unit length, whether or not they come so.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.attention import CrossAttention, mlp
from models.config import FAMILIES
from models.errors import DecipherError


@dataclass(frozen=True)
class Target:
    """A finding of an organ, as it is called in labels and results."""

    name: str
    organ: str


@dataclass(frozen=True)
class DetectorConfig:
    """targets: what is detected, in the order of the logits; column: the label column they were learnt from, '' for reports."""

    targets: tuple[Target, ...]
    width: int = 256
    depth: int = 2
    heads: int = 4
    column: str = ""

    def __post_init__(self) -> None:
        if not self.targets or min(self.depth, self.heads) < 1 or self.width % self.heads:
            raise DecipherError(
                f"No detector has {len(self.targets)} targets, width {self.width}, depth {self.depth}, {self.heads} heads.",
                "Take a target or more, a width that the heads divide, and at least one layer and one head.",
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(found: dict[str, Any]) -> "DetectorConfig":
        return DetectorConfig(**{**found, "targets": tuple(Target(**target) for target in found["targets"])})


@dataclass(frozen=True)
class StudyFeatures:
    """Features of B studies with up to S sequences each.

    volumes (B, S, E); patches (B, S, N, E); valid (B, S, N) bool, false on padding; family (B, S) int64, index in
    FAMILIES or -1; present (B, S) bool, false where a study has no such sequence: any values may stand there. Each study
    has at least one present.
    """

    volumes: torch.Tensor
    patches: torch.Tensor
    valid: torch.Tensor
    family: torch.Tensor
    present: torch.Tensor


class StreamLayer(nn.Module):
    """One stream's queries (B, F, width) ask the other's, then think; each with a skip, normed before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm_other, self.norm2 = (nn.LayerNorm(width) for _ in range(3))
        self.attention = CrossAttention(width, heads)
        self.mlp = mlp(width)

    def forward(self, x: torch.Tensor, other: torch.Tensor, look: torch.Tensor | None = None) -> torch.Tensor:
        """other (B, M, width); look (B, 1, 1, M) bool."""
        x = x + self.attention(self.norm1(x), self.attention.keys(self.norm_other(other)), look)
        return x + self.mlp(self.norm2(x))


class Detector(nn.Module):
    """Studies to logits (B, F), one a target."""

    def __init__(self, config: DetectorConfig, dim: int) -> None:
        """dim: width of the features."""
        super().__init__()
        self.config = config
        width, count = config.width, len(config.targets)
        self.queries = nn.Parameter(F.normalize(torch.randn(count, dim), dim=-1))
        self.family = nn.Parameter(0.02 * torch.randn(1 + len(FAMILIES), width))
        self.from_text, self.from_volume, self.from_patch = (nn.Linear(dim, width) for _ in range(3))
        self.norm_query = nn.LayerNorm(width)
        self.semantic, self.detail = StreamLayer(width, config.heads), StreamLayer(width, config.heads)
        self.across = nn.ModuleList(StreamLayer(width, config.heads) for _ in range(2 * config.depth))
        self.norm = nn.LayerNorm(2 * width)
        self.weight = nn.Parameter(0.02 * torch.randn(count, 2 * width))
        self.bias = nn.Parameter(torch.zeros(count))

    @torch.no_grad()
    def start(self, vectors: torch.Tensor) -> None:
        """Let the queries begin as the text encoder's vectors (F, dim) of the targets' prompts.

        Errors: ValueError when there are other than one vector for each target, or of another width.
        """
        if vectors.shape != self.queries.shape:
            raise ValueError(f"Queries are {tuple(self.queries.shape)}, vectors {tuple(vectors.shape)}.")
        self.queries.copy_(F.normalize(vectors, dim=-1))

    def forward(self, study: StudyFeatures) -> torch.Tensor:
        """Logits (B, F) float32, whatever the order of the sequences."""
        volumes, patches, look = self._seen(study)
        queries = self.norm_query(self.from_text(self.queries)).expand(len(volumes), -1, -1)
        semantic = self.semantic(queries, volumes, study.present[:, None, None])
        detail = self.detail(queries, patches, look[:, None, None])
        layers = list(self.across)
        for to_semantic, to_detail in zip(layers[::2], layers[1::2], strict=True):
            semantic, detail = to_semantic(semantic, detail), to_detail(detail, semantic)
        both = self.norm(torch.cat([semantic, detail], dim=-1))
        return (both * self.weight).sum(dim=-1).float() + self.bias

    def _seen(self, study: StudyFeatures) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Volumes (B, S, width), patches (B, S * N, width) and which of the patches may be looked at (B, S * N)."""
        there = study.present[..., None]
        look = study.valid & there
        family = F.embedding(torch.where(study.present, study.family + 1, 0), self.family)
        volumes = F.normalize(torch.where(there, study.volumes, torch.zeros_like(study.volumes)), dim=-1)
        patches = torch.where(look[..., None], study.patches, torch.zeros_like(study.patches))
        patches = self.from_patch(patches) + family[:, :, None]
        return self.from_volume(volumes) + family, patches.flatten(1, 2), look.flatten(1, 2)


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    known: torch.Tensor,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
) -> torch.Tensor:
    """Focal loss (Lin et al., 2017): cross-entropy that easy cases weigh little in; the mean over the labels that are known.

    logits (B, F); labels (B, F) 0 or 1; known (B, F) bool: what stands elsewhere changes nothing, and where nothing is known
    the loss is 0. gamma: how much less easy cases weigh; alpha: weight of positives, 1 - alpha of negatives, None of neither.
    """
    positive = known & (labels > 0.5)
    right = torch.where(known, logits, torch.zeros_like(logits)).float()
    right = torch.where(positive, right, -right)
    each = -F.logsigmoid(right) * (gamma * F.logsigmoid(-right)).exp()
    if alpha is not None:
        each = each * torch.where(positive, alpha, 1 - alpha)
    return torch.where(known, each, torch.zeros_like(each)).sum() / known.sum().clamp(min=1)
