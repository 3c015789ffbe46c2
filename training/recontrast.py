"""Other contrasts from a T1-weighted brain: its intensities, mapped as if another sequence had been run.

Decisions:
- A T1-weighted brain orders fluid, grey matter, white matter and fat by brightness, so one curve over intensity turns it
  into a plausible T2, FLAIR or PD of the same anatomy, skull, coil and noise. It is no physics: partial volume at the
  skull turns into a rim of fluid. It teaches what fluid and grey matter look like on heads that were really scanned.
- The knots of the curve are jittered, since scanners and protocols differ.
"""

import numpy as np

TISSUES = ("air", "edge", "fluid", "grey", "white", "fat", "bright")
T1_KNOTS = np.array([0.0, 0.15, 0.33, 0.73, 1.0, 1.35, 2.2])
"""intensity of TISSUES relative to white matter on T1"""
CONTRASTS = {
    "T1": T1_KNOTS,
    "T2": np.array([0.0, 0.35, 1.45, 0.82, 0.58, 0.85, 1.1]),
    "FLAIR": np.array([0.0, 0.1, 0.2, 0.95, 0.75, 0.95, 1.3]),
    "PD": np.array([0.0, 0.5, 1.02, 1.0, 0.82, 0.95, 1.2]),
}
"""intensity of TISSUES by the sequence that is made"""


def recontrast(pixels: np.ndarray, sequence: str, rng: np.random.Generator) -> np.ndarray:
    """Prepared intensities 0..1 (I, J, K) of a T1-weighted brain to those of `sequence`, float32."""
    value = pixels / np.maximum(1 - pixels, 1e-3)
    relative = value / max(_white_matter(value), 1e-3)
    knots = np.sort(T1_KNOTS * rng.uniform(0.9, 1.1, T1_KNOTS.shape))
    target = CONTRASTS[sequence] * rng.uniform(0.88, 1.12, T1_KNOTS.shape)
    other = np.interp(relative, knots, target)
    body_mean = other.mean(where=other >= 0.999 * other.mean())
    return (other / (other + body_mean)).astype(np.float32)


def _white_matter(value: np.ndarray) -> float:
    """Brightness of white matter: the 85th percentile of the middle of the head, where little else is bright."""
    inside = np.argwhere(value > 0.25)
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    quarter = (high - low) // 4
    middle = value[tuple(slice(a + q, b - q) for a, b, q in zip(low, high, quarter, strict=True))]
    return float(np.percentile(middle[middle > 0.25], 85)) if (middle > 0.25).any() else 1.0
