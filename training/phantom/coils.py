"""What receiver coils do to brightness: elements laid about a part, corrected or not."""

import numpy as np

from training.phantom.scanner import Geometry
from training.phantom.shapes import smooth_noise

FRONT, BACK, RIGHT, LEFT, ABOVE = (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1)
AROUND = (FRONT, BACK, RIGHT, LEFT)
ELEMENTS = {  # region: where its coils lie, as directions from the middle of the field
    "brain": (*AROUND, ABOVE),
    "knee": AROUND,
    "spine": (BACK,),
    "abdomen": (FRONT, BACK),
    "pelvis": (FRONT, BACK),
    "breast": (FRONT, (0.8, 0.8, 0), (-0.8, 0.8, 0)),
    "heart": (FRONT, BACK, (-0.8, 0.6, 0)),
}
CORRECTED = 0.5
"""how often the scanner evens out most of the fall-off"""


def coil_bias(geometry: Geometry, region: str, rng: np.random.Generator) -> np.ndarray:
    """Positive gain (I, J, K): the fall-off from the region's coils, as far as it is not corrected, and a smooth rest."""
    rest = np.float32(rng.uniform(0.03, 0.22)) * smooth_noise(geometry.shape, 1.0 * max(geometry.shape), rng)
    left = rng.uniform(0, 0.2) if rng.random() < CORRECTED else rng.uniform(0.2, 1.0)
    if rng.random() < 0.25:
        left *= 0.2  # the body coil reaches everywhere alike
    return np.exp(rest) * (1 + np.float32(left) * (_fall_off(geometry, region, rng) - 1))


def _fall_off(geometry: Geometry, region: str, rng: np.random.Generator) -> np.ndarray:
    """Sum over elements of a gain that falls by e every `reach`, mean 1, float32 (I, J, K)."""
    extent_mm = geometry.spacing_mm * geometry.shape
    half = extent_mm / 2
    reach_mm = rng.uniform(0.25, 0.7) * float(half.max())
    total = np.zeros(geometry.shape, np.float32)
    for direction in ELEMENTS[region]:
        place = np.asarray(direction) * half * rng.uniform(0.9, 1.15) + rng.normal(0, 0.1, 3) * half
        squares = [
            ((np.arange(n) + 0.5) * step - size / 2 - at) ** 2
            for n, step, size, at in zip(geometry.shape, geometry.spacing_mm, extent_mm, place, strict=True)
        ]
        i, j, k = (np.asarray(square, np.float32) for square in squares)
        away = np.sqrt(i[:, None, None] + j[None, :, None] + k[None, None, :])
        total += np.float32(rng.uniform(0.7, 1.3)) * np.exp(-away / np.float32(reach_mm))
    return total / np.float32(total.mean())
