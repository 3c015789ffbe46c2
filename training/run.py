"""A run: from data to a model folder.

    RUN/config.yaml  run.json  data.json  prepared/  checkpoints/  metrics.jsonl  tensorboard/  model/

Decisions:
- A run folder belongs to one configuration and one archive from its first logged step; the same command in it resumes,
  another is refused, `fresh` begins again. The model folder appears whole at the end.
- Where there are several processes the first one prepares and writes, and the others wait.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from models.config import SIZES, ModelConfig, PrepareConfig, TextConfig, edges
from models.decipher import Decipher, load
from models.errors import DecipherError
from models.families import copy_shared, from_plain, make_vision
from training.card import card_of, write_figures
from training.config import TrainConfig
from training.data import TrainingSet
from training.equip import check_heads
from training.launch import launched
from training.loop import WITH_TEXT, train_stages
from training.meter import Told
from training.shards import Say
from training.source import Progress, Source, data_of, prepare_data
from training.standardise import settle

OWN = {"config.yaml", "run.json", "data.json", "metrics.jsonl", "prepared", "checkpoints", "tensorboard", "model", ".model",
       "archive"}  # fmt: skip


def open_run(run: Path, config: TrainConfig, source: Source, fresh: bool) -> None:
    """Make the run folder, or check that it is this run's and can be resumed.

    Errors: DecipherError when it holds another run or other files.
    """
    said = {
        "config": json.loads(json.dumps(config.__dict__)),
        "archive": str(source.archive and source.archive.absolute()),
        "reports": str(source.reports and source.reports.absolute()),
        "labels": str(source.labels and source.labels.absolute()),
        "images": str(source.images and source.images.absolute()),
    }
    marker = run / "run.json"
    others = {p.name for p in run.iterdir()} - OWN if run.is_dir() else set()
    if others or (run.exists() and not run.is_dir()):
        raise DecipherError(f"{run} holds other files and is no run.", "Choose another folder with -o.")
    other = marker.is_file() and json.loads(marker.read_text()) != said
    if other and not fresh and (run / "metrics.jsonl").is_file():
        raise DecipherError(
            f"{run} holds a run with other settings or other data.", "Add --fresh to begin again, or choose another -o."
        )
    if fresh or other:
        for name in ("metrics.jsonl", "run.json", "data.json"):
            (run / name).unlink(missing_ok=True)
        for name in ("checkpoints", "model", "tensorboard"):
            shutil.rmtree(run / name, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(config.to_yaml())
    marker.write_text(json.dumps(said))


def is_complete(run: Path) -> bool:
    """Whether a run has nothing left to do: its model folder appears last."""
    return (run / "model").is_dir()


def train(config: TrainConfig, source: Source, run: Path, progress: Progress, told: Told, say: Say) -> Path:
    """Train from data to `run`/model and return that folder; resumes what is there.

    Errors: DecipherError when there is nothing to train on, an unknown size, or the loss diverges.
    """
    fabric = launched(config)
    model = fresh_model(config)
    if fabric.is_global_zero:
        prepare_data(config, source, run, model.config.prepare, progress, say)
    fabric.barrier()
    data = data_of(config, run)
    config = _possible(config, data, say)
    check_heads(data, config)
    _tell(data, say)
    model = train_stages(model, data, config, run, told, fabric)
    if fabric.is_global_zero:
        making = run / ".model"
        shutil.rmtree(making, ignore_errors=True)
        if config.stages[-1] in WITH_TEXT:
            settle(model, data, config, run, told)
        model.cpu().save(making, card_of(config, data, run, model))
        write_figures(making, run)
        shutil.rmtree(run / "model", ignore_errors=True)
        making.rename(run / "model")
    fabric.barrier()
    return run / "model"


def fresh_model(config: TrainConfig) -> Decipher:
    """The model that a run starts from: a model folder's, or new weights of a size.

    Errors: DecipherError for an unknown size, or a model folder of another size.
    """
    torch.manual_seed(config.seed)
    if config.size not in SIZES:
        raise DecipherError(f"No size {config.size!r}.", f"Sizes: {', '.join(SIZES)}.")
    asked = model_shape(config)
    model = load(config.init) if config.init else Decipher(asked)
    families = model.config.vision.families
    if config.init and _is_shaped(config) and model.config.vision != replace(asked.vision, families=families):
        raise DecipherError(
            f"The model in {config.init} is of another size than {config.size}.", "Leave out size, box and patch."
        )
    if config.init and config.families != families and config.families:
        _give_families(model, config)
    elif not config.init:
        copy_shared(model.vision)
    if config.vocabulary:
        model.text.add_words(_words(Path(config.vocabulary)))
    model.text.own = model.text.own or trains_text(config)
    return model


def _give_families(model: Decipher, config: TrainConfig) -> None:
    """Parts for each sequence family, begun as the plain encoder's weights."""
    if model.config.vision.families:
        raise DecipherError(
            f"The model in {config.init} has {model.config.vision.families} for its sequence families, not {config.families}.",
            "Leave out families, or start from a model without.",
        )
    vision = replace(model.config.vision, families=config.families)
    made = make_vision(vision, model.config.dim)
    made.load_state_dict(from_plain(model.vision.state_dict(), made))
    model.vision, model.config = made, replace(model.config, vision=vision)


def model_shape(config: TrainConfig) -> ModelConfig:
    """The ModelConfig of new weights."""
    vision, prepare = replace(SIZES[config.size], families=config.families), PrepareConfig()
    if config.patch:
        vision = replace(vision, patch=edges(_cube(config.patch)))
    if config.box:
        prepare = PrepareConfig(box=edges(_cube(config.box)))
    text = TextConfig(base=config.text_base) if config.text_base else TextConfig()
    return ModelConfig(name=config.preset, prepare=prepare, vision=vision, text=text)


def trains_text(config: TrainConfig) -> bool:
    """Whether any stage changes the text base."""
    return any(
        stage == "text" or not any("text.base.".startswith(part) for part in config.stage(stage).freeze)
        for stage in config.stages
    )


def _is_shaped(config: TrainConfig) -> bool:
    return bool(config.box or config.patch or config.size != TrainConfig.size)


def _cube(given: tuple[int, ...]) -> int | tuple[int, ...]:
    """One edge for a cube, or three."""
    if len(given) not in (1, 3):
        raise DecipherError(f"Edges are one number or three; got {given}.", "Type --set box=96 or --set box=96,96,48.")
    return given[0] if len(given) == 1 else given


def _words(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as wrong:
        hint = "Write one word a line, in UTF-8: --set vocabulary=FILE"
        raise DecipherError(f"The words in {path} cannot be read.", hint) from wrong
    return [word.strip() for word in lines if word.strip()]


def _possible(config: TrainConfig, data: TrainingSet, say: Say) -> TrainConfig:
    """The stages that the data allow: of several, stage text is left out where there is no report."""
    if len(data.rows.filter(data.weights > 0)["report"].drop_nulls()):
        return config
    if set(WITH_TEXT) & set(config.stages):
        say("no reports (--reports CSV): texts are captions of what the tags say")
    if len(config.stages) == 1 or "text" not in config.stages or config.texts:
        return config
    say("stage text is left out")
    return replace(config, stages=tuple(stage for stage in config.stages if stage != "text"))


def _tell(data: TrainingSet, say: Say) -> None:
    """What is trained on, and which regions are too small to build a batch around."""
    drawn = data.rows.filter(data.weights > 0)
    if not len(drawn):
        return
    patients, kept = len(set(data.subjects[data.weights > 0])), len(set(data.subjects[data.held_out]))
    many = "patient" if patients == 1 else "patients"
    told = f"training on {drawn['series_id'].n_unique():,} series of {patients:,} {many}"
    say(f"{told}; {kept:,} more are kept for checks" if kept else told)
    counts = (
        drawn.filter(pl.col("body_region").is_not_null()).group_by("body_region").agg(pl.col("patient_id").n_unique())
    )
    alone = sorted(counts.filter(pl.col("patient_id") < 2)["body_region"])
    if alone:
        say(f"one patient only, so no batch is built around: {', '.join(alone)}")


def stage_costs(config: TrainConfig) -> list[dict[str, Any]]:
    """What each stage takes, told without data; memory is that of one of config.devices."""
    from training.cost import stage_cost
    from training.optim import freeze

    model, world = fresh_model(config), int(config.devices) if config.devices.isdigit() else 1
    rows = []
    for name in config.stages:
        stage = config.stage(name)
        freeze(model, stage.freeze)
        cost = stage_cost(name, model, stage, world)
        rows.append({"stage": name, "steps": stage.steps, "batch_size": stage.batch_size, **vars(cost),
                     "total_flops": cost.flops * stage.steps})  # fmt: skip
    return rows
