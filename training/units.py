"""What is judged at once, series, study or patient, and what a fold must not part.

Decisions
- The mean of a unit's vectors is not made unit length again: a linear probe then says of the mean what its series say
  on average, and series that differ do not count for more than series that agree.
- Series of a unit that name different labels leave the unit out; series without a label take that of the others.
- A study is one patient's: of a folder of several patients' files, which is one study to a scan, each is a unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from models.errors import DecipherError
from training.crossfit import Features
from training.table import Table, each, linked
from training.target import Column, clean

UNITS = ("series", "study", "patient")
POOLS = ("mean", "vote")
SEVERAL = "several"


def unit_names(records: pl.DataFrame, unit: str) -> list[str | None]:
    """The unit of each row of a catalogue, None where it is not known. DecipherError for a unit that there is not."""
    if unit not in UNITS:
        raise DecipherError(f"There is no unit {unit!r}.", f"units: {', '.join(UNITS)}")
    study = pl.concat_str("study_id", pl.col("patient_id").fill_null(""), separator="|")
    names = {"series": pl.col("series_id"), "study": study, "patient": pl.col("patient_id")}[unit]
    return records.select(names).to_series().to_list()


def in_units(table: Table, name: str, units: Sequence[str | None], pool: str) -> tuple[Table, list[str]]:
    """The rows by unit and notes: one row a unit for pool "mean", each its own with the unit's label for "vote".

    units: the unit of each row of the input, `name` what they are called; rows of no known unit are left out.
    DecipherError for an unknown pool, and where no row is left.
    """
    if pool not in POOLS:
        raise DecipherError(f"There is no pool {pool!r}.", f"pools: {', '.join(POOLS)}")
    own = [units[i] for i in table.rows]
    known = np.array([i for i, unit in enumerate(own) if unit is not None], dtype=int)
    if not len(known):
        raise DecipherError(f"No series has a known {name}.", "judge each series alone: --unit series")
    notes = [f"{len(own) - len(known)} series without a known {name} left out"] if len(known) < len(own) else []
    table, names = table.take(known), np.array([str(own[i]) for i in known])
    unit = np.unique(names, return_inverse=True)[1]
    table = replace(table, unit=unit)
    several = np.zeros(unit.max() + 1, dtype=bool)
    columns = table.values.values() if isinstance(table.values, Mapping) else [table.values]
    for column in columns:
        several |= _disagreeing(column, unit)
    if several.all():
        raise DecipherError(f"The series of each {name} disagree on the label.", "judge each alone: --unit series")
    if several.any():
        counted = f"{several.sum()} of {len(several)} units ({name}), {several[unit].sum()} series"
        notes.append(f"left out, their series disagree on the label: {counted}")
        table = table.take(np.flatnonzero(~several[unit]))
    unit = np.unique(table.unit, return_inverse=True)[1]
    values = each(table.values, lambda column: _shared(column, unit))
    table = replace(table, unit=unit, values=values, apart=linked(table.apart, unit))
    return (averaged(table), notes) if pool == "mean" else (table, notes)


def averaged(table: Table) -> Table:
    """One row a unit: means of features, the first row of all else; `several` where series differ in a `by` column."""
    first = firsts(table.unit)
    by = {name: common(column, table.unit) for name, column in table.by.items()}
    features: dict[str, Features] = {name: means(np.asarray(one), table.unit) for name, one in table.features.items()}
    return replace(replace(table, features={}).take(first), by=by, features=features)


def firsts(unit: np.ndarray) -> np.ndarray:
    """The first row of each unit, for codes (n,) from 0."""
    return np.unique(unit, return_index=True)[1]


def means(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Means (u, ...) of values (n, ...) over the rows of each unit, for codes (n,) from 0."""
    order = np.argsort(unit, kind="stable")
    counts = np.bincount(unit)
    sums = np.add.reduceat(values[order], np.r_[0, np.cumsum(counts)[:-1]], axis=0)
    return sums / counts.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)


def _disagreeing(column: Column, unit: np.ndarray) -> np.ndarray:
    """bool (u,): whether a unit's rows name more than one known value."""
    told: dict[int, set[str]] = {}
    for code, value in zip(unit.tolist(), column, strict=True):
        if clean(value) is not None:
            told.setdefault(code, set()).add(str(clean(value)))
    found = np.zeros(unit.max() + 1, dtype=bool)
    found[[code for code, values in told.items() if len(values) > 1]] = True
    return found


def _shared(column: Column, unit: np.ndarray) -> list[object]:
    """The column with the unit's known value in each of its rows."""
    known = {code: value for code, value in zip(unit.tolist(), column, strict=True) if clean(value) is not None}
    return [known.get(code) for code in unit.tolist()]


def common(column: list[Any], unit: np.ndarray) -> list[Any]:
    """The value (u,) of each unit's rows, for a column (n,); SEVERAL where they differ."""
    told: dict[int, set[Any]] = {}
    for code, value in zip(unit.tolist(), column, strict=True):
        told.setdefault(code, set()).add(value)
    return [next(iter(values)) if len(values) == 1 else SEVERAL for _, values in sorted(told.items())]
