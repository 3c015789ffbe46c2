"""The frozen check: what the encoder knows at this moment of training, on volumes it was never trained on.

Decisions
- The volumes are a fixed function of data and seed, so that figures of two steps can be compared: patients held out where
  there are two at least, else rows that are trained on, and the result says which. Kinds (sequence and region) take turns,
  and within a kind its subjects, or a large archive's check would be all of one kind.
- Nothing of training moves: random states and every module's mode are left as they were found.
- Texts are reports where there are any, else captions of what the tags say. A figure that is not defined is left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
import torch

from index.caption import caption, is_silent
from index.spread import effective_rank, hubness, mean_cosine
from models.decipher import Decipher
from models.prepare import collate
from training.config import TrainConfig
from training.data import TrainingSet, rng_of
from training.health import (
    alignment,
    chance_at,
    collapse,
    nearest_neighbours,
    recall_at,
    uniformity,
)
from training.shards import Shard
from training.views import text_vectors

VOLUMES_AT_ONCE = 8
NEIGHBOURS = 5
RANKS = (1, 5, 10)


def frozen_check(model: Decipher, data: TrainingSet, config: TrainConfig, with_text: bool) -> dict[str, Any]:
    """Figures of the encoder as it stands, on at most config.check_volumes volumes as they were stored, not varied.

    volumes, held_out (bool); knn_sequence, knn_region and each with _majority (balanced accuracy); effective_rank,
    uniformity, mean_cosine, hubness; with_text also queries ("reports" or "captions"), pool (volumes searched), recall_at_K and
    chance_at_K for K of 1, 5, 10, alignment of texts with their volumes; collapse: a sentence, "" when healthy. What is
    not defined is left out. Sources: training/health.py.
    """
    chosen, held_out = check_rows(data, config)
    rows = data.rows[chosen]
    with as_found(model):
        volumes = volume_vectors(model, data, chosen)
        queries, texts, relevant = _queries(rows) if with_text else ("", [], np.zeros((0, len(chosen)), dtype=bool))
        words = text_vectors(texts, model.encode_texts, model.config.dim).numpy()
    found: dict[str, Any] = {"volumes": len(chosen), "held_out": held_out, "collapse": collapse(volumes)}
    if np.isfinite(volumes).all():
        found |= _of_volumes(volumes, rows, data.subjects[chosen])
        if not np.isfinite(words).all():
            found["collapse"] = found["collapse"] or "The text encoder has collapsed: its vectors are not finite."
        elif texts:
            found |= {"queries": queries, "pool": len(chosen)} | _of_texts(words, volumes, relevant)
    return {name: value for name, value in found.items() if value == value}


def check_rows(data: TrainingSet, config: TrainConfig, among: np.ndarray | None = None) -> tuple[np.ndarray, bool]:
    """Row numbers (n,) of the volumes to check, in rising order, and whether they are of held-out patients; among (rows,) bool
    narrows the choice."""
    as_stored = (data.rows["variant"] == 0).fill_null(False).to_numpy() & (True if among is None else among)
    held_out = as_stored & data.held_out
    honest = len(np.unique(data.subjects[held_out])) >= 2
    candidates = np.flatnonzero(held_out if honest else as_stored & (data.weights > 0))
    return _spread(data, candidates, config), honest


def _spread(data: TrainingSet, candidates: np.ndarray, config: TrainConfig) -> np.ndarray:
    """At most check_volumes of the candidates: kinds take turns, and in each kind its subjects, in an order of the seed's."""
    drawn = rng_of(config, "check", 0).permutation(len(candidates))
    kind, subject = ["sequence", "body_region"], "subject"
    rows = data.rows[candidates].select("series_id", *kind)
    rows = rows.with_columns(pl.Series("row", candidates), pl.Series(subject, data.subjects[candidates]))
    rows = rows.sort("series_id", "row").with_columns(pl.Series("drawn", drawn)).sort("drawn")
    rows = rows.with_columns(turn=pl.int_range(pl.len()).over(*kind, subject)).sort("turn", "drawn")
    rows = rows.with_columns(place=pl.int_range(pl.len()).over(*kind)).sort("place", "drawn")
    return np.sort(rows["row"].head(config.check_volumes).to_numpy())


@contextmanager
def as_found(model: Decipher) -> Iterator[None]:
    """The model in evaluation mode inside; each module's mode and the global random states as before outside."""
    modes = [(module, module.training) for module in model.modules()]
    device, numbers = next(model.parameters()).device, np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.inference_mode():
        model.eval()
        try:
            yield
        finally:
            np.random.set_state(numbers)
            for module, training in modes:
                module.training = training


def volume_vectors(model: Decipher, data: TrainingSet | Shard, rows: np.ndarray) -> np.ndarray:
    """Unit vectors (n, dim) float32 of stored volumes."""
    device = next(model.parameters()).device
    found = [np.zeros((0, model.config.dim), dtype=np.float32)]
    for start in range(0, len(rows), VOLUMES_AT_ONCE):
        batch = collate([data.sample(int(row)) for row in rows[start : start + VOLUMES_AT_ONCE]])
        found.append(model.encode_prepared(batch.to(device)).volume.float().cpu().numpy())
    return np.concatenate(found)


def _queries(rows: pl.DataFrame) -> tuple[str, list[str], np.ndarray]:
    """What is asked, the distinct texts (T,), and the volumes that each should find (T, n) bool.

    A report should find the volumes it stands by and all others of their studies; a caption, those it is true of.
    """
    told = [(text or "").strip() for text in rows["report"].to_list()]
    queries = "reports" if any(told) else "captions"
    if queries == "captions":
        told = ["" if is_silent(row) else caption(row) for row in rows.iter_rows(named=True)]
    texts = sorted(set(told) - {""})
    own = np.array([[mine == text for mine in told] for text in texts], dtype=bool).reshape(len(texts), len(told))
    if queries == "reports":
        studies = rows["study_id"].to_list()
        own |= own @ np.array([[a is not None and a == b for b in studies] for a in studies], dtype=bool)
    return queries, texts, own


def _of_volumes(vectors: np.ndarray, rows: pl.DataFrame, subjects: np.ndarray) -> dict[str, float]:
    found = {}
    for name, column in (("knn_sequence", "sequence"), ("knn_region", "body_region")):
        labels = np.array(rows[column].to_list(), dtype=object)
        found[name], found[f"{name}_majority"] = nearest_neighbours(vectors, labels, subjects, NEIGHBOURS)
    spread = {f.__name__: f(vectors) for f in (effective_rank, uniformity, mean_cosine, hubness)}
    return found | spread


def _of_texts(texts: np.ndarray, volumes: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    similarity = texts @ volumes.T
    found = {f"recall_at_{k}": recall_at(similarity, relevant, k) for k in RANKS}
    found |= {f"chance_at_{k}": chance_at(relevant, k) for k in RANKS}
    text, volume = np.nonzero(relevant)
    return found | {"alignment": alignment(texts[text], volumes[volume])}
