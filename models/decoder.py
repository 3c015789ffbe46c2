"""Light decoders: the frozen encoder's patch vectors, and the picture they were made of, to one map of logits.

Decisions:
- All take the same and give the same, so that they can be compared: patches (B, N, E) and the prepared picture in, logits
  (B, 1, I, J, K) on the prepared box out.
- `linear`: one logit a patch, interpolated; it shows what the vectors alone know. `resnet`: interpolated level by level,
  with the picture, averaged to each level, beside it. `unetr`: the blocks of UNETR (Hatamizadeh et al., 2022) by monai;
  its skips come from the last layer, since only that is kept of a frozen encoder.
- A guided decoder is told what to look for by a text vector that scales and shifts the patches (FiLM; Perez et al., 2018).
- But for `linear`, a curve of the prepared intensity is learned: shown with the picture, and added to the logits. Where
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
from models.prepare import Prepared
from models.vision import contrast_channels

CHANNELS = 3
"""of the picture: the encoder's two, and a curve of the prepared intensity that is learned"""
KNOTS = 24
STEEP = 10.0
"""by how much hats are scaled: a curve that parts tissues is steep, and steps of learning are small"""
KINDS = ("linear", "resnet", "unetr")


@dataclass(frozen=True)
class DecoderConfig:
    """kind: one of KINDS; dim: width of the patches; box, patch: edges in voxels; width: channels of the finest level that
    is computed (unetr: half of them); guided: whether a text vector of width dim tells it what to look for.

    Errors: DecipherError for an unknown kind, or a patch that unetr cannot be built on.
    """

    kind: str
    dim: int
    box: Edges
    patch: Edges
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


def decoder_config(model: ModelConfig, kind: str, guided: bool = False, width: int = 16) -> DecoderConfig:
    """The decoder of a kind that fits an encoder."""
    return DecoderConfig(kind, model.dim, model.prepare.box, model.vision.patch, width, guided)


class Decoder(nn.Module):
    """Patches and prepared volumes to logits (B, 1, I, J, K), which mean something within `inside(batch)` only."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.dim)
        self.film = nn.Linear(config.dim, 2 * config.dim) if config.guided else None
        made = {"linear": _Linear, "resnet": _Resnet, "unetr": _Unetr}
        self.body: nn.Module = made[config.kind](config)
        self.curve = None if config.kind == "linear" else nn.Conv3d(KNOTS, 1, 1, bias=False)
        if self.film is not None:
            nn.init.zeros_(self.film.bias)
        if self.curve is not None:
            nn.init.zeros_(self.curve.weight)

    def forward(self, batch: Prepared, patches: torch.Tensor, query: torch.Tensor | None = None) -> torch.Tensor:
        """patches (B, N, dim); query (B, dim), the text vectors of a guided decoder."""
        tokens = self.norm(patches.float())
        if self.film is not None:
            if query is None:
                raise ValueError("A guided decoder needs a query.")
            scale, shift = self.film(query * query.shape[-1] ** 0.5)[:, None].chunk(2, dim=-1)
            tokens = tokens * (1 + scale) + shift
        i, j, k = (edge // p for edge, p in zip(self.config.box, self.config.patch, strict=True))
        grid = rearrange(tokens, "b (i j k) c -> b c i j k", i=i, j=j, k=k)
        if self.curve is None:
            return self.body(grid, batch.pixels)
        curve = self.curve(STEEP * _hats(batch.pixels))
        return self.body(grid, torch.cat([contrast_channels(batch), curve], dim=1)) + curve

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
        self.last = nn.Conv3d(config.dim, 1, 1)

    def forward(self, grid: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.last(grid), size=self.box, mode="trilinear", align_corners=False)


class _Resnet(nn.Module):
    """From the patch grid in steps of two, the picture beside the features at each level; the last level says the logits
    of all the voxels that one of its own holds, and sees them as channels."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        *coarser, box = _levels(config.box, config.patch)
        self.sizes = coarser or [box]
        self.parts = edges([fine // coarse for fine, coarse in zip(box, self.sizes[-1], strict=True)])
        parts = math.prod(self.parts)
        widths = _widths(config.width, len(self.sizes))
        seen = [CHANNELS] * (len(widths) - 1) + [CHANNELS * parts]
        befores = (config.dim, *widths[:-1])
        self.narrow = nn.ModuleList(nn.Conv3d(old, new, 1) for old, new in zip(befores, widths, strict=True))
        self.merge = nn.ModuleList(nn.Conv3d(w + c, w, 3, padding=1) for w, c in zip(widths, seen, strict=True))
        self.refine = nn.ModuleList([*map(ResidualConv, widths[:-1]), nn.Identity()])
        self.norm = nn.GroupNorm(1, widths[-1])
        self.last = nn.Conv3d(widths[-1], parts, 1)

    def forward(self, grid: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        p, q, r = self.parts
        fine = rearrange(picture, "b c (i p) (j q) (k r) -> b (c p q r) i j k", p=p, q=q, r=r)
        pictures = [*(F.adaptive_avg_pool3d(picture, size) for size in self.sizes[:-1]), fine]
        x = grid
        for shown, narrow, merge, refine in zip(pictures, self.narrow, self.merge, self.refine, strict=True):
            x = F.interpolate(narrow(x), size=shown.shape[2:], mode="trilinear", align_corners=False)
            x = refine(merge(torch.cat([x, shown], dim=1)))
        x = self.last(F.gelu(self.norm(x)))
        return rearrange(x, "b (p q r) i j k -> b 1 (i p) (j q) (k r)", p=p, q=q, r=r)


class _Unetr(nn.Module):
    """UNETR's decoder: the patches brought to each level by transposed convolutions, merged from coarse to fine."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        from monai.networks.blocks import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        steps = len(_levels(config.box, config.patch)) - 1
        widths = _widths(config.width // 2, steps + 1)
        shape = {"spatial_dims": 3, "kernel_size": 3, "norm_name": "instance", "res_block": True}
        self.first = nn.Conv3d(config.dim, widths[0], 1)
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


def _hats(pixels: torch.Tensor) -> torch.Tensor:
    """Intensities 0..1 (B, 1, I, J, K) to (B, KNOTS, I, J, K): how near each is to each knot, two neighbours sharing 1."""
    place = pixels * (KNOTS - 1)
    knots = torch.arange(KNOTS, device=pixels.device, dtype=pixels.dtype).reshape(1, -1, 1, 1, 1)
    return (1 - (place - knots).abs()).clamp(min=0)


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


def inside(batch: Prepared) -> torch.Tensor:
    """(B, 1, I, J, K) bool: the voxels of the boxes that hold data rather than padding."""
    found = torch.ones_like(batch.pixels, dtype=torch.bool)
    for axis in range(3):
        place = torch.arange(batch.pixels.shape[axis + 2], device=found.device)
        within = (place >= batch.content[:, axis, :1]) & (place < batch.content[:, axis, 1:])
        found &= within.reshape(len(found), 1, *(-1 if other == axis else 1 for other in range(3)))
    return found
