"""The vision encoder: a 3D vision transformer whose stem is a patch embedding or a small residual network.

Decisions:
- Tokens know where they are in millimetres (Fourier positions) and how the series was acquired (one token of spacing
  and field of view). Padding is never attended to.
- The stem sees each intensity twice: as prepared, and standardised by the middle half of what the box shows, because tissues
  differ by far less than body and background do, and that small difference is what names a sequence. The middle, since scalp,
  coil and air differ between series of one sequence; every voxel of it, since fluid is dark in many.
- Register tokens (Darcet et al., 2024) and layer scale, as DINOv2 has them.
- Masked tokens are hidden twice, as pixels before anything is computed of them and as tokens after the stem, since a
  convolution sees its neighbours.
- The volume vector is the sum of what three parts say: the class token and the mean of the patches; the mean of the stem's
  tokens, whose textures and edges name a sequence at sites that were never seen; and the intensity histogram of the body
  and of the middle, which names it to first order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.config import Edges, VisionConfig
from models.layers import Block, ScaledConv, fourier_positions
from models.prepare import GEOMETRY, Prepared


@dataclass(frozen=True)
class VisionFeatures:
    """volume (B, E), the sum of its parts (B, P, E), in the order of VOLUME_PARTS; patches (B, N, E); valid (B, N) bool, false
    on padding; position_mm (B, N, 3) from the box's centre."""

    volume: torch.Tensor
    patches: torch.Tensor
    valid: torch.Tensor
    position_mm: torch.Tensor
    parts: torch.Tensor


@dataclass(frozen=True)
class Masking:
    """What masked image modelling hides: tokens (B, N) bool, and the vector (width,) that stands in for each."""

    tokens: torch.Tensor
    token: torch.Tensor


VOLUME_PARTS = ("tokens", "stem", "histogram")
"""what the volume vector is the sum of"""
CHANNELS = 2
BINS = 24
BODY = 0.2
"""prepared intensity above which a voxel counts as body"""


class ConvStem(nn.Module):
    """(B, 2, I, J, K), pooled before, to (B, width, ...): two convolutions a level, each level of half the edge before."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        widths = config.conv_widths
        layers: list[nn.Module] = []
        for before, after in pairwise((CHANNELS, *widths)):
            layers += [ScaledConv(before, after, stride=2), ScaledConv(after, after)]
        self.layers = nn.Sequential(*layers, nn.Conv3d(widths[-1], config.width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.contiguous(memory_format=torch.channels_last_3d))


class VisionEncoder(nn.Module):
    """Prepared volumes to VisionFeatures of width `dim`."""

    def __init__(self, config: VisionConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        if config.stem == "conv":
            self.stem: nn.Module = ConvStem(config)
        else:
            self.stem = nn.Conv3d(CHANNELS, config.width, config.patch, stride=config.patch)
        self.geometry = nn.Sequential(
            nn.Linear(GEOMETRY, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.extra = nn.Parameter(0.02 * torch.randn(1 + config.registers, config.width))
        rates = [config.drop_path * level / max(1, config.depth - 1) for level in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config.width, config.heads, rate, config.layer_scale) for rate in rates)
        self.norm = nn.LayerNorm(config.width)
        self.histogram = nn.Sequential(
            nn.Linear(2 * BINS, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.to_volume = nn.ModuleList(nn.Linear(times * config.width, dim) for times in (2, 1, 1))
        self.to_patch = nn.Linear(config.width, dim)

    def forward(
        self, batch: Prepared, geometry_known: torch.Tensor | None = None, masking: Masking | None = None
    ) -> VisionFeatures:
        """geometry_known (B,) bool: false hides spacing and field of view, so that training cannot lean on them."""
        if masking is not None:
            batch = replace(batch, pixels=hide(batch.pixels, masking.tokens, self.config.patch))
        seen, content = contrast_channels(batch, self.config.conv_pool)
        tokens = rearrange(self.stem(seen), "b c i j k -> b (i j k) c")
        if masking is not None:
            tokens = torch.where(masking.tokens[..., None], masking.token.to(tokens.dtype), tokens)
        position_mm, valid = token_places(batch, self.config.patch)
        placed = tokens + fourier_positions(position_mm, tokens.shape[-1]).to(tokens.dtype)
        extra = torch.cat([self._learned(batch), self._acquired(batch, geometry_known)], dim=1)
        x = self._transform(extra, placed, valid, batch.family)
        patches = x[:, extra.shape[1] :]
        whole = torch.cat([x[:, 0], _mean(patches, valid)], dim=-1)
        told = (whole, _mean(tokens, valid), self.histogram(intensity_histogram(seen, content)))
        parts = torch.stack([layer(part) for layer, part in zip(self.to_volume, told, strict=True)], dim=1)
        return VisionFeatures(parts.sum(dim=1), self.to_patch(patches), valid, position_mm, parts)

    def _learned(self, batch: Prepared) -> torch.Tensor:
        """The class token and the registers (B, 1 + registers, width)."""
        return self.extra.expand(len(batch.pixels), -1, -1)

    def _acquired(self, batch: Prepared, geometry_known: torch.Tensor | None) -> torch.Tensor:
        """The token (B, 1, width) of spacing and field of view."""
        acquired = self.geometry(batch.geometry - 3.0)
        if geometry_known is not None:
            acquired = acquired * geometry_known[:, None]
        return acquired[:, None]

    def _transform(
        self, extra: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor, family: torch.Tensor
    ) -> torch.Tensor:
        """Extra (B, H, width) and patch tokens (B, N, width) through all blocks: (B, H + N, width)."""
        x = torch.cat([extra, tokens], dim=1)
        look = torch.cat([valid.new_ones(extra.shape[:2]), valid], dim=1)
        recompute = self.recompute and self.training
        for number in range(len(self.blocks)):
            given = (number, x, look, family)
            x = checkpoint(self._level, *given, use_reentrant=False) if recompute else self._level(*given)
        return self.norm(x)

    def _level(self, number: int, x: torch.Tensor, look: torch.Tensor, family: torch.Tensor) -> torch.Tensor:
        """All tokens (B, H + N, width) through block `number`; a volume's family (B,) means nothing here."""
        return self.blocks[number](x, look)


def _mean(tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Of the valid (B, N) tokens (B, N, width): (B, width)."""
    return (tokens * (valid / valid.sum(dim=1, keepdim=True))[..., None]).sum(dim=1)


def hide(pixels: torch.Tensor, tokens: torch.Tensor, patch: Edges) -> torch.Tensor:
    """Pixels (B, 1, I, J, K), zero wherever one of the masked tokens (B, N) lies."""
    grid = [edge // p for edge, p in zip(pixels.shape[2:], patch, strict=True)]
    blocks = tokens.reshape(len(tokens), 1, *grid)
    for axis, edge in enumerate(patch, start=2):
        blocks = blocks.repeat_interleave(edge, dim=axis)
    return pixels.masked_fill(blocks, 0.0)


def contrast_channels(batch: Prepared, pool: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (B, 1, I, J, K), averaged over cubes of `pool` voxels, to (B, 2, ...): centred, and standardised by the middle (at
    most 3; 0 outside the content); and the content (B, 3, 2) in these voxels."""
    pixels = F.avg_pool3d(batch.pixels, pool) if pool > 1 else batch.pixels
    low, high = batch.content.unbind(-1)
    content = torch.stack([low // pool, (high + pool - 1) // pool], dim=-1)
    shown = _between(content[..., 0], content[..., 1], _voxels(pixels))[:, None]
    middle = _middle(content, pixels)[:, None].float()
    count = middle.sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1)
    centred = pixels - (pixels * middle).sum(dim=(1, 2, 3, 4), keepdim=True) / count
    spread = ((centred**2 * middle).sum(dim=(1, 2, 3, 4), keepdim=True) / count).sqrt()
    standard = (centred / spread.clamp(min=1e-3)).clamp(-3, 3) * shown
    return torch.cat([pixels * shown - 0.5, standard], dim=1), content


def intensity_histogram(channels: torch.Tensor, content: torch.Tensor) -> torch.Tensor:
    """Channels (B, 2, I, J, K) to (B, 2 * BINS): shares of standardised intensities over -3..3, of the body and of the middle;
    times BINS, so that an even spread is 1."""
    pixels, standard = channels.unbind(1)
    bins = ((standard + 3) * (BINS / 6)).long().clamp(0, BINS - 1).flatten(1)
    found = []
    for counted in (pixels + 0.5 > BODY, _middle(content, standard)):
        weight = counted.flatten(1).float()
        counts = weight.new_zeros(len(standard), BINS).scatter_add_(1, bins, weight)
        found.append(BINS * counts / counts.sum(dim=1, keepdim=True).clamp(min=1))
    return torch.cat(found, dim=1)


def _middle(content: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """(B, I, J, K) bool: the middle half of the content (B, 3, 2) along each axis of a grid."""
    quarter = (content[..., 1] - content[..., 0]) // 4
    return _between(content[..., 0] + quarter, content[..., 1] - quarter, _voxels(grid))


def _voxels(grid: torch.Tensor) -> list[torch.Tensor]:
    """Voxel numbers along each of the last three axes."""
    return [torch.arange(edge, device=grid.device) for edge in grid.shape[-3:]]


def _between(low: torch.Tensor, high: torch.Tensor, places: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, P, Q, R) bool: whether places, (P,), (Q,) and (R,), are at least low and below high, both (B, 3), on all axes."""
    i, j, k = ((p >= low[:, a, None]) & (p < high[:, a, None]) for a, p in enumerate(places))
    return i[:, :, None, None] & j[:, None, :, None] & k[:, None, None, :]


def token_places(batch: Prepared, patch: Edges) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres of the tokens in mm from the box's centre (B, N, 3), and whether each touches data (B, N) bool."""
    box, device = batch.pixels.shape[-3:], batch.pixels.device
    starts = [torch.arange(0, edge, p, device=device) for edge, p in zip(box, patch, strict=True)]
    first = batch.content[..., 0] - torch.tensor(patch, device=device) + 1
    touches = _between(first, batch.content[..., 1], starts)
    centres = [start + (p - edge) / 2 for start, p, edge in zip(starts, patch, box, strict=True)]
    grid = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, 2)
    voxel_mm = batch.geometry[:, 6].exp()
    return grid[None] * voxel_mm[:, None, None], touches.flatten(1)
