"""Conditions on the catalogue: polars SQL expressions, which hold before anything is searched or removed."""

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import polars as pl

from index.store import Index
from models.errors import DecipherError


def matching(index: Index, where: Sequence[str]) -> np.ndarray | None:
    """bool (n,): the rows for which all SQL expressions hold (null does not hold); None when there are none."""
    if not where:
        return None
    expressions = [_parse(index, text) for text in where]
    names = sorted({name for expression in expressions for name in expression.meta.root_names()})
    frame = index.columns(["series_id", *names])
    return np.logical_and.reduce([_holds(frame, *pair) for pair in zip(expressions, where, strict=True)])


def _parse(index: Index, text: str) -> pl.Expr:
    try:
        expression = pl.sql_expr(text)
        names = expression.meta.root_names()
    except pl.exceptions.PolarsError as error:
        raise DecipherError(f"--where cannot be read: {text}", "For example: --where \"sequence = 'T2'\"") from error
    for name in names:
        if name not in index.schema:
            close = get_close_matches(name.lower(), index.schema, n=1, cutoff=0.0) or ["sequence"]
            raise DecipherError(
                f"--where names a column that the index does not have: {name}.",
                f"The nearest is {close[0]}; text stands in single quotes: --where \"sequence = 'T2'\"",
            )
    return expression


def _holds(frame: pl.DataFrame, expression: pl.Expr, text: str) -> np.ndarray:
    try:
        mask = frame.select("series_id", expression.alias("_holds"))["_holds"]
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DecipherError(
            f"--where cannot be applied: {text} ({reason})", "Check the types of its columns."
        ) from error
    if mask.dtype != pl.Boolean:
        raise DecipherError(f"--where is neither true nor false: {text}", 'For example: --where "age_years < 18"')
    return mask.fill_null(False).to_numpy()
