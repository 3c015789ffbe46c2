"""BERT (Devlin et al., 2019), and how one is read from a folder.

Decisions:
- It is written out here on torch and tokenizers alone: transformers takes 5 s to import, a search must not. Its parameters
  carry the names of the published file, and a test holds it against transformers.
- It is read from safetensors, and every weight must be there: nothing is unpickled, nothing silently random.
"""

import json
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from models.errors import DecipherError
from models.folder import BASE_CONFIG, BASE_WEIGHTS
from models.layers import unset_weights

OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""what files of the first BERTs call the weights of a layer norm"""
DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "position_embedding_type": "absolute",
}  # fmt: skip
"""what a BERT's config.json means where it is silent (transformers' BertConfig)"""


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
    def __init__(self, before: int, width: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(before, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)

    def forward(self, inner: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(inner) + x)


class BertLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        attention = {"self": BertSelfAttention(width, heads), "output": BertOutput(width, width, eps)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = BertOutput(hidden, width, eps)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        x = self.attention["output"](self.attention["self"](x, valid), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Bert(nn.Module):
    """BERT (Devlin et al., 2019) without its pooler: token ids and validity (B, N) to hidden states (B, N, width).

    config: its config.json.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config = DEFAULTS | config
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.width = width
        self.embeddings = BertEmbeddings(config)
        heads, hidden = config["num_attention_heads"], config["intermediate_size"]
        layers = [BertLayer(width, heads, hidden, eps) for _ in range(config["num_hidden_layers"])]
        self.encoder = nn.ModuleDict({"layer": nn.Sequential(*layers)})

    def forward(self, ids: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        x = self.embeddings(ids)
        for layer in self.encoder["layer"].children():
            x = layer(x, valid)
        return x


def load_bert(folder: Path) -> Bert:
    """The frozen BERT of a folder.

    Errors: DecipherError when it is no BERT of a kind that is computed here, or lacks a weight.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / BASE_WEIGHTS
    config = _bert_config(folder / BASE_CONFIG)
    try:
        with unset_weights():
            bert = Bert(config)
        stored = {_name(k): v.float() for k, v in load_file(path, device="cpu").items()}
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as wrong:
        raise DecipherError(f"The BERT in {folder} cannot be read: {wrong}", "Save or download it again.") from wrong
    shapes = {name: value.shape for name, value in bert.state_dict().items()}
    wrong_names = [name for name in shapes if name not in stored or stored[name].shape != shapes[name]]
    if wrong_names:
        raise DecipherError(
            f"{path} lacks {len(wrong_names)} of the {len(shapes)} weights of this BERT, {wrong_names[0]} among them.",
            "Name a folder in which the weights fit config.json.",
        )
    bert.load_state_dict({name: stored[name] for name in shapes}, assign=True)
    return bert.requires_grad_(False).eval()


def _bert_config(path: Path) -> dict[str, Any]:
    """Errors: DecipherError when it is no BERT, or one of a kind that is computed otherwise."""
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DecipherError(f"{path} is not JSON.", "Save or download it again.") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "bert":
        raise DecipherError(f"{path} is not of a BERT: its model_type is {kind!r}.", "Name a folder of a BERT.")
    for key in ("hidden_act", "position_embedding_type"):
        if config.get(key) not in (None, DEFAULTS[key]):
            raise DecipherError(f"{path} asks for {key} {config[key]!r}.", f"Only {DEFAULTS[key]} is known here.")
    return {k: v for k, v in config.items() if v is not None}


def _name(stored: str) -> str:
    """A weight's name as it is here: models with a head store theirs under `bert.`."""
    name = stored.removeprefix("bert.")
    for old, new in OLD_NAMES:
        name = name.replace(old, new)
    return name
