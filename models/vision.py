"""The vision encoder: a 3D vision transformer whose stem is a patch embedding or a small residual network.

Decisions:
- Tokens know where they are in millimetres (Fourier positions) and how the series was acquired (one token of spacing
  and field of view). Padding is never attended to.
- The stem sees each intensity twice: as prepared, and standardised within the body, because tissues differ by far less
  than body and background do, and that small difference is what names a sequence.
- Register tokens (Darcet et al., 2024) and layer scale, as DINOv2 has them.
- The volume vector is read from the class token and the mean of the valid patches together.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn

from models.config import VisionConfig
from models.layers import Block, ResidualConv, fourier_positions
from models.prepare import GEOMETRY, Prepared


@dataclass(frozen=True)
class VisionFeatures:
    """volume (B, E); patches (B, N, E); valid (B, N) bool, false on padding; position_mm (B, N, 3) from the box's centre."""

    volume: torch.Tensor
    patches: torch.Tensor
    valid: torch.Tensor
    position_mm: torch.Tensor


CHANNELS = 2
BODY = 0.2
"""prepared intensity above which a voxel counts as body"""


class ConvStem(nn.Module):
    """(B, 2, S, S, S) to (B, width, S/8, S/8, S/8): one strided convolution and residual blocks a level."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, count in zip((CHANNELS, *widths[:-1]), widths, blocks, strict=True):
            layers.append(nn.Conv3d(before, after, 3, stride=2, padding=1))
            layers.extend(ResidualConv(after) for _ in range(count))
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.GELU(), nn.Conv3d(widths[-1], width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.contiguous(memory_format=torch.channels_last_3d))


class VisionEncoder(nn.Module):
    """Prepared volumes to VisionFeatures of width `dim`."""

    def __init__(self, config: VisionConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        if config.stem == "conv":
            self.stem: nn.Module = ConvStem(config.conv_widths, config.conv_blocks, config.width)
        else:
            self.stem = nn.Conv3d(CHANNELS, config.width, config.patch, stride=config.patch)
        self.geometry = nn.Sequential(
            nn.Linear(GEOMETRY, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.extra = nn.Parameter(0.02 * torch.randn(1 + config.registers, config.width))
        rates = [config.drop_path * level / max(1, config.depth - 1) for level in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config.width, config.heads, rate, config.layer_scale) for rate in rates)
        self.norm = nn.LayerNorm(config.width)
        self.to_volume = nn.Linear(2 * config.width, dim)
        self.to_patch = nn.Linear(config.width, dim)

    def forward(self, batch: Prepared, geometry_known: torch.Tensor | None = None) -> VisionFeatures:
        """geometry_known (B,) bool: false hides spacing and field of view, so that training cannot lean on them."""
        tokens = rearrange(self.stem(contrast_channels(batch)), "b c i j k -> b (i j k) c")
        position_mm, valid = token_places(batch, self.config.patch)
        tokens = tokens + fourier_positions(position_mm, tokens.shape[-1]).to(tokens.dtype)
        acquired = self.geometry(batch.geometry - 3.0)
        if geometry_known is not None:
            acquired = acquired * geometry_known[:, None]
        extra = self.extra.expand(len(tokens), -1, -1)
        x = torch.cat([extra, acquired[:, None], tokens], dim=1)
        head = x.shape[1] - tokens.shape[1]
        look = torch.cat([valid.new_ones(len(valid), head), valid], dim=1)
        for block in self.blocks:
            x = block(x, look)
        x = self.norm(x)
        patches = x[:, head:]
        share = valid[..., None] / valid.sum(dim=1)[:, None, None]
        pooled = torch.cat([x[:, 0], (patches * share).sum(dim=1)], dim=-1)
        return VisionFeatures(self.to_volume(pooled), self.to_patch(patches), valid, position_mm)


def contrast_channels(batch: Prepared) -> torch.Tensor:
    """Pixels (B, 1, S, S, S) to (B, 2, S, S, S): centred, and standardised within the body (0 outside, at most 3)."""
    pixels = batch.pixels
    body = ((pixels > BODY) & _inside(batch)).float()
    count = body.sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1)
    mean = (pixels * body).sum(dim=(1, 2, 3, 4), keepdim=True) / count
    spread = (((pixels - mean) ** 2 * body).sum(dim=(1, 2, 3, 4), keepdim=True) / count).sqrt()
    standard = ((pixels - mean) / spread.clamp(min=1e-3)).clamp(-3, 3) * body
    return torch.cat([pixels - 0.5, standard], dim=1)


def _inside(batch: Prepared) -> torch.Tensor:
    """(B, 1, S, S, S) bool: data rather than padding."""
    place = torch.arange(batch.pixels.shape[-1], device=batch.pixels.device)
    within = (place >= batch.content[:, :, :1]) & (place < batch.content[:, :, 1:])
    inside = within[:, 0, :, None, None] & within[:, 1, None, :, None] & within[:, 2, None, None, :]
    return inside[:, None]


def token_places(batch: Prepared, patch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres of the tokens in mm from the box's centre (B, N, 3), and whether each touches data (B, N) bool."""
    box = batch.pixels.shape[-1]
    start = torch.arange(0, box, patch, device=batch.pixels.device)
    touches = (start[None, None] < batch.content[:, :, 1:]) & (start[None, None] + patch > batch.content[:, :, :1])
    inside = touches[:, 0, :, None, None] & touches[:, 1, None, :, None] & touches[:, 2, None, None, :]
    centre = start + (patch - box) / 2
    grid = torch.stack(torch.meshgrid(centre, centre, centre, indexing="ij"), dim=-1).flatten(0, 2)
    voxel_mm = batch.geometry[:, 6].exp()
    return grid[None] * voxel_mm[:, None, None], inside.flatten(1)
