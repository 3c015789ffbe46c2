"""What a run is trained on: an archive, volumes of another, digital patients; prepared once, and named in RUN/data.json.

Decisions
- The prepared volumes of a run are those that data.json names: a resumed run takes them as they are, and scans nothing.
- Of an archive of images alone nothing is kept that says what is wrong with a patient.
- The label column that findings are learnt from travels with the volumes, whatever its name.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from index.labelled import LabelledCatalogue, read_archive
from models.config import PrepareConfig
from models.errors import DecipherError
from training.config import TrainConfig
from training.data import IMAGES, TrainingSet, training_set
from training.shards import (
    COLUMNS,
    FINDINGS,
    Making,
    Say,
    archive_shard,
    head_shard,
    open_shard,
    phantom_shard,
    rows_shard,
)
from training.study_labels import check_column

Progress = Callable[[str, int, int], None]
TOLD = ("report", "diagnosis", "lesion", "findings")
"""columns that say what is wrong with a patient"""


@dataclass(frozen=True)
class Source:
    """archive: a folder or file to scan, None where only phantoms are trained on; reports, labels: tables to join; images:
    one more archive, of which the volumes alone are taken."""

    archive: Path | None
    labels: Path | None = None
    reports: Path | None = None
    images: Path | None = None


def prepare_data(
    config: TrainConfig, source: Source, run: Path, prepare: PrepareConfig, progress: Progress, say: Say
) -> None:
    """Make the shards of a run, and name them in data.json.

    Errors: DecipherError when there is nothing to train on, or a table cannot be joined.
    """
    listed = run / "data.json"
    if listed.is_file() and all(Path(folder).is_dir() for folder in json.loads(listed.read_text())):
        return
    cache = Path(config.cache) if config.cache else run / "prepared"
    cache.mkdir(parents=True, exist_ok=True)
    making = Making(cache, prepare, config.seed, progress, say)
    text_alone = set(config.stages) == {"text"}
    folders: list[Path] = []
    if source.archive:
        found = _catalogue(source.archive, source, progress)
        records = _with_findings(found.records, config)
        folders.append(
            rows_shard(records, making) if text_alone else archive_shard(found.root, records, config.variants, making)
        )
        if config.head_patients and not text_alone:
            heads = head_shard(found.root, records, config.head_patients, making)
            folders += [heads] if heads else []
    if source.images:
        folders.append(_images_shard(source.images, config, making))
    if config.phantom_patients:
        folders.append(phantom_shard(config.phantom_patients, making))
    if not folders and text_alone and config.texts:
        folders.append(rows_shard(pl.DataFrame(schema=COLUMNS), making))
    if not folders:
        raise DecipherError("Nothing to train on.", "Name an archive with --data, or --set phantom_patients=50.")
    listed.write_text(json.dumps([str(folder.absolute()) for folder in folders]))


def data_of(config: TrainConfig, run: Path) -> TrainingSet:
    """The prepared data of a run."""
    return training_set([open_shard(Path(folder)) for folder in json.loads((run / "data.json").read_text())], config)


def _images_shard(archive: Path, config: TrainConfig, making: Making) -> Path:
    found = _catalogue(archive, Source(archive), making.progress)
    unknown = [pl.lit(None, pl.Utf8).alias(name) for name in TOLD]
    silent = found.records.with_columns(*unknown, origin=pl.lit(IMAGES))
    return archive_shard(found.root, silent, config.variants, making)


def _with_findings(records: pl.DataFrame, config: TrainConfig) -> pl.DataFrame:
    """The column that findings are learnt from, under the name that shards keep.

    Errors: DecipherError where there is no such column, or none of words.
    """
    column = config.stage("detect").findings
    if not column or column in COLUMNS:
        return records
    check_column(records, column)
    return records.with_columns(pl.col(column).alias(FINDINGS))


def _catalogue(archive: Path, source: Source, progress: Progress) -> LabelledCatalogue:
    found = read_archive(
        archive,
        labels=source.labels,
        reports=source.reports,
        progress=lambda done, of: progress("scan", done, of),
    )
    if not found.records.height:
        raise DecipherError(f"No MRI series in {archive}.", f"See why: decipher scan {archive}")
    return found
