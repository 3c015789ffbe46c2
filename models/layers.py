"""The pieces of a transformer over 3D tokens: attention, block, stochastic depth, positions in millimetres."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
"""by which a ReLU of standard normal values has deviation 1"""


class DropPath(nn.Module):
    """Stochastic depth: drops a sample's whole residual branch with probability `rate` (Huang et al., 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class Attention(nn.Module):
    """Multi-head self-attention over (B, N, width); `valid` (B, N) bool says which tokens may be looked at."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None, :])
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """Pre-norm transformer block with layer scale (Touvron et al., 2021) and stochastic depth."""

    def __init__(self, width: int, heads: int, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale1 = nn.Parameter(torch.full((width,), layer_scale))
        self.scale2 = nn.Parameter(torch.full((width,), layer_scale))
        self.drop = DropPath(drop_path)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        x = x + self.drop(self.scale1 * self.attention(self.norm1(x), valid))
        return x + self.drop(self.scale2 * self.mlp(self.norm2(x)))


class ScaledConv(nn.Conv3d):
    """A 3x3x3 convolution of standardised weights and a learned gain, and a ReLU: what comes out has the scale of what came in
    (Brock et al., 2021).

    It needs no norm: group norm takes out of a volume how bright it is as a whole, batch norm makes it depend on others.
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__(before, after, 3, stride, padding=1)
        self.gain = nn.Parameter(torch.ones(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.weight.flatten(1)
        scaled = F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1) * self.gain[:, None]
        return RELU_GAIN * F.relu(F.conv3d(x, scaled.view_as(self.weight), self.bias, self.stride, self.padding))


class ResidualConv(nn.Module):
    """Two 3x3x3 convolutions with group norm before each, and a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.conv1(F.gelu(self.norm1(x)))
        return x + self.conv2(F.gelu(self.norm2(inner)))


@contextmanager
def unset_weights() -> Iterator[None]:
    """Layers made here keep memory as it comes, since stored weights follow. torch's own way, the meta device, imports its
    compiler: two seconds that a search does not have."""
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Embedding, nn.Conv3d)
    before = [getattr(kind, "reset_parameters") for kind in kinds]  # noqa: B009
    for kind in kinds:
        setattr(kind, "reset_parameters", lambda layer: None)  # noqa: B010
    try:
        yield
    finally:
        for kind, reset in zip(kinds, before, strict=True):
            setattr(kind, "reset_parameters", reset)  # noqa: B010


def fourier_positions(position_mm: torch.Tensor, width: int) -> torch.Tensor:
    """(B, N, 3) positions in mm to (B, N, width) sines and cosines, wavelengths from 8 mm to 1,024 mm.

    Absolute millimetres, not token numbers: the same anatomy gets the same code at any voxel size.
    """
    bands = width // 6
    wavelength_mm = 8.0 * 2.0 ** torch.linspace(0, 7, bands, device=position_mm.device)
    angle = position_mm[..., None] * (2 * math.pi / wavelength_mm)
    code = torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)
    return F.pad(code, (0, width - code.shape[-1]))
