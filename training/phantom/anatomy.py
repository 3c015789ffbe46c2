"""Digital patients: a region's label grid with a lesion of known place and size.

- A region is one function from a person to a painted grid; lesions are painted after it, so that the mask is exact.
- Texture is one noise field a patient, scaled by tissue, so that every series of the patient shares it.
"""

from dataclasses import dataclass

import numpy as np

from training.phantom.anatomy_abdomen import build_abdomen
from training.phantom.anatomy_brain import build_brain
from training.phantom.anatomy_knee import build_knee
from training.phantom.anatomy_pelvis import build_pelvis
from training.phantom.anatomy_spine import build_spine
from training.phantom.finding import Finding
from training.phantom.lesion import add_lesion
from training.phantom.person import Person
from training.phantom.shapes import smooth_noise
from training.phantom.tissue import BRAIN, Tissue

BUILDERS = {
    "brain": build_brain,
    "knee": build_knee,
    "abdomen": build_abdomen,
    "spine": build_spine,
    "pelvis": build_pelvis,
}
VOXEL_MM = {"brain": 1.8, "knee": 1.5, "abdomen": 3.0, "spine": 1.8, "pelvis": 3.0}
FIELDS_MM = {  # region, plane: centre and extent of the usual field of view, in mm
    "brain": {"any": ((0, -8, 4), (172, 214, 168)), "sagittal": ((0, -6, 2), (150, 216, 186))},
    "knee": {"any": ((0, -2, 2), (136, 136, 150)), "axial": ((0, -2, 10), (142, 142, 118))},
    "abdomen": {"any": ((0, -4, 10), (370, 270, 230))},
    "spine": {
        "any": ((0, -26, 0), (112, 168, 250)),
        "axial": ((0, -26, -20), (140, 140, 150)),
        "sagittal": ((0, -26, 0), (72, 172, 250)),
    },
    "pelvis": {
        "any": ((0, -4, 4), (350, 230, 190)),
        "sagittal": ((0, -4, 4), (150, 220, 190)),
        "close": ((0, -2, 2), (180, 170, 110)),
    },
}


@dataclass(frozen=True)
class Anatomy:
    """labels uint8 (I, J, K) of Tissue, lesion_mask bool and texture float32 of the same shape; affine_mm (4, 4);
    finding: the lesion in words; chemistry_seed: the patient's own relaxation times; brain_mask: of a head only."""

    region: str
    person: Person
    labels: np.ndarray
    lesion_mask: np.ndarray
    texture: np.ndarray
    affine_mm: np.ndarray
    finding: Finding
    chemistry_seed: int
    brain_mask: np.ndarray | None = None

    def field_mm(self, plane: str, stripped: bool, close: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Centre (3,) and extent (3,) in mm of the field of view that `plane` is usually given in this region;
        `close` asks for the small one of examinations of a single organ, where there is such."""
        fields = FIELDS_MM[self.region]
        centre, extent = fields["close"] if close and "close" in fields else fields.get(plane, fields["any"])
        if stripped:
            centre, extent = (0, -14, 2), (150, 188, 150)
        return np.array(centre) * self.person.scale, np.array(extent) * self.person.scale


def make_anatomy(
    region: str, person: Person, rng: np.random.Generator, voxel_mm: float | None = None, diagnosis: str | None = None
) -> Anatomy:
    """One patient's anatomy; `diagnosis` (of lesion.LESIONS for the region, or "healthy") is drawn where it is not given."""
    voxel = voxel_mm or VOXEL_MM[region]
    space = BUILDERS[region](person, rng, voxel)
    finding, mask = add_lesion(space, region, person, rng, diagnosis)
    texture = smooth_noise(space.labels.shape, 9 / voxel, rng) + smooth_noise(space.labels.shape, 3.5 / voxel, rng)
    texture *= np.float32(0.7)
    brain = brain_mask(space.labels) if region == "brain" else None
    chemistry_seed = int(rng.integers(2**31))
    return Anatomy(region, person, space.labels, mask, texture, space.affine_mm, finding, chemistry_seed, brain)


def brain_mask(labels: np.ndarray) -> np.ndarray:
    """Bool (I, J, K): brain and the fluid within it, as skull stripping leaves it; `labels` of a head."""
    from scipy.ndimage import gaussian_filter

    brain = np.isin(labels, BRAIN).astype(np.float32)
    return (gaussian_filter(brain, 1.6) > 0.45) & np.isin(labels, (*BRAIN, Tissue.CSF, Tissue.BLOOD))
