"""A volume of MRI in patient space.

Axes are always (C, I, J, K) against RAS+ millimetres: I grows to the patient's right, J to anterior, K to superior,
as closely as the acquisition allows; the affine carries what is oblique. NumPy only, so that reading needs no torch.
"""

from dataclasses import dataclass

import numpy as np

from models.errors import DecipherError


@dataclass(frozen=True)
class Volume:
    """data: float32 (1, I, J, K) in RAS+ voxel order; affine_mm: float64 (4, 4), voxel index to RAS+ millimetres;
    sequence: what the catalogue calls it, None where that is unknown."""

    data: np.ndarray
    affine_mm: np.ndarray
    sequence: str | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.shape[0] != 1 or self.affine_mm.shape != (4, 4):
            raise DecipherError(
                f"A volume is (1, I, J, K) with a (4, 4) affine; got {self.data.shape} and {self.affine_mm.shape}."
            )

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel edge lengths (3,) in mm along I, J, K."""
        return np.linalg.norm(self.affine_mm[:3, :3], axis=0)

    @property
    def extent_mm(self) -> np.ndarray:
        """Edge lengths (3,) of the whole grid in mm along I, J, K."""
        return self.spacing_mm * np.array(self.data.shape[1:])


def to_ras(data: np.ndarray, affine_mm: np.ndarray) -> Volume:
    """Flip and permute the three axes of `data` (I, J, K) so that they lie closest to RAS+; no resampling.

    The assignment of voxel axes to patient axes is nibabel's (io_orientation): unique even for 45-degree obliques.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    orientation = io_orientation(affine_mm)
    if np.isnan(orientation).any():
        raise DecipherError("The affine has a dropped axis: the volume's orientation cannot be told.")
    turned = apply_orientation(data, orientation)
    affine = affine_mm @ inv_ornt_aff(orientation, data.shape)
    return Volume(np.ascontiguousarray(turned, dtype=np.float32)[None], np.asarray(affine, dtype=np.float64))
