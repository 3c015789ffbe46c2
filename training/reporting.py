"""Reports written of volumes, and the nearest real reports beside them.

Decisions
- The nearest report is that of the most similar volume of another patient: what a search alone would say. A written report that
  is no better than it has learnt nothing that the vectors do not hold.
- A volume's own report and those of its patient never count as nearest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F

from index.contents import Contents
from index.record import subjects
from models.decipher import Decipher, load
from models.errors import DecipherError
from models.generate import generate
from models.prepare import Prepared, collate
from training.report_quality import report_figures

AT_ONCE = 8
NOT_A_DEVICE = "Written by a model: not a medical device, not for diagnosis; every sentence may be wrong."


@dataclass(frozen=True)
class Writing:
    """How reports are written: beams 1 is greedy; a temperature above 0 draws, and seed says which."""

    beams: int = 1
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Described:
    """text: the report; log_probability: of its tokens; vector (E,): the volume's, of unit length."""

    text: str
    log_probability: float
    vector: np.ndarray


def writing_model(name: str | None, device: str = "cpu") -> Decipher:
    """The model of a folder or a name, else the one that ships, with its writer, on a device.

    Errors: DecipherError where it has none.
    """
    model = load(name, heads=True)
    if model.writer is None:
        raise DecipherError(
            f"The model {name or 'that ships'} does not write reports.",
            "Train one that does: decipher train colipri   and name it with -m.",
        )
    return model.to(device)


@torch.inference_mode()
def describe(model: Decipher, prepared: Sequence[Prepared], writing: Writing) -> list[Described]:
    """A report and the vector of each volume."""
    assert model.writer is not None
    device, found = next(model.parameters()).device, []
    for start in range(0, len(prepared), AT_ONCE):
        features = model.vision(collate(list(prepared[start : start + AT_ONCE])).to(device))
        vectors = F.normalize(features.volume.float(), dim=-1).cpu().numpy()
        written = generate(model.writer, features, writing.beams, writing.temperature, writing.seed)
        texts = [model.writer.text(one.tokens, model.text.tokenizer) for one in written]
        found += [Described(t, w.log_probability, v) for t, w, v in zip(texts, written, vectors, strict=True)]
    return found


def evaluate_reports(
    model: Decipher, contents: Contents, writing: Writing, most: int, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """series, patients, figures (report_quality.report_figures) of at most `most` series that have a report; unread: why
    some could not be read, a sentence each.

    Errors: DecipherError where fewer than two patients have reports and readable series.
    """
    told = contents.records.filter(pl.col("report").str.strip_chars().str.len_chars() > 0)
    chosen = np.unique(np.linspace(0, max(0, told.height - 1), min(most, told.height)).round().astype(int))
    told = told.with_columns(subject=pl.Series(subjects(told), dtype=pl.Utf8))
    records = list(told[chosen].iter_rows(named=True))
    kept, found, unread = [], [], []
    blocks = [records[start : start + AT_ONCE] for start in range(0, len(records), AT_ONCE)]
    read = contents.prepared_all(blocks, model.config.prepare)
    for number, (block, volumes) in enumerate(zip(blocks, read, strict=True), start=1):
        found += describe(model, [volume for volume in volumes if not isinstance(volume, str)], writing)
        kept += [row for row, volume in zip(block, volumes, strict=True) if not isinstance(volume, str)]
        unread += [volume for volume in volumes if isinstance(volume, str)]
        progress(number, len(blocks))
    who = [row["subject"] for row in kept]
    if len(set(who)) < 2:
        raise DecipherError(
            f"Reports of fewer than two patients cannot be judged: {len(kept)} series have one and can be read.",
            f"Not read: {unread[0]}" if unread else "Name an archive with reports, or --reports CSV.",
        )
    vectors, real = np.stack([one.vector for one in found]), [row["report"] for row in kept]
    nearest = [real[row] for row in nearest_reports(vectors, who, vectors, real, who)]
    regions = [row["body_region"] for row in kept]
    figures = report_figures([one.text for one in found], nearest, real, regions, np.array(who))
    return {"series": len(kept), "patients": len(set(who)), "figures": figures, "unread": unread}


def nearest_reports(
    queries: np.ndarray, owners: Sequence[str], pool: np.ndarray, reports: Sequence[str], pool_owners: Sequence[str]
) -> list[int]:
    """For each query (q, E) the row of the most similar of pool (n, E) that has another owner and a report; -1 for none."""
    similarity = queries @ pool.T
    silent = np.array([not text for text in reports])
    same = np.array(owners, dtype=object)[:, None] == np.array(pool_owners, dtype=object)[None]
    similarity[same | silent[None]] = -np.inf
    best = similarity.argmax(axis=1)
    return [int(b) if np.isfinite(similarity[row, b]) else -1 for row, b in enumerate(best)]
