"""A training run from data to a model folder.

    RUN/config.yaml  metrics.jsonl  prepared/  checkpoints/  model/

Decisions: a run folder belongs to one configuration and one archive; the same command in it resumes, another is refused,
`fresh` begins again. The model folder appears whole at the end.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from index.labelled import read_archive
from models.config import SIZES, ModelConfig
from models.decipher import Decipher, load
from models.errors import DecipherError
from training.config import TrainConfig
from training.data import TrainingSet, training_set
from training.loop import Told, train_stages
from training.shards import Shard, archive_shard, phantom_shard

Progress = Callable[[str, int, int], None]
OWN = {"config.yaml", "run.json", "metrics.jsonl", "prepared", "checkpoints", "model", "archive"}


@dataclass(frozen=True)
class Source:
    """archive: a folder or file to scan, None where only phantoms are trained on; reports, labels: tables to join."""

    archive: Path | None
    labels: Path | None = None
    reports: Path | None = None


def open_run(run: Path, config: TrainConfig, source: Source, fresh: bool) -> None:
    """Make the run folder, or check that it is this run's and can be resumed.

    Errors: DecipherError when it holds another run or other files.
    """
    said = {
        "config": json.loads(json.dumps(config.__dict__)),
        "archive": str(source.archive and source.archive.absolute()),
    }
    marker = run / "run.json"
    others = {p.name for p in run.iterdir()} - OWN if run.is_dir() else set()
    if others or (run.exists() and not run.is_dir()):
        raise DecipherError(f"{run} holds other files and is no run.", "Choose another folder with -o.")
    if marker.is_file() and not fresh and json.loads(marker.read_text()) != said:
        raise DecipherError(
            f"{run} holds a run with other settings or other data.", "Add --fresh to begin again, or choose another -o."
        )
    if fresh:
        for name in ("metrics.jsonl", "run.json"):
            (run / name).unlink(missing_ok=True)
        for name in ("checkpoints", "model"):
            shutil.rmtree(run / name, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(config.to_yaml())
    marker.write_text(json.dumps(said))


def train(config: TrainConfig, source: Source, run: Path, progress: Progress, told: Told) -> Path:
    """Train from data to `run`/model and return that folder; resumes what is there.

    Errors: DecipherError when there is nothing to train on, an unknown size, or the loss diverges.
    """
    model = _fresh_model(config)
    data = _training_set(config, source, run, model, progress)
    train_stages(model, data, config, run, told)
    making = run / ".model"
    shutil.rmtree(making, ignore_errors=True)
    model.cpu().save(making, _card(config, data))
    shutil.rmtree(run / "model", ignore_errors=True)
    making.rename(run / "model")
    return run / "model"


def _fresh_model(config: TrainConfig) -> Decipher:
    torch.manual_seed(config.seed)
    if config.init:
        return load(config.init)
    if config.size not in SIZES:
        raise DecipherError(f"No size {config.size!r}.", f"Sizes: {', '.join(SIZES)}.")
    return Decipher(ModelConfig(name=config.preset, vision=SIZES[config.size]))


def _training_set(config: TrainConfig, source: Source, run: Path, model: Decipher, progress: Progress) -> TrainingSet:
    cache = Path(config.cache) if config.cache else run / "prepared"
    shards: list[Shard] = []
    if source.archive:
        found = read_archive(
            source.archive,
            labels=source.labels,
            reports=source.reports,
            progress=lambda done, of: progress("scan", done, of),
        )
        if not found.records.height:
            raise DecipherError(f"No MRI series in {source.archive}.", f"See why: decipher scan {source.archive}")
        shards.append(
            archive_shard(
                found.root,
                found.records,
                model.config.prepare,
                cache,
                variants=config.variants,
                seed=config.seed,
                progress=lambda done, of: progress("prepare", done, of),
            )
        )
    if config.phantom_patients:
        shards.append(
            phantom_shard(
                config.phantom_patients,
                model.config.prepare,
                cache,
                seed=config.seed,
                progress=lambda done, of: progress("phantom", done, of),
            )
        )
    if not shards:
        raise DecipherError("Nothing to train on.", "Name an archive with --data, or --set phantom_patients=50.")
    return training_set(shards, model, config)


def _card(config: TrainConfig, data: TrainingSet) -> str:
    """What the model was made from, in Markdown; figures are added by whoever measures them."""
    drawn = data.rows.filter(data.weights > 0)
    real = drawn.filter(drawn["origin"] == "archive")
    lines = [
        f"# {config.preset}",
        "",
        f"Trained by `decipher train {config.preset}`: stages {', '.join(config.stages)}, {config.steps} steps of "
        f"{config.batch_size} volumes each, seed {config.seed}.",
        "",
        f"- real series: {real['series_id'].n_unique()}, each in {config.variants} versions",
        f"- phantom series: {drawn.filter(drawn['origin'] == 'phantom')['series_id'].n_unique()}",
        f"- sources: {', '.join(sorted({_source(s) for s in real['source'].drop_nulls()})) or 'not named'}",
        "",
        "Not a medical device. Not for diagnosis.",
    ]
    return "\n".join(lines) + "\n"


def _source(name: str) -> str:
    return name.split(":")[0]
