"""Attention from one set of tokens to another, for the parts that stand on the encoder's features.

Decisions:
- Keys and values are computed apart from the queries, so that a writer keeps those of the words it has written and of the
  volume that it reads.
"""

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""of M tokens, each (B, heads, M, width / heads)"""


class CrossAttention(nn.Module):
    """Multi-head attention of (B, T, width) over other tokens; nothing that may not be looked at has any weight."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys(self, tokens: torch.Tensor) -> KeysValues:
        """Keys and values of tokens (B, M, width)."""
        k, v = rearrange(self.kv(tokens), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        return k, v

    def forward(self, x: torch.Tensor, keys: KeysValues, look: torch.Tensor | None = None) -> torch.Tensor:
        """look: bool that broadcasts to (B, heads, T, M), false where a key may not be seen; a query that sees none gets
        the bias alone."""
        q = rearrange(self.query(x), "b t (h d) -> b h t d", h=self.heads)
        mixed = F.scaled_dot_product_attention(q, *keys, attn_mask=look)
        return self.out(rearrange(mixed, "b h t d -> b t (h d)"))


def mlp(width: int) -> nn.Sequential:
    """The two layers between attentions: (..., width) to (..., width)."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
