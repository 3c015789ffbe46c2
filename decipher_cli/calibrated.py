"""Zero-shot probabilities are calibrated by a column of labels, and it is told how good they were before and after."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.errors import DecipherError

if TYPE_CHECKING:
    import polars as pl

    from index.prompts import PromptSet
    from index.store import Index
    from training.calibration import Calibrated, Calibration

SHOWN = 5
SUBJECT = ("series_id", "study_id", "patient_id")


@dataclass(frozen=True)
class Labelled:
    """Each row's class by its label (m,), -1 where there is none, and its patient."""

    truth: np.ndarray
    who: list[str]


def labels_of(index: "Index", rows: np.ndarray, asked: "PromptSet", column: str, table: Path | None) -> Labelled:
    """The labels of some live rows (m,), from the index or a table; says which are left out.

    DecipherError for a column that is not there, that classify saved, or of which no label is a class.
    """
    from decipher_cli.output import say
    from index.labels import join_labels, load_labels
    from index.prompts import codes_of
    from index.record import subjects

    if asked.findings and len(asked.classes) > 1:
        raise DecipherError("One column of labels cannot calibrate several findings.", "Calibrate one at a time.")
    records = index.records if table else index.columns([*SUBJECT, *_names(column)])
    if table:
        joined = join_labels(records, load_labels(table), index.key)
        records = joined.records
        say(f"labels from {table.name}: {joined.matched} rows matched, {joined.unmatched} not")
    values = _column(index, records, column, table is not None)[rows]
    codes, unknown = codes_of(asked, values.to_list())
    if not (codes >= 0).any():
        raise DecipherError(
            f"No label in {column} is a class: {_counts(unknown) or 'all are empty'}.", _hint(asked, unknown)
        )
    if unknown:
        say(f"Left out of the calibration, being no class: {_counts(unknown)}")
    unseen = [] if asked.findings else [one.short for code, one in enumerate(asked.classes) if code not in codes]
    if unseen:
        say(f"No series is labelled {', '.join(unseen)}.")
    return Labelled(codes, subjects(records[rows]))


def _names(column: str) -> list[str]:
    from decipher_cli.probe import ALIASES

    return [ALIASES.get(column, column), column]


def _column(index: "Index", records: "pl.DataFrame", column: str, joined: bool) -> "pl.Series":
    from difflib import get_close_matches

    if column in index.saved and not joined:
        raise DecipherError(f"{column} holds what classify said, and no labels.", "Name a column of labels.")
    for name in _names(column):
        if name in records.columns:
            return records[name]
    near = get_close_matches(column, [*index.stored, *records.columns], n=1)
    hint = f"Did you mean --calibrate {near[0]}?" if near else "Columns of your own come with --labels FILE."
    raise DecipherError(f"No column {column!r} to calibrate by.", hint)


def _counts(labels: Counter[str]) -> str:
    said = [f"{name} ({count})" for name, count in labels.most_common(SHOWN)]
    return ", ".join([*said, *([f"{len(labels) - SHOWN} more"] if len(labels) > SHOWN else [])])


def _hint(asked: "PromptSet", unknown: Counter[str]) -> str:
    """How a class would go by a label: an example that suits, where one is to be seen."""
    if asked.findings:
        return "Labels of a finding are yes or no, 1 or 0, or one of its wordings."
    pairs = [(label, one.wordings[0]) for label, _ in unknown.most_common() for one in asked.classes]
    suiting = [pair for pair in pairs if pair[0].casefold() in pair[1].casefold()]
    label, wording = [*suiting, *pairs, ("T1", "T1-weighted MRI")][0]
    return f'Put the label among the wordings of its class: "{label}|{wording}"'


def calibrated(logits: np.ndarray, labelled: Labelled, asked: "PromptSet") -> "Calibrated":
    """A calibration of logits (m, C) by those rows that have a label."""
    from training.calibration import calibrate

    known = np.flatnonzero(labelled.truth >= 0)
    return calibrate(_competing(logits[known], asked), labelled.truth[known], [labelled.who[row] for row in known])


def shares_of(calibration: "Calibration", logits: np.ndarray, asked: "PromptSet") -> np.ndarray:
    """Calibrated probabilities (m, C) of logits (m, C)."""
    shares = calibration.probabilities(_competing(logits, asked))
    return shares[:, 1:] if asked.findings else shares


def _competing(logits: np.ndarray, asked: "PromptSet") -> np.ndarray:
    """Logits of classes; those of a finding (m, 1) become absent and present (m, 2)."""
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if asked.findings else logits


def tell(done: "Calibrated", column: str, as_json: bool) -> None:
    """How good the probabilities were before and after: a table on stdout, or beside a stream of JSON on stderr."""
    from decipher_cli.output import paper, say, table, talk

    titles = tuple(name.replace("_", " ") for name in done.before)
    shown = table("probabilities", *titles, right=titles)
    for title, quality in (("as they come", done.before), ("calibrated", done.after), ("class shares", done.prior)):
        shown.add_row(title, *map(_interval, quality.values()))
    say()
    (talk() if as_json else paper()).print(shown)
    say(f"Calibrated by {column}: {done.n} labelled series of {done.groups} patients.")
    say("Judged on patients not seen, with 95 % intervals over patients; applied is a fit to all labels.")


def _interval(metric: "dict[str, float | None]") -> str:
    from decipher_cli.output import number

    return "{} ({}-{})".format(*(number(metric[key]) for key in ("value", "low", "high")))
