"""What studies have, as labels: findings of organs.

Decisions
- From reports: what the reports of a study affirm is there; what they deny or do not name is not, where the organ's region
  was imaged. What was not imaged is not known, and teaches nothing; nor is it whether an organ with a particular finding has
  an unnamed lesion or mass as well.
- From a label column: its values, parted by `;`, are findings of the study's body region; `healthy`, `none`, `no` and `normal`
  are none; an empty cell says nothing.
- A finding is learnt where enough studies have it and enough do not.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from models.errors import DecipherError
from models.fusion import Target
from training.findings import GENERAL, REGION_OF_ORGAN, Mention, affirmed, mentions_of

NOTHING = {"healthy", "none", "no", "normal"}
SILENT = {"unknown", "n/a", "na", ""}


@dataclass(frozen=True)
class StudyFindings:
    """affirmed: what a study has; regions: what of the body it shows."""

    affirmed: frozenset[Target]
    regions: frozenset[str]

    def knows(self, target: Target) -> bool:
        """Whether the study can tell about a finding."""
        region = REGION_OF_ORGAN.get(target.organ, target.organ)
        named = any(a.organ == target.organ for a in self.affirmed)
        return target in self.affirmed or (region in self.regions and not (target.name in GENERAL and named))


def study_findings(rows: pl.DataFrame, column: str = "") -> dict[str, StudyFindings]:
    """Of each study that says something; rows have study_id, body_region, and report or `column`.

    Errors: DecipherError where there is no such column, or none of words.
    """
    if column:
        check_column(rows, column)
    said_of = pl.col(column or "report").cast(pl.Utf8).fill_null("").alias("said")
    told = rows.select("study_id", "body_region", said_of).unique(maintain_order=True)
    found: dict[str, StudyFindings] = {}
    for (study,), part in told.group_by("study_id", maintain_order=True):
        said = [row for row in part.iter_rows(named=True) if row["said"].strip().lower() not in SILENT]
        if said:
            there = _of_column(said) if column else _of_reports(said)
            regions = {row["body_region"] for row in part.iter_rows(named=True) if row["body_region"]}
            found[str(study)] = StudyFindings(frozenset(there), frozenset(regions))
    return found


def check_column(rows: pl.DataFrame, column: str) -> None:
    """DecipherError unless rows have the label column, and it holds words."""
    if column not in rows.columns:
        raise DecipherError(f"No label column {column!r}.", f"Columns: {', '.join(rows.columns)}.")
    if rows[column].dtype not in (pl.Utf8, pl.Null):
        raise DecipherError(
            f"The label column {column!r} does not hold words.", "Write what each study has, parted by ; or healthy."
        )


def _of_reports(rows: Iterable[Mapping[str, Any]]) -> set[Target]:
    mentions = [mention for row in rows for mention in _mentions(row["said"], row["body_region"])]
    return {Target(finding, organ) for organ, finding in affirmed(mentions) if organ}


@lru_cache(maxsize=65536)
def _mentions(report: str, region: str | None) -> tuple[Mention, ...]:
    """mentions_of, kept: a run asks for the labels of its studies before its stages, for the detector and for its batches."""
    return tuple(mentions_of(report, region))


def _of_column(rows: Iterable[Mapping[str, Any]]) -> set[Target]:
    values = [(value.strip().lower(), row["body_region"] or "") for row in rows for value in row["said"].split(";")]
    return {Target(value, organ) for value, organ in values if value not in NOTHING | SILENT}


def targets_of(studies: Iterable[StudyFindings], fewest: int) -> tuple[Target, ...]:
    """Findings that at least `fewest` studies have and as many do not, by organ and name.

    Errors: DecipherError where there is none.
    """
    all_of = list(studies)
    have = Counter(target for study in all_of for target in study.affirmed)
    lack = Counter(
        target for study in all_of for target in have if study.knows(target) and target not in study.affirmed
    )
    kept = sorted((t for t in have if min(have[t], lack[t]) >= fewest), key=lambda t: (t.organ, t.name))
    if not kept:
        most = ", ".join(f"{t.organ} {t.name} ({n})" for t, n in have.most_common(3)) or "none"
        raise DecipherError(
            f"No finding is in {fewest} studies and absent from as many others (most frequent: {most}).",
            "Bring more reports, name a label column with --set findings=COLUMN, or --set fewest_positive=1.",
        )
    return tuple(kept)


def label_matrix(studies: Sequence[StudyFindings], targets: Sequence[Target]) -> tuple[np.ndarray, np.ndarray]:
    """labels (n, F) float32 of 0 and 1, and known (n, F) bool."""
    labels = np.array([[t in study.affirmed for t in targets] for study in studies], dtype=np.float32)
    known = np.array([[study.knows(t) for t in targets] for study in studies], dtype=bool)
    return labels.reshape(len(studies), len(targets)), known.reshape(len(studies), len(targets))
