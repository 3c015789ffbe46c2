"""What a probe is asked to tell: a column of labels, or several, as codes or numbers.

Decisions
- Floats, or more than 10 numbers, are regression; else 2 classes or several. Lists, text parted by ";" and several
  columns are labels that may hold together: one yes or no each, unknown where it is not said.
- Left out and counted: null, empty, NaN and "unknown". Left out and noted: classes of fewer than 2 patients.
- Classes are in order of number, then of name; the last of two is the positive one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import DecipherError

MISSING = {"", "unknown", "n/a", "nan", "null"}
MOST_CATEGORIES = 10
FEWEST_GROUPS_PER_CLASS = 2
MULTILABEL = "multilabel"
SEPARATOR, NOTHING = ";", "none"

Column = Sequence[object] | np.ndarray
Values = Column | Mapping[str, Column]
"""A column of labels, or several by name."""


@dataclass(frozen=True)
class Target:
    """The known values: `rows` (n,) of the column; `values` (n,) codes of `classes` or numbers.

    Of several labels `values` (n, L) is 1, 0, or NaN where unknown, `classes` their names.
    """

    kind: str
    rows: np.ndarray
    values: np.ndarray
    classes: list[str]
    n_missing: int
    notes: list[str]


def read_target(values: Values, groups: Sequence[str] | np.ndarray, task: str, called: str = "patients") -> Target:
    """Kind and values of a column, or of several; groups (n,): the patient, or what else folds keep together, of each row.

    called: what two of a class are needed of.
    DecipherError where nothing is known, for one class, and for numbers mixed with text.
    """
    if isinstance(values, Mapping):
        return _several({name: _binary(column, name) for name, column in values.items()}, groups, task, called)
    if any(isinstance(value, list | tuple) or SEPARATOR in str(value) for value in values):
        return _several(_listed(values), groups, task, called)
    return _single(values, groups, task, called)


def _single(values: Column, groups: Sequence[str] | np.ndarray, task: str, called: str) -> Target:
    cleaned = [clean(value) for value in values]
    rows = np.array([i for i, value in enumerate(cleaned) if value is not None], dtype=int)
    if not len(rows):
        raise DecipherError(f"No row has a known {task!r}.", "name a column with values, or bring them with --labels")
    known = [cleaned[i] for i in rows]
    numbers = {value for value in known if isinstance(value, float)}
    texts = sorted({value for value in known if isinstance(value, str)})
    if texts and len(numbers) > MOST_CATEGORIES:
        raise DecipherError(
            f"Column {task!r} mixes numbers with text such as {texts[0]!r}.",
            "write a number in each row, and leave what is not known empty",
        )
    n_missing = len(cleaned) - len(rows)
    has_fractions = any(isinstance(values[i], float | np.floating) or "." in str(values[i]) for i in rows)
    if not texts and len(numbers) != 2 and (has_fractions or len(numbers) > MOST_CATEGORIES):
        if len(numbers) == 1:
            raise DecipherError(f"Every row has the same {task!r}: {known[0]:g}.", "bring rows with other values")
        return Target("regression", rows, np.array(known, dtype=np.float64), [], n_missing, [])
    return _classes(known, rows, groups, task, called, n_missing)


def _classes(
    known: list[Any], rows: np.ndarray, groups: Sequence[str] | np.ndarray, task: str, called: str, n_missing: int
) -> Target:
    names = np.array([_named(value) for value in known])
    who = np.asarray(groups)[rows]
    order = {_named(value): value for value in known if isinstance(value, float)}
    found = sorted(np.unique(names).tolist(), key=lambda name: (order.get(name, math.inf), name))
    patients = {name: len(np.unique(who[names == name])) for name in found}
    classes = [name for name in found if patients[name] >= FEWEST_GROUPS_PER_CLASS]
    rare = [f"{name} ({np.sum(names == name)})" for name in found if name not in classes]
    if len(classes) < 2:
        seen = f"only {classes[0]!r}" if classes else "no class"
        raise DecipherError(
            f"A probe of {task!r} needs two classes with two {called} each; {seen} has that.",
            f"bring labels of more {called}, or name another column",
        )
    kept = np.isin(names, classes)
    target = np.array([classes.index(name) for name in names[kept]], dtype=int)
    notes = [f"left out, fewer than {FEWEST_GROUPS_PER_CLASS} {called}: {', '.join(rare)}"] if rare else []
    return Target("binary" if len(classes) == 2 else "multiclass", rows[kept], target, classes, n_missing, notes)


def _several(labels: dict[str, np.ndarray], groups: Sequence[str] | np.ndarray, task: str, called: str) -> Target:
    """Labels (n,) of 1, 0 and NaN by name; those that two patients with it and two without do not have are left out."""
    who = np.asarray(groups)
    fewest = {name: min(len(np.unique(who[column == code])) for code in (0, 1)) for name, column in labels.items()}
    classes = [name for name in labels if fewest[name] >= FEWEST_GROUPS_PER_CLASS]
    if not classes:
        raise DecipherError(
            f"No label of {task!r} has two {called} with it and two without.",
            f"bring labels of more {called}, or name another column",
        )
    every = np.stack([labels[name] for name in classes], axis=1)
    rows = np.flatnonzero(~np.isnan(every).all(axis=1))
    rare = [name for name in labels if name not in classes]
    notes = (
        [f"left out, fewer than {FEWEST_GROUPS_PER_CLASS} {called} with it or without: {', '.join(rare)}"]
        if rare
        else []
    )
    return Target(MULTILABEL, rows, every[rows], classes, len(who) - len(rows), notes)


def _binary(column: Column, name: str) -> np.ndarray:
    """A column of two values as 0 and 1, in order of number, then of name; NaN where it is not known."""
    cleaned = [clean(value) for value in column]
    found = sorted({value for value in cleaned if value is not None}, key=lambda value: (isinstance(value, str), value))
    if len(found) > 2:
        raise DecipherError(
            f"Column {name!r} has {len(found)} values; each of several labels is yes or no.",
            f"probe it alone: --task {name}",
        )
    codes = {value: float(code) for code, value in enumerate(found)}
    return np.array([math.nan if value is None else codes[value] for value in cleaned])


def _listed(values: Column) -> dict[str, np.ndarray]:
    rows = [_names_in(value) for value in values]
    every = sorted({name for row in rows for name in row or ()})
    return {name: np.array([math.nan if row is None else float(name in row) for row in rows]) for name in every}


def _names_in(value: object) -> set[str] | None:
    """The labels that hold in a row; None where nothing is said. An empty list, ";" and "none" say that none does."""
    listed = list(value) if isinstance(value, list | tuple) else str(value or "").split(SEPARATOR)
    names = {_named(found) for found in map(clean, listed) if found is not None}
    said = names or isinstance(value, list | tuple) or SEPARATOR in str(value)
    return names - {NOTHING} if said else None


def clean(value: object) -> float | str | None:
    """A finite float, a text, or None for what is not known."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    text = "" if value is None else str(value).strip()
    if text.lower() in MISSING:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else None


def _named(value: float | str) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
