"""What is fixed of an aligned model once its training is over, and kept in it: what each part of the volumes' vectors counts
and where, their centre, and how sure their cosines with prompts are.

Decisions
- What counts: the histogram names sequences of sites that were never seen better than stem and tokens, which know much else and
  say it louder. So each part is taken at unit length, and config.histogram_share is the histogram's; the others share the rest.
- T1, T2, FLAIR and PD differ by what is bright, and at new sites the histogram alone names more of them than all parts
  together. So it is asked alone in the directions in which words for them differ; elsewhere all parts are heard.
- Half the mean of the volume vectors, as training draws them, is taken off every volume vector. A contrast ranks texts by
  cosine less half of what all volumes have in common with each text (distribution normalisation, Zhou et al., "Test-time
  distribution normalization", NeurIPS 2023); here the mean is that of training and fixed in the model, so that a vector does
  not depend on what lies beside it in an index. The texts' own mean is left: it moves all volumes alike.
- How sure: one temperature, fitted over the questions of QUESTIONS. The scale of training is too sure of what it was not
  trained on, so it is fitted on digital patients that were never seen, where training had any, and on real series: of the
  patients held out, or, where none are, of those trained on. Both count alike.
- Everything is a fixed function of data, weights and seed.
"""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from index.caption import QUESTIONS, TERMS, question
from models.decipher import BY_BRIGHTNESS, Decipher
from training.calibration import fit_scale
from training.config import TrainConfig
from training.data import TrainingSet, rng_of
from training.meter import Record, Told
from training.preparing import HEAD, PHANTOM, patient_series
from training.shards import COLUMNS, Shard
from training.watch import as_found, check_rows, frozen_check, volume_vectors
from training.wordings import WORDS

DRAWN = 1024
"""volumes of which the centre is the mean"""
TAKEN_OFF = 0.5
"""of the mean: the half of it that a contrast in two directions has to do with"""
UNSEEN, PATIENTS = 10_000_019, 40
"""digital patients that no training draws: the seed of the first, and how many"""
FEWEST = 8
"""series that a question is asked of"""


def settle(model: Decipher, data: TrainingSet, config: TrainConfig, run: Path, told: Told) -> None:
    """Fix the shares, the contrast, the centre and the certainty of a model that was aligned with texts, in place, and write
    what the frozen check finds of it from now on to `run`/metrics.jsonl."""
    set_shares(model, config.histogram_share)
    set_contrast(model)
    set_centre(model, data, config)
    set_certainty(model, data, config)
    stage = config.stages[-1]
    found = frozen_check(model, data, config, with_text=True)
    record = Record(run, told, first=True)
    steps = config.stage(stage).steps
    record.write(
        {"stage": stage, "step": steps, "steps": steps, "check": True, "certain_scale": model.certain_scale, **found}
    )
    record.close()


def set_shares(model: Decipher, histogram: float) -> None:
    """What the histogram counts of the volume vector, where the others share the rest; 0: the vector is the sum, as trained."""
    rest = (1 - histogram) / 2 if histogram else 0.0
    model.shares.copy_(torch.tensor([rest, rest, histogram]).half())


def set_contrast(model: Decipher) -> None:
    """The directions in which the texts of BY_BRIGHTNESS differ, as the mean of all wordings has them; zeros without shares."""
    model.contrast.zero_()
    if model.shares.any():
        said = [
            model.encode_texts([f"{word} MRI" for word in WORDS["sequence"][name]]).mean(dim=0)
            for name in BY_BRIGHTNESS
        ]
        means = torch.stack(said)
        model.contrast.copy_(torch.linalg.svd(means - means.mean(dim=0), full_matrices=False).Vh[:-1].half())


def set_centre(model: Decipher, data: TrainingSet, config: TrainConfig) -> None:
    """TAKEN_OFF of the mean of the unit vectors of DRAWN volumes, drawn as in training, as they were stored."""
    model.centre.zero_()
    as_stored = (data.rows["variant"] == 0).fill_null(False).to_numpy() & (data.weights > 0)
    if not as_stored.any():
        return
    rows, times = np.unique(data.draw(rng_of(config, "centre", 0), DRAWN, as_stored), return_counts=True)
    with as_found(model):
        vectors = volume_vectors(model, data, rows)
    mean = np.average(vectors, axis=0, weights=times)
    model.centre.copy_(torch.from_numpy(TAKEN_OFF * mean).half())  # as it will be saved


def set_certainty(model: Decipher, data: TrainingSet, config: TrainConfig) -> None:
    """The scale of cosines whose softmax is as sure as it is right; as it was where nothing could be asked."""
    real = ~data.rows["origin"].is_in([PHANTOM, HEAD]).fill_null(False).to_numpy()
    chosen, _ = check_rows(data, config, among=real if real.any() else None)
    groups = [_questions(model, data, chosen, data.rows[chosen])]
    if config.phantom_patients:
        unseen = unseen_patients(model, min(PATIENTS, config.phantom_patients))
        groups.append(_questions(model, unseen, np.arange(unseen.rows.height), unseen.rows))
    asked = [question for group in groups for question in group]
    if asked:
        model.certainty.fill_(fit_scale(asked))
        model.certainty.copy_(model.certainty.half())


def unseen_patients(model: Decipher, count: int) -> Shard:
    """The series of digital patients that no training drew."""
    made = [one for n in range(count) for one in patient_series((model.config.prepare, UNSEEN + n, {}))]
    pixels, content, geometry, rows = zip(*made, strict=True)
    frame = pl.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], schema=COLUMNS)
    return Shard(np.stack(pixels), np.stack(content), np.stack(geometry), frame)


def _questions(
    model: Decipher, volumes: TrainingSet | Shard, chosen: np.ndarray, rows: pl.DataFrame
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each attribute in QUESTIONS the cosines (n, C) of the series whose value is known with the prompts of all values that
    occur, and which is true (n,)."""
    found = []
    with as_found(model):
        vectors = volume_vectors(model, volumes, chosen)
        for column in QUESTIONS:
            values = sorted(set(rows[column].drop_nulls()) & TERMS[column].keys())
            known = rows[column].is_in(values).fill_null(False).to_numpy()
            if len(values) < 2 or known.sum() < FEWEST:
                continue
            prompts = model.encode_texts([question(column, value) for value in values]).cpu().numpy()
            truth = np.array([values.index(value) for value in rows[column].to_numpy()[known]])
            found.append((vectors[known] @ prompts.T, truth))
    return found
