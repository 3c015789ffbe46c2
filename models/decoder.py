"""Light decoders: the frozen encoder's patch vectors, and the picture they were made of, to one map of logits.

Decisions:
- All take the same and give the same, so that they can be compared: a View in, logits (B, 1, I, J, K) of its box out.
- `linear`: one logit a patch, interpolated; it shows what the vectors alone know. `resnet`: patches interpolated level by
  level, beside them what residual convolutions see of the picture at each level. `unetr`: the blocks of UNETR (Hatamizadeh
  et al., 2022) by monai; its skips come from the last layer, since only that is kept of a frozen encoder.
- A guided decoder is told what to look for by a text vector that scales and shifts the patches (FiLM; Perez et al., 2018).
- But for `linear`, a curve of each standardised intensity is learned: shown with the picture, and added to the logits. Where
  lesions are bright and small, it is most of the answer, and convolutions take thousands of steps to find it.
- Most of the time is spent where there are most voxels: so levels are narrow where they are large, and `resnet` computes
  the finest one in blocks of voxels, as channels (Shi et al., 2016).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from models.config import Edges, ModelConfig, edges
from models.errors import DecipherError
from models.layers import ResidualConv
from models.view import WIDEST, View, standardised, standardised_around

CHANNELS = 3
"""of the picture: standardised by the volume, by what is around, and a learned curve of both"""
KNOTS = 32
STEEP = 10.0
"""by how much heights are scaled: a curve that parts tissues is steep, and steps of learning are small"""
KINDS = ("linear", "resnet", "unetr")


@dataclass(frozen=True)
class DecoderConfig:
    """kind: one of KINDS; dim: width of the encoder's vectors; box, patch: edges in voxels; finest_mm: of the voxels it is
    shown, 0 for those of the box about the whole body; width: channels of the finest level that is computed (unetr: half of
    them); guided: whether a text vector tells it what to look for.

    Errors: DecipherError for an unknown kind, or a patch that unetr cannot be built on.
    """

    kind: str
    dim: int
    box: Edges
    patch: Edges
    finest_mm: float = 0.0
    width: int = 16
    guided: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DecipherError(f"There is no decoder {self.kind!r}.", f"Take one of: {', '.join(KINDS)}.")
        edge = self.patch[0]
        if self.kind == "unetr" and (set(self.patch) != {edge} or edge < 4 or edge & (edge - 1)):
            raise DecipherError(
                f"The decoder unetr does not fit patches of {self.patch} voxels.", "Take --decoder resnet."
            )
        if self.width < 16 or self.width % 16:
            raise DecipherError(f"A decoder cannot be {self.width} wide.", "Take 16 or a multiple of it.")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(found: dict[str, Any]) -> "DecoderConfig":
        return DecoderConfig(**{**found, "box": edges(found["box"]), "patch": edges(found["patch"])})


def decoder_config(model: ModelConfig, kind: str, guided: bool = False, finest_mm: float = 0.0) -> DecoderConfig:
    """The decoder of a kind that fits an encoder."""
    return DecoderConfig(kind, model.dim, model.prepare.box, model.vision.patch, finest_mm, guided=guided)


class Decoder(nn.Module):
    """Views to logits (B, 1, I, J, K), which mean something within `inside(view)` only."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(2 * config.dim)
        self.film = nn.Linear(config.dim, 4 * config.dim) if config.guided else None
        made = {"linear": _Linear, "resnet": _Resnet, "unetr": _Unetr}
        self.body: nn.Module = made[config.kind](config)
        self.curves = None if config.kind == "linear" else nn.Parameter(torch.zeros(2, KNOTS))
        if self.film is not None:
            nn.init.zeros_(self.film.bias)

    def forward(self, view: View, query: torch.Tensor | None = None) -> torch.Tensor:
        """query (B or 1, dim): the text vectors of a guided decoder."""
        tokens = self.norm(view.patches)
        if self.film is not None:
            if query is None:
                raise ValueError("A guided decoder needs a query.")
            scale, shift = self.film(query * query.shape[-1] ** 0.5)[:, None].chunk(2, dim=-1)
            tokens = tokens * (1 + scale) + shift
        i, j, k = (edge // p for edge, p in zip(self.config.box, self.config.patch, strict=True))
        grid = rearrange(tokens, "b (i j k) c -> b c i j k", i=i, j=j, k=k)
        if self.curves is None:
            return self.body(grid, view.pixels)
        by_volume, around = standardised(view), standardised_around(view)
        curve = STEEP * (_on_curve(by_volume, self.curves[0]) + _on_curve(around, self.curves[1]))
        return self.body(grid, torch.cat([by_volume, around, curve], dim=1)) + curve

    @torch.no_grad()
    def expect(self, share: float) -> None:
        """Begin with a map that says `share`, the part of voxels that is marked, everywhere."""
        share = min(max(share, 1e-4), 0.5)
        self.body.get_parameter("last.bias").fill_(torch.tensor(share).logit())


class _Linear(nn.Module):
    """One logit a patch, interpolated to the box."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.box = config.box
        self.last = nn.Conv3d(2 * config.dim, 1, 1)

    def forward(self, grid: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.last(grid), size=self.box, mode="trilinear", align_corners=False)


class _Resnet(nn.Module):
    """From the patch grid in steps of two, the features of the picture beside the patches' at each level; the finest level
    that is computed sees all the voxels that one of its own holds as channels, and says the logits of each."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        *coarser, box = _levels(config.box, config.patch)
        self.sizes = coarser or [box]
        self.parts = edges([fine // coarse for fine, coarse in zip(box, self.sizes[-1], strict=True)])
        parts = math.prod(self.parts)
        widths = _widths(config.width, len(self.sizes))
        first = nn.Conv3d(CHANNELS * parts, widths[-1], 3, padding=1)
        deeper = (_conv(old, new) for old, new in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.look = nn.ModuleList([first, *deeper])
        befores = (2 * config.dim, *widths[:-1])
        self.narrow = nn.ModuleList(nn.Conv3d(old, new, 1) for old, new in zip(befores, widths, strict=True))
        self.merge = nn.ModuleList(_conv(2 * width, width) for width in widths)
        self.norm = nn.GroupNorm(1, widths[-1])
        self.last = nn.Conv3d(widths[-1], parts, 1)

    def forward(self, grid: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        p, q, r = self.parts
        x = rearrange(picture, "b c (i p) (j q) (k r) -> b (c p q r) i j k", p=p, q=q, r=r)
        shown: list[torch.Tensor] = []
        for look, size in zip(self.look, self.sizes[::-1], strict=True):
            x = look(F.adaptive_avg_pool3d(x, size))
            shown.insert(0, x)
        x = grid
        for beside, narrow, merge in zip(shown, self.narrow, self.merge, strict=True):
            x = F.interpolate(narrow(x), size=beside.shape[2:], mode="trilinear", align_corners=False)
            x = merge(torch.cat([x, beside], dim=1))
        x = self.last(F.gelu(self.norm(x)))
        return rearrange(x, "b (p q r) i j k -> b 1 (i p) (j q) (k r)", p=p, q=q, r=r)


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(before, after, 3, padding=1), ResidualConv(after))


class _Unetr(nn.Module):
    """UNETR's decoder: the patches brought to each level by transposed convolutions, merged from coarse to fine."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        from monai.networks.blocks import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        steps = len(_levels(config.box, config.patch)) - 1
        widths = _widths(config.width // 2, steps + 1)
        shape = {"spatial_dims": 3, "kernel_size": 3, "norm_name": "instance", "res_block": True}
        self.first = nn.Conv3d(2 * config.dim, widths[0], 1)
        self.picture = UnetrBasicBlock(in_channels=CHANNELS, out_channels=widths[-1], stride=1, **shape)
        self.lifted = nn.ModuleList(
            UnetrPrUpBlock(in_channels=widths[0], out_channels=widths[step], num_layer=step - 1, stride=1,
                           upsample_kernel_size=2, conv_block=True, **shape)
            for step in range(1, steps)
        )  # fmt: skip
        self.up = nn.ModuleList(
            UnetrUpBlock(in_channels=widths[step - 1], out_channels=widths[step], upsample_kernel_size=2, **shape)
            for step in range(1, steps + 1)
        )
        self.last = nn.Conv3d(widths[-1], 1, 1)

    def forward(self, grid: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        x = start = self.first(grid)
        for up, lift in zip(self.up, [*self.lifted, None], strict=True):
            x = up(x, self.picture(picture) if lift is None else lift(start))
        return self.last(x)


def _on_curve(standard: torch.Tensor, heights: torch.Tensor) -> torch.Tensor:
    """Standardised intensities of any shape to what a curve through `heights` (KNOTS,), evenly spread, is there."""
    place = (standard / WIDEST + 1) * ((KNOTS - 1) / 2)
    low = place.floor().clamp(max=KNOTS - 2)
    before, after = (F.embedding(low.long() + end, heights[:, None])[..., 0] for end in (0, 1))
    return torch.lerp(before, after, place - low)


def _levels(box: Edges, patch: Edges) -> list[Edges]:
    """Sizes from the patch grid to the box, the patch's edges halved from one to the next while they are even."""
    found = []
    while True:
        found.append(edges([edge // p for edge, p in zip(box, patch, strict=True)]))
        if max(patch) == 1:
            return found
        patch = edges([1 if p % 2 else p // 2 for p in patch])


def _widths(finest: int, levels: int) -> list[int]:
    """Channels of each level, the coarsest first: doubled with each step down, at most four times the finest."""
    return [min(finest * 2**level, 4 * finest) for level in reversed(range(levels))]
