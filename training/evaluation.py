"""Everything that is measured of an index at once: retrieval, its search, probes with baselines, health of the vectors.

Decisions
- One object, ready for json.dumps, holds all; the tables are views of it, one line a figure, so that two evaluations can be
  compared by a join on the first columns.
- A part that cannot be measured (too few series, a label of one class) is left out with its reason; the others stand.
- Nothing here names a patient, a series or a path within the archive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from index import quality
from index.record import subjects
from index.store import Index
from models.errors import DecipherError
from training import health
from training.baselines import baseline_features
from training.probe import ProbeResult, fit_probe
from training.retrieval import measure_retrieval
from training.retrieval_tasks import Progress
from training.rivals import pixel_features

KIND = "decipher evaluation"
TASKS = ("sequence", "body_region", "plane", "age_years", "sex")
IF_THERE = ("lesion", "diagnosis")
SAMPLE = 2000
"""rows that health looks at, since it compares all pairs"""
NEIGHBOURS = 5
ANSWER = ("value", "low", "high")
FIGURES = {
    "effective_rank": "directions in which the vectors vary, once centred",
    "mean_cosine": "of all pairs; near 1 where an encoder has collapsed",
    "uniformity": "log of the mean of exp(-2 d^2) over all pairs; lower is more even",
    "neighbours_sequence": "balanced accuracy of the vote of the nearest of other patients",
    "neighbours_body_region": "balanced accuracy of the vote of the nearest of other patients",
}


@dataclass(frozen=True)
class Evaluation:
    """found: all of it, ready for json.dumps; what only plots need: the share of variance of each direction, descending,
    which sums to 1, and the probes with their predictions."""

    found: dict[str, Any]
    spectrum: np.ndarray
    probes: list[ProbeResult]

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """By name, one line a figure; parts that were left out are absent."""
        makers: dict[str, Callable[[Any], pl.DataFrame]] = {
            "retrieval": retrieval_table,
            "quality": quality_table,
            "probes": probe_table,
            "health": health_table,
        }
        return {name: make(self.found[name]) for name, make in makers.items() if self.found[name]}


def evaluate(
    index: Index, queries: int = 1000, seed: int = 0, progress: Progress = lambda what, done, of: None
) -> Evaluation:
    """Measure everything; at most `queries` queries of each kind. Errors: as `training.retrieval.measure_retrieval`."""
    retrieval = measure_retrieval(index, None, queries, seed, progress)
    left_out = list(retrieval.notes)
    measured = None
    try:
        measured = quality.measure(index, min(queries, 100), seed, lambda done, of: progress("search", done, of))
    except DecipherError as error:
        left_out.append(f"Index quality is left out: {error.message}")
    records = index.records
    probes, missed = _probes(index, records, seed, progress)
    spread, spectrum = _health(index, records, seed)
    found = {
        "kind": KIND,
        "index": index.folder.absolute().name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "passport": index.passport,
        "seed": seed,
        "counts": _counts(records),
        "left_out": left_out + missed,
        "retrieval": retrieval.rows,
        "quality": measured,
        "probes": [probe.to_json() for probe in probes],
        "health": spread,
    }
    return Evaluation(found, spectrum, probes)


def _counts(records: pl.DataFrame) -> dict[str, int]:
    return {
        "series": records.height,
        "studies": records["study_id"].n_unique(),
        "patients": len(set(subjects(records))),
        "without_patient": int(records["patient_id"].null_count()),
        "reports": records["report"].drop_nulls().n_unique() if "report" in records.columns else 0,
    }


def _probes(index: Index, records: pl.DataFrame, seed: int, progress: Progress) -> tuple[list[ProbeResult], list[str]]:
    """A linear probe of each label with all baselines, and a sentence on each that could not be had."""
    found, who = [], subjects(records)
    pixels, missed = pixel_features(index, records, progress)
    tasks = [*TASKS, *(name for name in IF_THERE if name in records.columns)]
    for number, task in enumerate(tasks, start=1):
        try:
            values = records[task].to_list() if task in records.columns else [None] * records.height
            features = baseline_features(records, exclude=[task]) | pixels
            found.append(fit_probe(index.vectors, values, who, task=task, baselines=features, seed=seed))
        except DecipherError as error:
            missed.append(f"The probe of {task} is left out: {error.message}")
        progress("probes", number, len(tasks))
    return found, missed


def _health(index: Index, records: pl.DataFrame, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """{figure: {value, beside}}, `beside` being what the largest class gives; collapse in words; and the spectrum."""
    rows = np.sort(np.random.default_rng(seed).choice(len(index), min(SAMPLE, len(index)), replace=False))
    vectors, seen = index.gather(rows), records[rows]
    who = np.array(subjects(seen))
    found: dict[str, Any] = {
        name: {"value": _known(getattr(health, name)(vectors)), "beside": None}
        for name in ("effective_rank", "mean_cosine", "uniformity")
    }
    for name in ("sequence", "body_region"):
        labels = np.array(seen[name].to_list() if name in seen.columns else [None] * len(rows), dtype=object)
        value, largest = health.nearest_neighbours(vectors, labels, who, NEIGHBOURS)
        found[f"neighbours_{name}"] = {"value": _known(value), "beside": _known(largest)}
    spread = {"figures": found, "collapse": health.collapse(vectors), "sample": len(rows), "dim": index.dim}
    squares = np.linalg.svd(vectors - vectors.mean(axis=0, dtype=np.float64), compute_uv=False) ** 2
    return spread, squares / max(float(squares.sum()), 1e-30)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def retrieval_table(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """kind, search ("exact" or "indexed"), metric, value, low, high, chance, queries, pool, patients."""
    lines = [
        {
            "kind": row["kind"],
            "search": search,
            "metric": metric,
            **{name: figure[name] for name in ANSWER},
            "chance": row["chance"][metric],
            **{name: row[name] for name in ("queries", "pool", "patients")},
        }
        for row in rows
        for search, found in (("exact", row["metrics"]), ("indexed", row["indexed"] or {}))
        for metric, figure in found.items()
    ]
    return _frame(lines, ("kind", "search", "metric"), (*ANSWER, "chance"), ("queries", "pool", "patients"))


def quality_table(found: dict[str, Any]) -> pl.DataFrame:
    """figure, value, low, high; latency in milliseconds."""
    shares = {"recall@10": found["recall@10"], "duplicates": found["duplicates"]}
    shares |= {f"recall@10 of {kind}": share for kind, share in found["recall@10_by_query"].items()}
    numbers = {name: found[name] for name in ("effective_rank", "mean_cosine", "series", "dim", "sample")}
    numbers |= {f"hubness_{name}": found["hubness"][name] for name in ("skewness", "antihubs")}
    for kind, taken in found["latency_ms"].items():
        numbers |= {f"latency_ms_{name} {kind}": value for name, value in taken.items()}
    lines = [{"figure": name, **share} for name, share in shares.items()]
    lines += [{"figure": name, "value": float(value), "low": None, "high": None} for name, value in numbers.items()]
    return _frame(lines, ("figure",), ANSWER, ())


def probe_table(probes: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """task, kind, features ("encoder" or a baseline's name), metric, value, low, high, n, groups (patients), n_missing."""
    lines = []
    for probe in probes:
        about = {name: probe[name] for name in ("task", "kind", "n", "groups", "n_missing")}
        for metric, figure in probe["metrics"].items():
            lines.append({**about, "features": "encoder", "metric": metric, **{name: figure[name] for name in ANSWER}})
        for rival, scores in probe["baselines"].items():
            for metric, score in scores.items():
                low_high = score if isinstance(score, dict) else {"value": score}
                beside = {name: low_high.get(name) for name in ANSWER}
                lines.append({**about, "features": rival, "metric": metric, **beside})
    return _frame(lines, ("task", "kind", "features", "metric"), ANSWER, ("n", "groups", "n_missing"))


def health_table(found: dict[str, Any]) -> pl.DataFrame:
    """figure, value, beside (what naming the largest class gives), what it is."""
    lines = [{"figure": name, **one, "what": FIGURES[name]} for name, one in found["figures"].items()]
    return _frame(lines, ("figure",), ("value", "beside"), ()).with_columns(
        what=pl.Series([one["what"] for one in lines])
    )


def _frame(
    lines: Sequence[dict[str, Any]], texts: Sequence[str], numbers: Sequence[str], wholes: Sequence[str]
) -> pl.DataFrame:
    kinds: dict[str, Any] = dict.fromkeys(texts, pl.String) | dict.fromkeys(numbers, pl.Float64)
    kinds |= dict.fromkeys(wholes, pl.Int64)
    return pl.DataFrame([{name: one[name] for name in kinds} for one in lines], schema=kinds)
