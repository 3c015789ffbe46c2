"""The writer: a causal transformer that writes a report from what the encoder found in a volume (COLIPRI, 2510.15042).

Decisions:
- It reads the volume vector, at unit length, and every patch that touches data; padding is zeroed before anything is
  computed of it, and never looked at.
- It knows only the pieces of the training texts, so that its vocabulary is hundreds of pieces, not 30,000; a piece that it
  does not know is left out of a text. Pieces are read and predicted by one matrix (Press and Wolf, 2017).
- A text that is cut has no end, so that nobody learns to stop in the middle of a sentence.
- Training and writing run the same code: writing hands in the keys and values of what was written before.
- The tokenizer drops capitals and blanks. Written texts get capitals at sentence starts, in ACRONYMS and in names of
  vertebrae; `a - b` and `a / b` lose their blanks, since in reports they are mostly `T2-weighted`, `L4-5` or `C3/4`.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.attention import CrossAttention, KeysValues, mlp
from models.errors import DecipherError
from models.vision import VisionFeatures

PADDING, BEGIN, END = 0, 1, 2
SPECIAL = 3
"""local ids below this are no pieces"""
UNWRITTEN = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ACRONYMS = ("adc", "csf", "ct", "dwi", "flair", "mr", "mra", "mri", "pd", "stir", "swi")
SPELLING = (
    (r" ([.,;:!?%)\]])", r"\1"),
    (r"([(\[]) ", r"\1"),
    (r"(?<=\w) ?([-/'’]) ?(?=\w)", r"\1"),
    (r"(?<=\d)\. (?=\d)", "."),
)
"""what to replace, and with what, where a tokenizer set blanks around marks"""
_CAPITALS = re.compile(rf"\b(?:{'|'.join(ACRONYMS)}|[clst]\d{{1,2}})\b")
_SENTENCE = re.compile(r"(^|[.!?]\s+)([a-z])")


@dataclass(frozen=True)
class WriterConfig:
    """pieces: ids of the tokenizer's pieces that may be written; longest: tokens of a text at most, begin and end included."""

    pieces: tuple[int, ...]
    width: int = 256
    depth: int = 2
    heads: int = 4
    longest: int = 96

    def __post_init__(self) -> None:
        if min(self.depth, self.heads) < 1 or self.width % self.heads or self.longest < 2:
            raise DecipherError(
                f"No writer has width {self.width}, depth {self.depth}, {self.heads} heads and {self.longest} tokens.",
                "Take a width that the heads divide, at least one layer and one head, and two tokens or more.",
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(found: dict[str, Any]) -> "WriterConfig":
        return WriterConfig(**{**found, "pieces": tuple(int(piece) for piece in found["pieces"])})


def writer_config(texts: Sequence[str], tokenizer: Any, **sizes: int) -> WriterConfig:
    """A writer of all pieces in `texts`; sizes: width, depth, heads, longest.

    Errors: DecipherError when the texts hold not one piece.
    """
    unwritten = {tokenizer.token_to_id(name) for name in UNWRITTEN}
    pieces = {piece for ids in _pieces(texts, tokenizer) for piece in ids} - unwritten
    if not pieces:
        raise DecipherError("There is no text to learn writing from.", "Train on series that have reports.")
    return WriterConfig(tuple(sorted(pieces)), **sizes)


def _pieces(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Ids of each text's pieces, without the padding that the tokenizer adds."""
    coded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [[piece for piece, mask in zip(c.ids, c.attention_mask, strict=True) if mask] for c in coded]


@dataclass(frozen=True)
class Source:
    """What the writer reads of B volumes: keys and values of (1 + N) tokens for each layer; look (B, 1, 1, 1 + N) bool."""

    keys: tuple[KeysValues, ...]
    look: torch.Tensor


class WriterLayer(nn.Module):
    """Looks at what is written before, then at the volume, then thinks; each with a skip, normed before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.written, self.seen = CrossAttention(width, heads), CrossAttention(width, heads)
        self.mlp = mlp(width)

    def forward(
        self, x: torch.Tensor, source: KeysValues, look: torch.Tensor, past: KeysValues | None
    ) -> tuple[torch.Tensor, KeysValues]:
        """x (B * K, T, width), the tokens that follow on `past`; K texts of each volume stand beside each other."""
        inner = self.norm1(x)
        keys = _joined(past, self.written.keys(inner))
        count, whole = x.shape[1], keys[0].shape[2]
        before = torch.ones(count, whole, dtype=torch.bool, device=x.device).tril(whole - count)
        x = x + self.written(inner, keys, before)
        asked = self.norm2(x).reshape(len(look), -1, x.shape[-1])
        x = x + self.seen(asked, source, look).reshape(x.shape)
        return x + self.mlp(self.norm3(x)), keys


def _joined(past: KeysValues | None, new: KeysValues) -> KeysValues:
    if past is None:
        return new
    return torch.cat([past[0], new[0]], dim=2), torch.cat([past[1], new[1]], dim=2)


class Writer(nn.Module):
    """Features of volumes and the tokens so far to logits of the next token, over local ids: 0 padding, 1 begin, 2 end,
    then the pieces. V is 3 + len(pieces)."""

    def __init__(self, config: WriterConfig, dim: int) -> None:
        """dim: width of the features."""
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = nn.Parameter(0.02 * torch.randn(SPECIAL + len(config.pieces), width))
        self.position = nn.Parameter(0.02 * torch.randn(config.longest, width))
        self.from_volume, self.from_patch = nn.Linear(dim, width), nn.Linear(dim, width)
        self.norm_source, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(WriterLayer(width, config.heads) for _ in range(config.depth))
        self.local = {piece: SPECIAL + n for n, piece in enumerate(config.pieces)}

    def forward(self, features: VisionFeatures, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, V) float32 of tokens (B, T); logits[:, t] are of tokens[:, t + 1]. Padding and begin are -inf."""
        return self.follow(self.source(features), tokens)[0]

    def source(self, features: VisionFeatures) -> Source:
        """What there is to read: the volume vector and the patches that touch data."""
        patches = torch.where(features.valid[..., None], features.patches, torch.zeros_like(features.patches))
        volume = self.from_volume(F.normalize(features.volume, dim=-1))[:, None]
        memory = self.norm_source(torch.cat([volume, self.from_patch(patches)], dim=1))
        look = F.pad(features.valid, (1, 0), value=True)[:, None, None]
        return Source(tuple(layer.seen.keys(memory) for layer in self._layers()), look)

    def follow(
        self, source: Source, tokens: torch.Tensor, past: Sequence[KeysValues] = ()
    ) -> tuple[torch.Tensor, list[KeysValues]]:
        """Logits (B * K, T, V) of tokens (B * K, T) that follow on `past`, and the past with them; K texts of each volume
        stand beside each other."""
        start = past[0][0].shape[2] if past else 0
        x = F.embedding(tokens, self.embedding) + self.position[start : start + tokens.shape[1]]
        after = []
        for level, layer in enumerate(self._layers()):
            x, keys = layer(x, source.keys[level], source.look, past[level] if past else None)
            after.append(keys)
        logits = F.linear(self.norm(x), self.embedding).float()
        never = torch.arange(logits.shape[-1], device=logits.device) < END
        return logits.masked_fill(never, -torch.inf), after

    def _layers(self) -> list[WriterLayer]:
        return [layer for layer in self.layers if isinstance(layer, WriterLayer)]

    def tokens(self, texts: Sequence[str], tokenizer: Any) -> torch.Tensor:
        """Texts to local ids (B, T) int64: begin, pieces, end, padding; cut to `longest`, and to what the tokenizer reads."""
        rows = []
        for pieces in _pieces(texts, tokenizer):
            known = [self.local[piece] for piece in pieces if piece in self.local]
            rows.append(torch.tensor([BEGIN, *known, END][: self.config.longest]))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.embedding.device)

    def text(self, ids: Sequence[int], tokenizer: Any) -> str:
        """Local ids up to the first end to a text, spelled as in a report."""
        ids = list(ids)
        ids = ids[: ids.index(END)] if END in ids else ids
        pieces = [self.config.pieces[i - SPECIAL] for i in ids if i >= SPECIAL]
        return spelled(tokenizer.decode(pieces))


def spelled(text: str) -> str:
    """Decoded pieces with capitals, and without the tokenizer's blanks around marks."""
    for found, better in SPELLING:
        text = re.sub(found, better, text)
    text = _CAPITALS.sub(lambda m: m[0].upper(), text.strip())
    return _SENTENCE.sub(lambda m: m[1] + m[2].upper(), text)


def report_loss(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of each next token, end included: its sum over all tokens of the batch that are not padding, and how many
    they are. logits (B, T, V), tokens (B, T), as Writer.forward has them."""
    following = tokens[:, 1:].flatten()
    said = logits[:, :-1].flatten(0, 1).float()
    total = F.cross_entropy(said, following, ignore_index=PADDING, reduction="sum")
    return total, (following != PADDING).sum()
