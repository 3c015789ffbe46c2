"""What a probe must beat: features of how a series was acquired, that know nothing of the picture.

Decisions
- A number that a probe reaches from grid or scanner settings alone is a shortcut, not meaning; so these go through
  the same head and folds and stand beside every result.
- A label is never its own feature: `exclude` drops the columns the task is read from.
- Missing values get the column's median and an indicator of their own, since that a tag is missing tells its source.
"""

from collections.abc import Collection

import numpy as np
import polars as pl

LOGGED_TAGS = ("repetition_time_ms", "echo_time_ms", "inversion_time_ms", "b_value")
PLAIN_TAGS = ("flip_angle_deg", "field_strength_t")
CATEGORIES = ("vendor", "plane")


def baseline_features(records: pl.DataFrame, exclude: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Feature matrices (n, F) float64 by baseline name, row i for row i of the catalogue `records`; all finite.

    "geometry": log of spacing_mm, of shape and of the field of view in mm. "tags": acquisition tags with indicators
    of what is missing, vendor and plane one-hot. A baseline of which `exclude` (column names) leaves nothing is absent.
    """
    return {
        name: np.concatenate(parts, axis=1)
        for name, parts in (("geometry", _geometry(records, exclude)), ("tags", _tags(records, exclude)))
        if parts
    }


def _geometry(records: pl.DataFrame, exclude: Collection[str]) -> list[np.ndarray]:
    kept = [column for column in ("spacing_mm", "shape") if column not in exclude]
    logs = [np.log(_triples(records[column])) for column in kept]
    extent = [np.sum(logs, axis=0)] if len(logs) == 2 else []
    return [_imputed(part) for part in logs + extent]


def _tags(records: pl.DataFrame, exclude: Collection[str]) -> list[np.ndarray]:
    parts = []
    for column in (*LOGGED_TAGS, *PLAIN_TAGS):
        if column in exclude:
            continue
        values = records[column].cast(pl.Float64).to_numpy()[:, None]
        missing = ~np.isfinite(values)
        logged = np.log1p(np.maximum(values, 0)) if column in LOGGED_TAGS else values
        parts += [_imputed(logged), missing.astype(np.float64)]
    return parts + [_one_hot(records[column]) for column in CATEGORIES if column not in exclude]


def _triples(column: pl.Series) -> np.ndarray:
    """A list column as (n, 3) float64; NaN where it is null or not positive."""
    values = np.array([row if row is not None else [np.nan] * 3 for row in column.to_list()], dtype=np.float64)
    return np.where(values > 0, values, np.nan).reshape(-1, 3)


def _imputed(values: np.ndarray) -> np.ndarray:
    """Each column's own median where a value is not finite; 0 where nothing is known."""
    filled = values.copy()
    for column in filled.T:
        known = np.isfinite(column)
        column[~known] = np.median(column[known]) if known.any() else 0.0
    return filled


def _one_hot(column: pl.Series) -> np.ndarray:
    """(n, categories), the missing being one more category."""
    values = column.cast(pl.String).fill_null("").to_numpy()
    return (values[:, None] == np.unique(values)[None]).astype(np.float64)
