"""What a training run is set to: defaults in one place, presets as differences, key=value last.

Decisions:
- A stage has a preset of its own name; where it is part of a longer run, its preset's differences hold for it still.
- `stage.key` sets a key for one stage alone: `--set vision.steps=500`. A plain key holds for all stages.
- An unknown key is an error that names the nearest one. The resolved values are written to the run's config.yaml.
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from models.errors import DecipherError

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "decipher"
STAGES = ("vision", "text", "align", "families", "detect", "colipri")
OF_THE_RUN = ("preset", "about", "stages", "by_stage")
"""keys that no single stage has"""


@dataclass(frozen=True)
class TrainConfig:
    """preset: name of the run; stages: objectives in order, each with the same steps. Times are steps, not epochs."""

    preset: str = "custom"
    about: str = ""
    stages: tuple[str, ...] = ("align",)
    by_stage: dict[str, dict[str, Any]] = field(default_factory=dict)
    """{stage: {key: value}}: what differs in a stage"""
    seed: int = 0
    steps: int = 200
    batch_size: int = 16
    """volumes of one batch over all processes"""
    log_every: int = 10
    checkpoint_every: int = 100
    check_every: int = 0
    """steps between frozen checks of the encoder; 0: at the end of a stage alone"""
    check_volumes: int = 256
    """most volumes that a frozen check encodes"""
    holdout: float = 0.1
    """share of the patients that is never trained on, for the frozen checks"""

    size: str = "mini"
    box: tuple[int, ...] = ()
    """edges of the input in voxels: one number, or three along I, J, K; empty: the default"""
    patch: tuple[int, ...] = ()
    """edges of a token in voxels, likewise; empty: the size's own"""
    init: str = ""
    """model folder to start from; empty: fresh weights"""
    text_base: str = ""
    """local folder or packaged name of the BERT to start from; empty: the packaged MiniLM"""
    families: str = ""
    """what the vision encoder has for each family of sequences: adapters, or encoders of their own; empty: nothing"""
    freeze: tuple[str, ...] = ("text.base",)
    """parts of the model that are not trained, by the start of their parameters' names"""

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    weight_decay_end: float = -1.0
    """weight decay at the last step, reached by a cosine; negative: as at the first"""
    layer_decay: float = 1.0
    """factor of the learning rate from one transformer block to the one below"""
    warmup: float = 0.1
    clip: float = 1.0
    ema: float = 0.0
    """decay of the moving average of the weights that is saved as the model; 0: the last weights are saved"""
    accumulate: int = 1
    """batches whose gradients are added up for one step; contrasts see one batch at a time"""

    precision: str = "auto"
    """auto, 32 or bf16; auto takes bf16 where the machine is made for it"""
    devices: str = "auto"
    """how many devices of this machine; auto: those that torchrun or SLURM gave, else one"""
    strategy: str = "auto"
    """auto, ddp or fsdp; auto is ddp where there are several processes"""
    compile: str = "auto"
    """auto, yes or no; auto compiles the vision encoder on GPUs"""
    recompute: bool = False
    """gradient checkpointing: less memory, a third more work"""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice"""
    loaders: int = 2
    """batches that are made ready ahead, each by a thread"""

    variants: int = 4
    """versions of each real series in the prepared shard: the first as it is, the others augmented"""
    phantom_patients: int = 0
    phantom_share: float = 0.5
    """share of a batch drawn from phantom patients, where there are any"""
    head_patients: int = 0
    """digital patients made with the head of each T1-weighted brain"""
    head_share: float = 0.25
    """share of a batch drawn from these, where there are any"""
    redistributable_only: bool = False
    """train only on rows whose label column `redistributable` is not `no`"""
    skip_sources: str = ""
    """comma-separated words; rows whose `source` or `path` holds one are left out"""
    cache: str = ""
    """folder of prepared shards; empty: inside the run"""
    geometry_dropout: float = 0.3
    """share of the volumes whose spacing and field of view are hidden from the encoder"""
    recontrast: float = 0.0
    """share of the T1-weighted brains that are drawn with a contrast made from theirs"""

    global_crops: int = 2
    local_crops: int = 8
    global_in_slice: tuple[float, ...] = (0.48, 1.0)
    global_through_slice: tuple[float, ...] = (0.5, 1.0)
    local_in_slice: tuple[float, ...] = (0.16, 0.48)
    local_through_slice: tuple[float, ...] = (0.2, 0.5)
    """range of a crop's edge as a share of the volume's, in the slice and through the slices"""
    dino_weight: float = 1.0
    ibot_weight: float = 1.0
    koleo_weight: float = 0.1
    masked_volumes: float = 0.5
    """share of the global crops of which patches are hidden"""
    masked_patches: tuple[float, ...] = (0.2, 0.75)
    """range of the share of patches hidden in such a crop"""
    prototypes: int = 256
    head_hidden: int = 512
    head_bottleneck: int = 128
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, ...] = (0.04, 0.07)
    """at the first step, and from three tenths of the stage on"""
    teacher_momentum: float = 0.97
    """at the first step; it rises to 1 by a cosine"""
    frozen_prototypes: float = 0.02
    """share of the stage in which prototypes stay as they are"""

    texts: str = ""
    """a table of further reports, without volumes: stage text learns to read them, stage align keeps what they are near to"""
    vocabulary: str = ""
    """a file of words, one a line, that become pieces of their own in stage text"""
    masked_tokens: float = 0.15
    text_tokens: int = 128
    """tokens of a text in stage text"""

    captions: int = 4000
    texts_per_step: int = 96
    """captions that a batch is held against beside its own texts"""
    language_weight: float = 0.0
    """weight of real sentences' neighbours in the text base staying theirs, in stage align"""
    wordings_weight: float = 0.0
    """weight of two wordings of one thing being near, and of contradictions being far, in stage align"""
    region_share: float = 0.5
    """share of each batch that comes from one body region"""
    image_share: float = 0.25
    """share of each batch drawn from series without text, where there are any; stage 1's losses go on for them"""
    image_weight: float = 0.5
    """weight of stage 1's losses in stage align"""
    heads_weight: float = 0.0
    """weight of the attribute heads in stage align"""
    parts_weight: float = 0.0
    """weight of contrast and heads on each part of the volume vector alone, in stage align"""
    histogram_share: float = 0.0
    """what the histogram counts of the volume vector once stage align is over, parts at unit length; what tells T1, T2, FLAIR
    and PD apart is asked of it alone. 0: the sum of the parts, as trained"""
    views_weight: float = 0.0
    """weight of the contrast between two views of a volume in stage align"""

    subject_weight: float = 0.0
    """weight of the contrast between two series of a patient, in different sequences, and all of other patients, in stage
    align; half of a batch is then drawn to go with the other half"""

    pointing_weight: float = 0.0
    """weight of the patches that a known lesion touches being nearer to its name than the others, in stage align"""

    family_dropout: float = 0.2
    """share of the volumes whose sequence family is hidden from an encoder that has families"""
    volume_to_text: float = 0.75
    """weight of that direction of the contrast in stage families; the other has the rest"""

    report_weight: float = 1.0
    """weight of report generation in stage colipri"""
    opposite_weight: float = 0.5
    """weight of findings against their opposites in stage colipri"""
    opposite_pairs: int = 8
    """findings of a volume that are held against their opposites, at most"""
    report_tokens: int = 96
    """tokens of a report that are written, at most"""
    head_width: int = 256
    head_depth: int = 2
    """of the transformers that write reports and detect findings"""

    findings: str = ""
    """label column of what stage detect finds, several in a cell parted by ;  empty: what the reports affirm"""
    fewest_positive: int = 3
    """studies that must have a finding, and studies that must not, for it to be learnt"""
    study_series: int = 4
    """series of a study that are fused, at most, one of each sequence family"""
    series_dropout: float = 0.25
    """share of the series that are left out of their study, at random, in stage detect"""
    focal_gamma: float = 2.0

    def stage(self, name: str) -> "TrainConfig":
        """These settings as they hold for one stage."""
        return replace(self, **self.by_stage.get(name, {}))

    def to_yaml(self) -> str:
        import yaml

        return yaml.safe_dump(
            {k: list(v) if isinstance(v, tuple) else v for k, v in _plain(asdict(self)).items()}, sort_keys=False
        )


def _plain(found: Any) -> Any:
    """The same with lists for tuples, which YAML has."""
    if isinstance(found, dict):
        return {k: _plain(v) for k, v in found.items()}
    return [_plain(v) for v in found] if isinstance(found, tuple | list) else found


def preset_names() -> list[str]:
    """Names of the presets in the package."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def load_config(preset: str | None, settings: Sequence[str] = ()) -> TrainConfig:
    """A preset's name or a YAML file, then KEY=VALUE settings.

    Errors: DecipherError for an unknown preset, stage, key or a value of another type.
    """
    import yaml

    name = preset or DEFAULT_PRESET
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise DecipherError(f"No preset or file {name!r}.", f"Presets: {', '.join(preset_names())}.")
    plain, by_stage = _parted(_read(path))
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign:
            raise DecipherError(f"--set {setting} has no value.", f"Type --set {setting}=VALUE.")
        stage, dot, inner = key.strip().rpartition(".")
        target = by_stage.setdefault(stage, {}) if dot else plain
        target[inner] = yaml.safe_load(value)
    return _resolved(path.stem, plain, by_stage)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    found = yaml.safe_load(path.read_text()) or {}
    if not isinstance(found, dict):
        raise DecipherError(f"{path} does not hold keys and values.", "Write one `key: value` a line.")
    return found


def _parted(found: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What holds for all stages, and what for one."""
    by_stage = {stage: dict(values) for stage, values in (found.pop("by_stage", None) or {}).items()}
    return found, by_stage


def _resolved(name: str, plain: dict[str, Any], by_stage: dict[str, dict[str, Any]]) -> TrainConfig:
    config = replace(TrainConfig(preset=name), **{key: _typed(key, value) for key, value in plain.items()})
    for stage in (*config.stages, *by_stage):
        if stage not in STAGES:
            raise DecipherError(f"No stage {stage!r}.", f"Stages: {', '.join(STAGES)}.")
    merged = {}
    for stage in config.stages:
        own = {k: v for k, v in _read(PRESETS / f"{stage}.yaml").items() if k not in {*OF_THE_RUN, *plain}}
        merged[stage] = {key: _typed(key, value) for key, value in (own | by_stage.get(stage, {})).items()}
    return replace(config, by_stage={stage: values for stage, values in merged.items() if values})


def _typed(key: str, value: Any) -> Any:
    known = {f.name: getattr(TrainConfig(), f.name) for f in fields(TrainConfig)}
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        raise DecipherError(
            f"No setting {key!r}.", f"Did you mean {near[0]}?" if near else f"Settings: {', '.join(known)}."
        )
    default = known[key]
    if isinstance(default, tuple):
        kind = {"box": int, "patch": int}.get(key, type(default[0]) if default else str)
        return tuple(_number(key, kind, v, default) for v in _several(value))
    if isinstance(default, str):
        return "" if value is None else str(value)
    return _number(key, type(default), value, default)


def _several(value: Any) -> list[Any]:
    """The values of a list, or of a string with commas."""
    if isinstance(value, list | tuple):
        return list(value)
    return [part.strip() for part in str(value).split(",") if part.strip()] if value is not None else []


def _number(key: str, kind: type, value: Any, default: Any) -> Any:
    if kind is str:
        return str(value)
    try:
        number = kind(value)
    except (TypeError, ValueError):
        number = None
    if number is None or number != float(value):
        raise DecipherError(f"Setting {key} takes a {kind.__name__}; got {value!r}.", f"Its default is {default}.")
    return number
