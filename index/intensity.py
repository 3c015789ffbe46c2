"""Intensities as an encoder can take them: float32, finite."""

import numpy as np


def rescaled(data: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Stored values times slope plus intercept, in double precision; the values themselves where that changes nothing."""
    if slope == 1 and intercept == 0:
        return data
    with np.errstate(over="ignore", invalid="ignore"):
        return data * np.float64(slope) + intercept


def finite_float32(data: np.ndarray) -> np.ndarray:
    """The same values as float32; NaN and Inf are 0, what float32 cannot hold is its largest number."""
    if data.dtype.kind == "f":
        if not np.isfinite(data).all():
            data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
        if data.dtype.itemsize > 4:
            limit = np.finfo(np.float32).max
            data = np.clip(data, -limit, limit)
    return data.astype(np.float32, copy=False)
