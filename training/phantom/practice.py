"""What is customary: which sequences and planes a region is scanned with, in what slices, fields and orientations.

- Every sequence and every plane is given to every region at least now and then, so that the one never tells the other.
"""

import numpy as np

from training.phantom.protocol import SEQUENCES

PLANES = ("axial", "sagittal", "coronal", "3d")
_OFTEN: dict[str, dict[str, float]] = {  # beyond SELDOM, in parts of a hundred
    "brain": {"T1": 13, "T1C": 12, "T2": 14, "FLAIR": 18, "PD": 6, "T2STAR": 4, "DWI": 5, "ADC": 5, "MRA": 3,
              "SWI": 3, "EPI": 4},
    "knee": {"T1": 15, "T2": 16, "PD": 24, "STIR": 8, "T2STAR": 4},
    "abdomen": {"T1": 14, "T1C": 12, "T2": 20, "STIR": 3, "DWI": 6, "ADC": 6, "CINE": 4, "DCE": 6, "T2STAR": 3},
    "spine": {"T1": 20, "T1C": 10, "T2": 24, "STIR": 12, "T2STAR": 5},
    "pelvis": {"T1": 12, "T1C": 7, "T2": 28, "STIR": 4, "DWI": 7, "ADC": 8, "DCE": 5},
    "breast": {"T1": 10, "T1C": 20, "T2": 12, "STIR": 7, "DWI": 6, "ADC": 6, "DCE": 20},
    "heart": {"CINE": 26, "T1": 8, "T1C": 14, "T2": 8, "STIR": 6, "DCE": 4},
}  # fmt: skip
SELDOM = 2.5
PLANE_WEIGHTS = {  # axial, sagittal, coronal, 3d
    "brain": (0.5, 0.12, 0.1, 0.28),
    "knee": (0.22, 0.42, 0.22, 0.14),
    "abdomen": (0.54, 0.07, 0.27, 0.12),
    "spine": (0.27, 0.52, 0.08, 0.13),
    "pelvis": (0.5, 0.22, 0.18, 0.1),
    "breast": (0.52, 0.2, 0.06, 0.22),
    "heart": (0.66, 0.1, 0.12, 0.12),
}
SLICE_MM = {
    "brain": (2.0, 6.5),
    "knee": (2.2, 5.0),
    "abdomen": (3.0, 9.0),
    "spine": (2.5, 5.5),
    "pelvis": (3.0, 7.5),
    "breast": (1.5, 5.0),
    "heart": (5.0, 10.0),
}
CLOSE = {"pelvis": 0.45, "heart": 0.55, "abdomen": 0.2}
"""how often the field is that of one organ"""
ECHO_PLANAR = ("DWI", "ADC", "EPI")
NORMAL_MM = {  # views of the heart by the direction across their slices; its long axis runs to the left, forward and down
    "short axis": (-0.62, 0.55, -0.56),
    "four chamber": (-0.28, 0.5, 0.82),
    "two chamber": (0.73, 0.67, -0.15),
}


def sequence_weights(region: str) -> np.ndarray:
    """(len(SEQUENCES),) how often each sequence is made of a region; together 1."""
    weights = np.array([SELDOM + _OFTEN[region].get(name, 0.0) for name in SEQUENCES])
    return weights / weights.sum()


def draw_sequences(region: str, rng: np.random.Generator) -> list[str]:
    """Two to four different sequences of a visit."""
    count = int(rng.integers(2, 5))
    return [str(s) for s in rng.choice(SEQUENCES, count, replace=False, p=sequence_weights(region))]


def draw_plane(region: str, sequence: str, rng: np.random.Generator) -> str:
    """One of PLANES; echo-planar series are mostly axial, angiography mostly 3D."""
    plane = str(rng.choice(PLANES, p=PLANE_WEIGHTS[region]))
    if sequence in ECHO_PLANAR and rng.random() < 0.75:
        return "axial"
    return "3d" if sequence in ("MRA", "SWI", "DCE") and rng.random() < 0.4 else plane


def draw_view(region: str, plane: str, rng: np.random.Generator) -> np.ndarray | None:
    """Direction (3,) across the slices of an oblique view; None for slices along the body's axes."""
    if region != "heart" or plane != "axial" or rng.random() < 0.35:
        return None
    names = list(NORMAL_MM)
    return np.array(NORMAL_MM[str(rng.choice(names, p=[0.5, 0.3, 0.2]))])
