"""What a model folder may hold beside the encoder: a writer and a detector, each config.json and model.safetensors.

Decisions:
- A part's weights are in a folder of their own, so that the encoder, and with it the passport of an index, is the same with
  and without them; half precision, as the encoder's.
- A part that the model no longer has is removed when it is saved, since it was learned on another encoder.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from models.errors import DecipherError
from models.folder import PART_CONFIG, WEIGHTS
from models.fusion import Detector, DetectorConfig
from models.layers import unset_weights
from models.report import Writer, WriterConfig

Part = TypeVar("Part", bound=nn.Module)
"""Writer or Detector"""


def save_part(part: Writer | Detector | None, folder: Path) -> None:
    """Write the part's two files into `folder`; without a part, remove them where they are."""
    from safetensors.torch import save_file

    if part is None:
        _remove(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in part.state_dict().items()}, folder / WEIGHTS)
    (folder / PART_CONFIG).write_text(json.dumps(part.config.to_json(), indent=2) + "\n")


def _remove(folder: Path) -> None:
    for name in (PART_CONFIG, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def load_writer(folder: Path, dim: int) -> Writer | None:
    """The writer in `folder`, in evaluation mode; None where there is no such folder.

    dim: width of the encoder's features. Errors: DecipherError when a file is missing or damaged, or does not fit.
    """
    return _load(folder, lambda found: Writer(WriterConfig.from_json(found), dim))


def load_detector(folder: Path, dim: int) -> Detector | None:
    """The detector in `folder`, in evaluation mode; None where there is no such folder.

    dim: width of the encoder's features. Errors: DecipherError when a file is missing or damaged, or does not fit.
    """
    return _load(folder, lambda found: Detector(DetectorConfig.from_json(found), dim))


def _load(folder: Path, make: Callable[[dict[str, Any]], Part]) -> Part | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not folder.is_dir():
        return None
    hint = f"Copy or train it again, or delete {folder}."
    try:
        found = json.loads((folder / PART_CONFIG).read_text())
        with unset_weights():
            part = make(found)
        stored = {k: v.float() for k, v in load_file(folder / WEIGHTS).items()}
    except (DecipherError, KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as wrong:
        raise DecipherError(f"The {folder.name} in {folder.parent} cannot be read: {wrong}", hint) from wrong
    if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in part.state_dict().items()}:
        raise DecipherError(f"The {folder.name} in {folder.parent} does not fit its config.json, or the model.", hint)
    part.load_state_dict(stored, assign=True)
    return part.eval()
