"""The rows that a probe is fitted on, and what a fold must not part.

Decisions
- Patients, units and groups that share a row go together, so that a fold that leaves a site out parts no patient.
- Rows of an unknown group are left out, since nobody can say whether a fold left their group out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.errors import DecipherError
from training.crossfit import OUTER_FOLDS, Features
from training.target import Column, Values, clean


@dataclass(frozen=True)
class Table:
    """n rows to be probed: `rows` (n,) of the input (of a mean: its first), `unit` (n,) code of what is judged at once.

    patients (n,), apart (n,): names that folds keep together; by: columns (n,); features: arrays (n, ...) by name.
    """

    rows: np.ndarray
    unit: np.ndarray
    values: Values
    patients: np.ndarray
    apart: np.ndarray
    by: dict[str, list[Any]]
    features: dict[str, Features]

    def take(self, rows: np.ndarray) -> "Table":
        """The given rows, in their order."""
        if len(rows) == len(self.rows) and (rows == np.arange(len(rows))).all():
            return self
        return replace(
            self,
            rows=self.rows[rows],
            unit=self.unit[rows],
            values=each(self.values, lambda column: [column[i] for i in rows]),
            patients=self.patients[rows],
            apart=self.apart[rows],
            by={name: [column[i] for i in rows] for name, column in self.by.items()},
            features={name: one[rows] for name, one in self.features.items()},
        )


def each(values: Values, change: Callable[[Column], Column]) -> Values:
    """`change` of a column, or of each of several."""
    if isinstance(values, Mapping):
        return {name: change(column) for name, column in values.items()}
    return change(values)


def keep_apart(table: Table, apart: Mapping[str, Column]) -> tuple[Table, list[str]]:
    """The rows whose groups are known, with the groups that folds leave out whole; and notes."""
    notes = []
    for name, column in apart.items():
        cleaned = [clean(column[i]) for i in table.rows]
        known = np.array([i for i, value in enumerate(cleaned) if value is not None], dtype=int)
        if not len(known):
            raise DecipherError(f"No series has a known {name!r}.", "leave out --group, or bring it with --labels")
        if len(known) < len(cleaned):
            notes.append(f"{len(cleaned) - len(known)} series without a known {name!r} left out")
        named = np.array([str(cleaned[i]) for i in known])
        table = table.take(known)
        table = replace(table, apart=linked(table.apart, named))
        check_apart(table, name)
    return table, notes


def check_apart(table: Table, name: str) -> str:
    """A note on how many groups of the column `name` folds can leave out; DecipherError where there is but one."""
    groups = len(np.unique(table.apart))
    if groups < 2:
        raise DecipherError(
            f"All series are of one group of {name!r}, or tied to it by patients, so none can be left out.",
            "leave out --group, or name a column with other values",
        )
    fewer = f", so {groups} folds instead of {OUTER_FOLDS}" if groups < OUTER_FOLDS else ""
    return f"folds leave out whole groups of {name!r}: {groups}{fewer}"


def linked(*columns: np.ndarray) -> np.ndarray:
    """A name (n,) for each row; rows that share a value of any column (n,) have the same, the least of the first's."""
    names, code = np.unique(columns[0], return_inverse=True)
    members = [np.unique(column, return_inverse=True)[1] for column in columns]
    while True:
        before = code
        for member in members:
            least = np.full(member.max() + 1, len(names))
            np.minimum.at(least, member, code)
            code = least[member]
        if (code == before).all():
            return names[code]
