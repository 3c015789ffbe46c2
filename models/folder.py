"""Model folders: where they are, and who the encoder in one is. Reads files only, no torch.

The passport names the weights and the preparation by hash; an index refuses vectors of another passport. Weights are
those of the text base too, where the model holds its own: a folder `text` of three files, as transformers reads a BERT.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import DecipherError

SHIPPED = Path(__file__).parent / "weights"
DEFAULT = "mini"
WEIGHTS = "model.safetensors"
FIGURES = "figures.json"
"""what the last check of its training found; `decipher info MODEL` tells it"""
TEXT, OWN_BASE = "text", "own"
"""where a model's own text base lies, and what config.json calls it"""
WRITER, DETECTOR, PART_CONFIG = "writer", "detector", "config.json"
"""where a model's parts beside the encoder lie, if it has them; the passport does not speak of them"""
BASE_CONFIG, BASE_TOKENIZER, BASE_WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
BASE_FILES = (BASE_CONFIG, BASE_TOKENIZER, BASE_WEIGHTS)


def model_folder(name: str | None) -> Path:
    """Folder of a model by path or by the name of one that ships; None is the default.

    Errors: DecipherError when there is none.
    """
    for folder in (SHIPPED / (name or DEFAULT), Path(name or "")):
        if (folder / "config.json").is_file() and (folder / WEIGHTS).is_file():
            return folder
    shipped = ", ".join(shipped_models()) or "none"
    raise DecipherError(
        f"No model at {name or DEFAULT!r}.", f"Name a model folder with config.json and {WEIGHTS}; shipped: {shipped}."
    )


def lasting_name(name: str | None) -> str:
    """A shipped model's name, or a model folder's absolute path: what an index keeps to find its encoder again."""
    folder = model_folder(name)
    return folder.name if folder.parent == SHIPPED else str(folder.absolute())


def shipped_models() -> list[str]:
    """Names of the models in the package."""
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{WEIGHTS}"))


def passport(name: str | None = None) -> dict[str, Any]:
    """Who the encoder is: name, hash of weights and config, dim, hash of the preparation.

    Errors: DecipherError when the text base that the config calls its own is not there.
    """
    folder = model_folder(name)
    config = json.loads((folder / "config.json").read_text())
    whole = hashlib.blake2b(digest_size=16)
    whole.update(json.dumps(config, sort_keys=True).encode())
    whole.update((folder / WEIGHTS).read_bytes())
    for path in _own_base(folder, config):
        whole.update(path.read_bytes())
    prepared = json.dumps(config["prepare"], sort_keys=True).encode()
    return {
        "name": config["name"],
        "hash": whole.hexdigest(),
        "dim": config["dim"],
        "prepare": hashlib.blake2b(prepared, digest_size=8).hexdigest(),
    }


def _own_base(folder: Path, config: dict[str, Any]) -> list[Path]:
    """Files of the text base that is the model's own; none where a package holds it."""
    if config["text"]["base"] != OWN_BASE:
        return []
    files = [folder / TEXT / name for name in BASE_FILES]
    for path in files:
        if not path.is_file():
            raise DecipherError(f"The model in {folder} has no {TEXT}/{path.name}.", "Copy or train it again.")
    return files


def titled(passport: Mapping[str, Any]) -> str:
    """An encoder as people are told of it: its name and the beginning of its hash."""
    return f"{passport.get('name', 'unnamed')} ({str(passport.get('hash', ''))[:12]})"
