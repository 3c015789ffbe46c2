"""What a training run is set to: defaults in one place, presets as differences, key=value last.

An unknown key is an error that names the nearest one. The resolved values are written to the run's config.yaml.
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from models.errors import DecipherError

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "decipher"


@dataclass(frozen=True)
class TrainConfig:
    """preset: name of the run; stages: objectives in order, each with the same steps. Times are steps, not epochs."""

    preset: str = "custom"
    about: str = ""
    stages: tuple[str, ...] = ("align",)
    seed: int = 0
    steps: int = 200
    batch_size: int = 16
    log_every: int = 10
    checkpoint_every: int = 100
    size: str = "mini"
    init: str = ""
    """model folder to start from; empty: fresh weights"""
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 1.0
    precision: str = "auto"
    """auto, 32 or bf16; auto takes bf16 where the processor has matrix units for it"""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice"""
    variants: int = 4
    """versions of each real series in the prepared shard: the first as it is, the others augmented"""
    phantom_patients: int = 0
    phantom_share: float = 0.5
    """share of a batch drawn from phantom patients, where there are any"""
    redistributable_only: bool = False
    """train only on rows whose label column `redistributable` is not `no`"""
    skip_sources: str = ""
    """comma-separated words; rows whose `source` or `path` holds one are left out"""
    recontrast: float = 0.0
    """share of the T1-weighted brains that are drawn with a contrast made from theirs"""
    captions: int = 4000
    texts_per_step: int = 96
    geometry_dropout: float = 0.3
    heads_weight: float = 0.0
    """weight of the attribute heads in stage align"""
    views_weight: float = 0.0
    """weight of the contrast between two views of a volume in stage align"""
    prototypes: int = 256
    teacher_momentum: float = 0.99
    cache: str = ""
    """folder of prepared shards; empty: inside the run"""

    def to_yaml(self) -> str:
        import yaml

        return yaml.safe_dump(
            {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}, sort_keys=False
        )


def preset_names() -> list[str]:
    """Names of the presets in the package."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load_config(preset: str | None, settings: Sequence[str] = ()) -> TrainConfig:
    """A preset's name or a YAML file, then KEY=VALUE settings.

    Errors: DecipherError for an unknown preset, key or a value of another type.
    """
    import yaml

    name = preset or DEFAULT_PRESET
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise DecipherError(f"No preset or file {name!r}.", f"Presets: {', '.join(preset_names())}.")
    found = yaml.safe_load(path.read_text()) or {}
    if not isinstance(found, dict):
        raise DecipherError(f"{path} does not hold keys and values.", "Write one `key: value` a line.")
    found = {"preset": path.stem, **found}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign:
            raise DecipherError(f"--set {setting} has no value.", f"Type --set {setting}=VALUE.")
        found[key.strip()] = yaml.safe_load(value)
    return replace(TrainConfig(), **{key: _typed(key, value) for key, value in found.items()})


def _typed(key: str, value: Any) -> Any:
    known = {f.name: getattr(TrainConfig, f.name) for f in fields(TrainConfig)}
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        raise DecipherError(
            f"No setting {key!r}.", f"Did you mean {near[0]}?" if near else f"Settings: {', '.join(known)}."
        )
    default = known[key]
    if isinstance(default, tuple):
        return tuple(value) if isinstance(value, list) else tuple(str(value).split(","))
    if isinstance(default, str):
        return "" if value is None else str(value)
    try:
        number = type(default)(value)
    except (TypeError, ValueError):
        number = None
    if number is None or number != float(value):
        raise DecipherError(
            f"Setting {key} takes a {type(default).__name__}; got {value!r}.", f"Its default is {default}."
        )
    return number
