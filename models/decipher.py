"""The encoder as a whole: volumes and texts into one space; saved, loaded, and known by its passport.

Decisions:
- A model folder is config.json, model.safetensors (half precision, only what was trained) and card.md; and text/, where
  the text base is the model's own. It names no file outside itself, so it may be moved and copied.
- A writer and a detector stand on the encoder's features and are no part of the encoder: they lie in writer/ and detector/,
  and are read only where they are asked for.
- Vectors come out with unit length, so a dot product is a cosine.
- What training fixes once it is over (FIXED) is no weight: it is saved where it was fixed, and a model without is written,
  and gives vectors, as before there was any.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.config import ModelConfig, VisionConfig
from models.errors import DecipherError
from models.families import make_vision
from models.folder import DETECTOR, OWN_BASE, TEXT, WEIGHTS, WRITER, model_folder
from models.fusion import Detector
from models.layers import unset_weights
from models.parts import load_detector, load_writer, save_part
from models.prepare import Prepared, collate, prepare
from models.report import Writer
from models.text import TextEncoder
from models.vision import VOLUME_PARTS, VisionFeatures
from models.volume import Volume

BASE = "text.base."
"""how the names of the text base's weights begin"""
PARTS = ("writer.", "detector.")
"""how the names of weights begin that are no part of the encoder"""
FIXED = ("shares", "contrast", "centre", "certainty")
"""zeros until training.standardise has fixed them"""
BY_BRIGHTNESS = ("T1", "T2", "FLAIR", "PD")
"""sequences that differ by what is bright; there is one direction less between them"""


class Decipher(nn.Module):
    """vision: volumes to (B, dim); text: texts to (B, dim); scale: the learned inverse temperature of their cosine.

    shares (P,): what each of VOLUME_PARTS counts, or zeros where the volume vector is their plain sum; contrast (K, dim): the
    directions, orthonormal, in which the histogram is asked alone, or zeros; centre (dim,): what volume vectors of unit
    length have in common, taken off them; certainty (1,): `certain_scale`, or 0.
    writer, detector: what was trained on the features, or None.
    """

    shares: torch.Tensor
    contrast: torch.Tensor
    centre: torch.Tensor
    certainty: torch.Tensor
    writer: Writer | None
    detector: Detector | None

    def __init__(self, config: ModelConfig, folder: Path | None = None) -> None:
        """folder: the model's own, for the text base that may lie in it."""
        super().__init__()
        self.config = config
        self.vision = make_vision(config.vision, config.dim)
        self.text = TextEncoder(config.text, config.dim, folder)
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # one axis, since FSDP shards no scalars
        self.register_buffer("shares", torch.zeros(len(VOLUME_PARTS)), persistent=False)
        self.register_buffer("contrast", torch.zeros(len(BY_BRIGHTNESS) - 1, config.dim), persistent=False)
        self.register_buffer("centre", torch.zeros(config.dim), persistent=False)
        self.register_buffer("certainty", torch.zeros(1), persistent=False)
        self.register_module("writer", None)
        self.register_module("detector", None)

    @property
    def scale(self) -> torch.Tensor:
        """Inverse temperature, from 1 to 100 (Radford et al., 2021)."""
        return self.log_scale.clamp(0.0, math.log(100)).exp()

    @property
    def certain_scale(self) -> float:
        """Inverse temperature at which the softmax of cosines with prompts is as sure as it is right (Guo et al., 2017);
        `scale`, with which it was trained, where that was not measured."""
        return self.certainty.item() or self.scale.item()

    @torch.inference_mode()
    def encode_prepared(self, batch: Prepared) -> VisionFeatures:
        """Features of a prepared batch with the volume vectors (B, dim) at unit length, `centre` taken off."""
        found = self.vision(batch)
        volume = self._weighed(found.parts) if self.shares.any() else found.volume
        volume = volume - volume.norm(dim=-1, keepdim=True) * self.centre
        return replace(found, volume=F.normalize(volume, dim=-1))

    def _weighed(self, parts: torch.Tensor) -> torch.Tensor:
        """Parts (B, P, dim), each at unit length, by their shares, and the histogram alone along `contrast`: (B, dim)."""
        unit = F.normalize(parts, dim=-1)
        together = (unit * self.shares[:, None]).sum(dim=1)
        alone = unit[:, VOLUME_PARTS.index("histogram")]
        # Sums and no product of matrices, whose last bits would depend on the size of the batch.
        along = ((alone - together)[:, None] * self.contrast).sum(dim=-1, keepdim=True)
        return together + (along * self.contrast).sum(dim=1)

    def encode_volumes(self, volumes: Sequence[Volume]) -> torch.Tensor:
        """Unit vectors (B, dim), float32, of volumes as they were read."""
        batch = collate([prepare(v, self.config.prepare) for v in volumes])
        return self.encode_prepared(batch).volume

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (B, dim), float32."""
        return F.normalize(self.text(self.text.sentences(list(texts))), dim=-1)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """What training may have changed of the encoder: everything, but the text base only where it is the model's own, and
        of FIXED what was fixed."""
        state = {k: v for k, v in self.state_dict().items() if not k.startswith(PARTS)}
        state |= {name: getattr(self, name) for name in FIXED if getattr(self, name).any()}
        return {k: v for k, v in state.items() if self.text.own or not k.startswith(BASE)}

    def save(self, folder: Path, card: str = "") -> None:
        """Write config.json, model.safetensors and card.md into `folder`, the text base into text/ if it is own, and the
        writer and the detector into writer/ and detector/; what lies there without one is removed."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        config = self.config
        if self.text.own:
            config = replace(config, text=replace(config.text, base=OWN_BASE))
            self.text.save_base(folder / TEXT)
        state = {k: v.half().contiguous() for k, v in self.trained_state().items() if not k.startswith(BASE)}
        save_file(state, folder / WEIGHTS)
        (folder / "config.json").write_text(json.dumps(config.to_json(), indent=2) + "\n")
        (folder / "card.md").write_text(card)
        save_part(self.writer, folder / WRITER)
        save_part(self.detector, folder / DETECTOR)


def load(name: str | None = None, heads: bool = False) -> Decipher:
    """A model in evaluation mode from a folder, a shipped name, or the default; heads: also its writer and its detector,
    where it has them.

    Errors: DecipherError when files are missing or do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = model_folder(name)
    try:
        found = json.loads((folder / "config.json").read_text())
        _check_version(folder, found["vision"])
        config = ModelConfig.from_json(found)
        with unset_weights():
            model = Decipher(config, folder)
        state = {k: torch.atleast_1d(v.float()) for k, v in load_file(folder / WEIGHTS).items()}
        for name in FIXED:
            getattr(model, name).copy_(state.pop(name, torch.zeros(())))
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as wrong:
        raise DecipherError(f"The model in {folder} cannot be read: {wrong}", "Copy or train it again.") from wrong
    if unexpected or any(not k.startswith(BASE) for k in missing):
        raise DecipherError(f"The weights in {folder} do not fit its config.json.", "Copy or train it again.")
    if heads:
        model.writer = load_writer(folder / WRITER, model.config.dim)
        model.detector = load_detector(folder / DETECTOR, model.config.dim)
    return model.eval()


def _check_version(folder: Path, vision: Mapping[str, Any]) -> None:
    made, now = vision.get("version", 1), VisionConfig().version
    if made != now:
        raise DecipherError(
            f"The model in {folder} is for version {made} of the encoder, and this is version {now}.",
            "Train it again, or use the decipher that it was trained with.",
        )
