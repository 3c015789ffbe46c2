"""A real head as a map of tissues, from which digital patients with that anatomy are built.

Decisions:
- Maps lie in the template's millimetres, brain on brain, so that lesions find their places; they keep their own size.
- A map's voxels are the person's; what varies are a warp, a scale and the mirror image.
- What came without a skull is scanned without one.
"""

from dataclasses import dataclass

import numpy as np

from training.phantom.person import Person
from training.phantom.shapes import Space, make_space
from training.phantom.tissue import Tissue

WARPS = ((75.0, 3.0), (28.0, 1.0))
"""(distance of knots, deviation) in mm: somewhat more than of built heads, since there are few real ones"""


@dataclass(frozen=True)
class HeadMap:
    """labels uint8 (I, J, K) of Tissue on a grid whose affine_mm (4, 4), without rotation, leads to template mm; whole: with
    skull and scalp; age_years, sex: of the person, lesion: "no" of a healthy one; None where not known."""

    labels: np.ndarray
    affine_mm: np.ndarray
    whole: bool = True
    age_years: float | None = None
    sex: str | None = None
    lesion: str | None = None

    def build(self, person: Person, rng: np.random.Generator, voxel_mm: float) -> Space:
        """The head on a grid of `voxel_mm`, warped, scaled and mirrored at random, without lesions of ours."""
        from scipy.ndimage import map_coordinates

        step, first = np.diag(self.affine_mm)[:3], self.affine_mm[:3, 3]
        last = first + step * (np.array(self.labels.shape) - 1)
        mirror = bool(rng.random() < 0.5)
        low, high = (np.array([-last[0], *first[1:]]), np.array([-first[0], *last[1:]])) if mirror else (first, last)
        space = make_space(low, high, voxel_mm, rng, WARPS, person.scale, mirror)
        places = (space.points_mm - first.reshape(3, 1, 1, 1)) / step.reshape(3, 1, 1, 1)
        space.labels[:] = map_coordinates(self.labels, places, order=0, mode="constant", cval=Tissue.AIR)
        return space
