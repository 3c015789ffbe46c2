"""What an encoder must beat with the pixels at hand: their histogram, and itself before it learnt anything.

Decisions
- Of the same prepared volumes as the encoder's. A probe that these reach as well has found brightness, or what any network
  passes on, and nothing that was learnt.
- The archive is read for them once, and what was worked out is kept in the index (see index.kept), so that the next probe
  reads stored numbers alone. An interrupted reading goes on where it stopped. More than a few series are read only for
  one who asks, since a probe is to take seconds.
- All series or none: a baseline of other rows could not be compared.
"""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from index import kept
from index.contents import Contents
from index.embed import BATCH, blocks, device_for, filled
from index.record import hash_of
from index.saved_columns import KEYS
from index.store import Index
from models.config import ModelConfig
from models.errors import DecipherError
from models.folder import model_folder, passport

if TYPE_CHECKING:
    from torch import nn

    from models.prepare import Prepared

NAMES = ("histogram", "random_encoder")
BINS = 64
SEED = 0
METHOD = f"histogram of {BINS} bins, random weights of seed {SEED}"
MOST_UNREAD = 500
Row = dict[str, Any]
Progress = Callable[[str, int, int], None]


def pixel_features(
    index: Index, records: pl.DataFrame, progress: Progress, force: bool = False
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Features (n, F) float32 by baseline name, row i for row i of the index's `records`, and sentences for people.

    "histogram": of the prepared volume within its body. "random_encoder": volume vectors of the index's encoder with random
    weights. No features, and the reason, where a series cannot be read, or more than 500 would have to be and not `force`.
    """
    made_of = hash_of(METHOD, index.passport["hash"])
    notes: list[str] = []
    known = kept.read(index.folder, made_of)
    unread = records.join(known, on=KEYS, how="anti", maintain_order="left")
    if unread.height:
        if why := _obstacle(index, unread, force):
            return {}, [_left_out(why)]
        fresh, notes = _read(index, unread, made_of, progress)
        known = pl.concat([known, fresh], how="diagonal")
    found = records.select(KEYS).join(known, on=KEYS, how="left", maintain_order="left")
    if missing := found[NAMES[0]].null_count():
        return {}, [_left_out(f"{missing} of {records.height} series cannot be read."), *notes]
    return {name: found[name].to_numpy() for name in NAMES}, notes


def _left_out(why: str) -> str:
    return f"The baselines {' and '.join(NAMES)} are left out: {why}"


def _obstacle(index: Index, unread: pl.DataFrame, force: bool) -> str:
    """Why series are not even tried, in a sentence; empty where nothing is in the way."""
    there = [name for name, archive in index.archives.items() if archive.root.exists()]
    if lost := unread.height - unread["archive"].is_in(there).sum():
        return f"the archive of {lost} series is not there."
    if unread.height > MOST_UNREAD and not force:
        return f"{unread.height} series are to be read for them; decipher probe --task COLUMN --pixels does it, once."
    try:
        index.check_passport(passport(index.card.get("model")))
    except DecipherError as error:
        return error.message
    return ""


def _read(index: Index, unread: pl.DataFrame, made_of: str, progress: Progress) -> tuple[pl.DataFrame, list[str]]:
    """KEYS and NAMES of the series that could be read, kept in the index, also where the reading is interrupted."""
    config = _config(index)
    rows: list[Row] = []
    try:
        for done, found in _features(index, unread, config):
            rows += found
            progress("pixels", done, unread.height)
    finally:
        fresh = _frame(rows, config.dim)
        notes = _keep(index, made_of, fresh) if rows else []
    return fresh, notes


def _config(index: Index) -> ModelConfig:
    folder = model_folder(index.card.get("model"))
    return ModelConfig.from_json(json.loads((folder / "config.json").read_text()))


def _features(index: Index, unread: pl.DataFrame, config: ModelConfig) -> Iterator[tuple[int, list[Row]]]:
    """How many series were tried, and the rows of those that could be read, a batch at a time, the next one read ahead."""
    encoder = random_encoder(config).to(device_for("auto"))
    groups, done = list(blocks(unread.iter_rows(named=True), BATCH)), 0
    batches = Contents(unread, index.root_of, []).prepared_all(groups, config.prepare)
    for group, found in zip(groups, batches, strict=True):
        read = [(record, one) for record, one in zip(group, found, strict=True) if not isinstance(one, str)]
        done += len(group)
        yield done, _rows(read, encoder, config)


def _rows(read: "list[tuple[Row, Prepared]]", encoder: "nn.Module", config: ModelConfig) -> list[Row]:
    """KEYS and NAMES of records whose volumes are there."""
    if not read:
        return []
    vectors = random_vectors(encoder, [one for _, one in read])
    histograms = [intensity_histogram(one, config) for _, one in read]
    keys = [{key: record[key] for key in KEYS} for record, _ in read]
    return [
        {**key, **dict(zip(NAMES, both, strict=True))} for key, *both in zip(keys, histograms, vectors, strict=True)
    ]


def intensity_histogram(prepared: "Prepared", config: ModelConfig) -> np.ndarray:
    """(64,) float32: shares of the body's voxels by their prepared intensity, from where the body begins up to 1."""
    pixels, dimmest = prepared.pixels.numpy(), config.prepare.body
    counts = np.histogram(pixels[pixels > dimmest], BINS, (dimmest, 1))[0]
    return (counts / max(counts.sum(), 1)).astype(np.float32)


def random_encoder(config: ModelConfig) -> "nn.Module":
    """The vision encoder of a model as it begins, the same each time; families begin as one."""
    import torch

    from models.families import copy_shared, make_vision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        encoder = make_vision(config.vision, config.dim)
    copy_shared(encoder)
    return encoder.eval()


def random_vectors(encoder: "nn.Module", prepared: "list[Prepared]") -> np.ndarray:
    """float32 (n, E) of unit length for up to 8 volumes; the same for a volume in any company (see index.embed)."""
    import torch

    from models.prepare import collate

    device = next(encoder.parameters()).device
    with torch.inference_mode():
        found = encoder(collate(filled(prepared, BATCH)).to(device)).volume
        return torch.nn.functional.normalize(found[: len(prepared)], dim=-1).cpu().numpy()


def _frame(rows: list[Row], dim: int) -> pl.DataFrame:
    widths = {"histogram": BINS, "random_encoder": dim}
    kinds = dict.fromkeys(KEYS, pl.String()) | {name: pl.Array(pl.Float32, widths[name]) for name in NAMES}
    return pl.DataFrame({name: [row[name] for row in rows] for name in kinds}, schema=kinds)


def _keep(index: Index, made_of: str, fresh: pl.DataFrame) -> list[str]:
    """Keep what was read; where that cannot be, a sentence that says so."""
    try:
        kept.keep(index.folder, made_of, fresh)
    except DecipherError as error:
        return [f"The next probe reads the pixels again: {error.message}"]
    return []
