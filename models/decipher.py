"""The encoder as a whole: volumes and texts into one space; saved, loaded, and known by its passport.

Decisions:
- A model folder is config.json, model.safetensors (half precision, only what was trained) and card.md.
- Vectors come out with unit length, so a dot product is a cosine.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from models.config import ModelConfig
from models.errors import DecipherError
from models.folder import WEIGHTS, model_folder
from models.layers import unset_weights
from models.prepare import Prepared, collate, prepare
from models.text import TextEncoder
from models.vision import VisionEncoder, VisionFeatures
from models.volume import Volume


class Decipher(nn.Module):
    """vision: volumes to (B, dim); text: texts to (B, dim); scale: the learned inverse temperature of their cosine."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionEncoder(config.vision, config.dim)
        self.text = TextEncoder(config.text, config.dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> torch.Tensor:
        """Inverse temperature, at most 100 (Radford et al., 2021)."""
        return self.log_scale.clamp(max=math.log(100)).exp()

    @torch.inference_mode()
    def encode_prepared(self, batch: Prepared) -> VisionFeatures:
        """Features of a prepared batch with the volume vectors (B, dim) at unit length."""
        found = self.vision(batch)
        return VisionFeatures(F.normalize(found.volume, dim=-1), found.patches, found.valid, found.position_mm)

    def encode_volumes(self, volumes: Sequence[Volume]) -> torch.Tensor:
        """Unit vectors (B, dim), float32, of volumes as they were read."""
        batch = collate([prepare(v, self.config.prepare) for v in volumes])
        return self.encode_prepared(batch).volume

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (B, dim), float32."""
        return F.normalize(self.text(self.text.sentences(list(texts))), dim=-1)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """What training may have changed: everything but the frozen text base."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("text.base.")}

    def save(self, folder: Path, card: str = "") -> None:
        """Write config.json, model.safetensors and card.md into `folder`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.trained_state().items()}, folder / WEIGHTS)
        (folder / "config.json").write_text(json.dumps(self.config.to_json(), indent=2) + "\n")
        (folder / "card.md").write_text(card)


def load(name: str | None = None) -> Decipher:
    """A model in evaluation mode from a folder, a shipped name, or the default.

    Errors: DecipherError when files are missing or do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = model_folder(name)
    try:
        with unset_weights():
            model = Decipher(ModelConfig.from_json(json.loads((folder / "config.json").read_text())))
        state = {k: v.float() for k, v in load_file(folder / WEIGHTS).items()}
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as wrong:
        raise DecipherError(f"The model in {folder} cannot be read: {wrong}", "Copy or train it again.") from wrong
    if unexpected or any(not k.startswith("text.base.") for k in missing):
        raise DecipherError(f"The weights in {folder} do not fit its config.json.", "Copy or train it again.")
    return model.eval()
