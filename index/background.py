"""What a score means in one index: how pairs of things score that do not belong together.

Decisions (each measured by tests/benchmarks/evidence.py):
- The background is a sample of at most SAMPLE rows, spread evenly and always the same for one index. Pairs are of
  different patients whose tags name two sequences or two body regions. Text is stood for by the captions.
- One mean and deviation of these pairs for pixels, and one for tags, standardise the cosines of every query, so that
  evidence is fused without a pass over all rows. A series whose tags tell neither sequence nor region has no evidence
  of tags, and is judged by its pixels alone: what is not known speaks neither for it nor against it.
- The best of many unrelated series scores high by chance. So the best hit of a query is held against the best that each
  sampled caption (or volume) finds among series that are not its own: a query whose best hit is below the lowest fifth
  of these found nothing. Tags are the exception, since captions say more than queries do: there the bar is the middle
  of all pairs. The bar is that of SAMPLE rows: in a larger index it stays, so that it errs towards silence.
- Where tags are too few to tell what does not belong together, pairs of different patients stand in, without bars.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from index.record import subjects
from index.segment import silent
from index.store import Index

if TYPE_CHECKING:
    from models.decipher import Decipher

SAMPLE = 256
LEAST_PAIRS = 64
LEAST_SERIES = 8
"""fewer of them with strangers to be compared with tell no quantile"""
LEAST_STRANGERS = 5
BEST_QUANTILE = 0.2
TAGS_QUANTILE = 0.5
FLAT_DEVIATION = 1e-6
GOLDEN = (5**0.5 - 1) / 2
TAGS = ("sequence", "body_region")
PATIENTS = ("patient_id", "study_id", "series_id")
IDENTIFIED = 100 * SAMPLE
"""of more rows, hardly two in a sample are of one patient, and to look who they are takes longer than all else"""
FIELD = (
    "Axial T2-weighted MRI of the brain.", "FLAIR.", "FLAIR, STIR, DWI, ADC, SWI, MRA, T1, T2, PD.",
    "MRI of the spine and spinal cord.", "MRI of the knee joint, meniscus and ligaments.", "Abdomen: liver and kidneys.",
    "Pelvis and prostate.", "Cardiac cine MRI of the left ventricle.", "Breast MRI after contrast agent.",
    "Shoulder, hip, wrist and ankle.", "Diffusion-weighted imaging, ADC map.", "A tumour, mass or metastasis.",
    "Multiple sclerosis, white matter lesions.", "Stroke, haemorrhage or infarct.", "A 45-year-old female patient.",
    "A healthy volunteer, normal study.", "A child or an infant.", "Siemens, GE or Philips scanner, 3 tesla.",
    "Sagittal, coronal, axial plane.", "Motion artefact, noise, poor image quality.",
    "Radiology report: no abnormality is seen.",
)  # fmt: skip
"""what people who search MRI speak of; see `off_topic`"""
OFF_TOPIC = 0.2


@dataclass(frozen=True)
class Pairs:
    """Pairs that do not belong together, by one kind of score.

    mean, deviation: of their cosines (0 and 1 for a fused score). scores: their standardised scores, float32, ascending.
    bar: the standardised score that the best hit of a query has to reach; None where that cannot be told.
    """

    mean: float
    deviation: float
    scores: np.ndarray
    bar: float | None


@dataclass(frozen=True)
class Background:
    """pixels: text against volumes; tags: text against captions; both: these fused; volumes: volumes against volumes.

    None where the index holds nothing of the kind, such as no captions or one and the same for all. correlation: of
    pixels and tags over the pairs. by_tags: whether these are known to differ in sequence or region, not only in patient.
    """

    pixels: Pairs | None
    tags: Pairs | None
    both: Pairs | None
    volumes: Pairs | None
    correlation: float
    by_tags: bool


def background(index: Index) -> Background | None:
    """The background of an index, from a sample of its rows; None where there are too few pairs."""
    if not len(index):
        return None
    rows = sample_rows(len(index))
    records = index.rows(rows, (*TAGS, *PATIENTS) if len(index) <= IDENTIFIED else TAGS)
    return of_rows(records, index.gather(rows), index.gather(rows, "captions"))


def sample_rows(count: int, size: int = SAMPLE) -> np.ndarray:
    """At most `size` of the rows 0 to count - 1, ascending, int64: one of each of `size` equal parts.

    Which one changes from part to part (a quadratic Weyl sequence), or a step of the archive, such as four sequences a
    patient, could meet the step of the sample.
    """
    if count <= size:
        return np.arange(count)
    part = np.arange(size)
    return np.unique(((part + part**2 * GOLDEN % 1) / size * count).astype(np.int64))


def of_rows(records: pl.DataFrame, vectors: np.ndarray, captions: np.ndarray) -> Background | None:
    """The background of sampled rows: records with TAGS and PATIENTS, vectors and captions float32 (m, E)."""
    who = _who(records)
    strangers = who[:, None] != who[None]
    apart = strangers & (_differ(records, "sequence") | _differ(records, "body_region"))
    by_tags = int(apart.sum()) >= LEAST_PAIRS
    pairs = apart if by_tags else strangers
    speaks = ~silent(captions)
    said = pairs & speaks[:, None]
    told = said & speaks[None]
    volumes, _ = _pairs(vectors @ vectors.T, pairs, by_tags)
    pixels, fits = _pairs(captions @ vectors.T, said, by_tags)
    tags, agrees = _pairs(captions @ captions.T, told, by_tags, of_tags=True)
    both, correlation = None, 0.0
    if fits is not None and agrees is not None:
        correlation = float(np.corrcoef(fits[told], agrees[told])[0, 1])
        both = _standing_pairs(fused(fits, agrees, ~speaks, correlation), said, by_tags)
    if volumes is None:
        return None
    return Background(pixels, tags, both, volumes, correlation, by_tags)


def fused(
    pixels: np.ndarray, tags: np.ndarray, silent: np.ndarray, correlation: float = 0.0, share: float = 0.5
) -> np.ndarray:
    """One score of standardised `pixels` and `tags` (..., n): their mean, tags by `share`; pixels where tags are silent.

    The mean is brought to the deviation 1 of its background, so that a series with one evidence and a series with two
    are held against the same.
    """
    both = ((1 - share) * pixels + share * tags) / spread(correlation, share)
    return np.where(silent, pixels, both)


def spread(correlation: float, share: float = 0.5) -> float:
    """The deviation of the mean, tags by `share`, of two scores of deviation 1 that correlate."""
    variance = (1 - share) ** 2 + share**2 + 2 * correlation * share * (1 - share)
    return max(float(variance), FLAT_DEVIATION**2) ** 0.5


def scale(terms: Sequence[tuple[float, Pairs | None]], length: float = 1.0) -> tuple[float, float]:
    """Mean and deviation of background cosines with a unit direction made of several vectors; (0, 1) without pairs.

    terms: each vector's weight, and the pairs that it would have alone; length: of their weighted sum, before it was
    brought to 1. Means add up; the deviation of a unit direction is that of a unit vector, as in isotropic space.
    """
    known = [(weight, pairs) for weight, pairs in terms if pairs is not None]
    total = sum(abs(weight) for weight, _ in known)
    if not total:
        return 0.0, 1.0
    mean = sum(weight * pairs.mean for weight, pairs in known) / length
    return mean, sum(abs(weight) * pairs.deviation for weight, pairs in known) / total


def standing(pairs: Pairs | None, scores: np.ndarray) -> np.ndarray:
    """The share (0..1) of background pairs that score lower than each of `scores` (n,), standardised; NaN without pairs."""
    scores = np.asarray(scores)
    if pairs is None or not len(pairs.scores):
        return np.full(scores.shape, np.nan)
    return np.searchsorted(pairs.scores, scores.astype(np.float32), side="left") / len(pairs.scores)


def nothing_better(pairs: Pairs | None, best: float) -> bool:
    """Whether a query whose best standardised score is `best` found nothing; False where that cannot be told."""
    return pairs is not None and pairs.bar is not None and best < pairs.bar


def off_topic(model: "Decipher", texts: Sequence[str]) -> np.ndarray:
    """bool (n,): texts that are about nothing that FIELD speaks of, by the frozen sentence vectors of the text encoder.

    The trained text vectors cannot tell: what they were not trained on falls among the rest. Takes 50 ms.
    """
    vectors = model.text.sentences([*texts, *FIELD]).numpy()
    return (vectors[: len(texts)] @ vectors[len(texts) :].T).max(axis=1) < OFF_TOPIC


def _who(records: pl.DataFrame) -> np.ndarray:
    """int64 (m,): a number for each patient, as far as the records tell."""
    if "series_id" not in records.columns:
        return np.arange(records.height)
    missing = [pl.lit(None, dtype=pl.String).alias(name) for name in PATIENTS if name not in records.columns]
    return np.unique(subjects(records.with_columns(missing)), return_inverse=True)[1]


def _known(records: pl.DataFrame, name: str) -> pl.Series:
    """A tag column, null where it tells nothing."""
    if name not in records.columns:
        return pl.Series(name, [None] * records.height, dtype=pl.String)
    return records.select(pl.when(pl.col(name) != "OTHER").then(pl.col(name)))[name]


def _differ(records: pl.DataFrame, name: str) -> np.ndarray:
    """bool (m, m): both rows have the tag, and not the same."""
    codes = _known(records, name).rank("dense").fill_null(0).to_numpy().astype(np.int64)
    known = codes > 0
    return known[:, None] & known[None] & (codes[:, None] != codes[None])


def _pairs(
    cosines: np.ndarray, pairs: np.ndarray, by_tags: bool, of_tags: bool = False
) -> tuple[Pairs | None, np.ndarray | None]:
    """Pairs (m, m) of cosines (m, m), and all cosines standardised by them; None where the pairs say nothing."""
    chosen = cosines[pairs].astype(np.float64)
    if len(chosen) < LEAST_PAIRS or chosen.std() <= FLAT_DEVIATION:
        return None, None
    mean, deviation = float(chosen.mean()), float(chosen.std())
    scores = (cosines - np.float32(mean)) / np.float32(deviation)
    found = _standing_pairs(scores, pairs, by_tags, of_tags)
    return Pairs(mean, deviation, found.scores, found.bar), scores


def _standing_pairs(scores: np.ndarray, pairs: np.ndarray, by_tags: bool, of_tags: bool = False) -> Pairs:
    """Pairs (m, m) of standardised scores (m, m)."""
    ordered = np.sort(scores[pairs].astype(np.float32))
    bar = None
    if by_tags:
        bar = float(ordered[int(TAGS_QUANTILE * len(ordered))]) if of_tags else _bar(scores, pairs)
    return Pairs(0.0, 1.0, ordered, bar)


def _bar(scores: np.ndarray, pairs: np.ndarray) -> float | None:
    """The lowest fifth of the best that a row finds among those that do not belong to it."""
    asking = pairs.sum(axis=1) >= LEAST_STRANGERS
    if asking.sum() < LEAST_SERIES:
        return None
    return float(np.quantile(np.where(pairs, scores, -np.inf)[asking].max(axis=1), BEST_QUANTILE))
