"""Digital patients: a region's label grid with a lesion of known place and size.

- A region is one function from a person to a painted grid; lesions are painted after it, so that the mask is exact.
- Texture is one noise field a patient, scaled by tissue, so that every series of the patient shares it.
"""

from dataclasses import dataclass

import numpy as np

from training.phantom.anatomy_abdomen import build_abdomen
from training.phantom.anatomy_brain import build_brain
from training.phantom.anatomy_breast import build_breast
from training.phantom.anatomy_heart import build_heart
from training.phantom.anatomy_knee import build_knee
from training.phantom.anatomy_pelvis import build_pelvis
from training.phantom.anatomy_spine import build_spine
from training.phantom.finding import Finding
from training.phantom.head_map import HeadMap
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
    "breast": build_breast,
    "heart": build_heart,
}
VOXEL_MM = {"brain": 1.8, "knee": 1.5, "abdomen": 3.0, "spine": 1.8, "pelvis": 3.0, "breast": 2.4, "heart": 3.0}
Field = tuple[tuple[float, float, float], tuple[float, float, float]]
FIELDS_MM: dict[str, dict[str, Field]] = {  # region, plane: centre and extent of the usual field of view, in mm
    "brain": {"any": ((0, -8, 4), (176, 218, 172)), "sagittal": ((0, -6, -4), (150, 216, 196))},
    "knee": {"any": ((0, -2, 2), (136, 140, 156)), "axial": ((0, -2, 10), (142, 146, 118))},
    "abdomen": {"any": ((0, -4, 10), (370, 270, 230)), "close": ((0, -20, 10), (270, 190, 170))},
    "spine": {
        "any": ((0, -26, 0), (112, 168, 250)),
        "axial": ((0, -26, -20), (150, 150, 130)),
        "sagittal": ((0, -26, 0), (72, 190, 256)),
    },
    "pelvis": {
        "any": ((0, -4, 4), (350, 230, 190)),
        "sagittal": ((0, -4, 4), (150, 220, 190)),
        "close": ((0, -4, -12), (176, 172, 96)),
    },
    "breast": {
        "any": ((0, -10, -4), (340, 220, 190)),
        "sagittal": ((82, 20, -8), (130, 190, 190)),
    },
    "heart": {"any": ((0, -4, -6), (350, 250, 230)), "close": ((-22, 10, 0), (250, 220, 150))},
}
EITHER_SIDE = ("breast",)
"""regions whose sagittal field lies on the right or, as often, on the left"""


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

    def field_mm(
        self, plane: str, stripped: bool, close: bool = False, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Centre (3,) and extent (3,) in mm of the field of view that `plane` is usually given in this region;
        `close` asks for the small one of examinations of a single organ, where there is such; `rng` draws a side."""
        fields = FIELDS_MM[self.region]
        name = "close" if close and "close" in fields else plane if plane in fields else "any"
        centre, extent = ((0, -14, 2), (150, 188, 150)) if stripped else fields[name]
        side = -1 if rng is not None and self.region in EITHER_SIDE and rng.random() < 0.5 else 1
        return np.array(centre) * [side, 1, 1] * self.person.scale, np.array(extent) * self.person.scale


def make_anatomy(
    region: str,
    person: Person,
    rng: np.random.Generator,
    voxel_mm: float | None = None,
    diagnosis: str | None = None,
    head: HeadMap | None = None,
) -> Anatomy:
    """One patient's anatomy; `diagnosis` (of lesion.LESIONS for the region, or "healthy") is drawn where it is not given;
    `head`: of a real head rather than a built one."""
    voxel = voxel_mm or VOXEL_MM[region]
    space = head.build(person, rng, voxel) if head else BUILDERS[region](person, rng, voxel)
    finding, mask = add_lesion(space, region, person, rng, diagnosis)
    texture = smooth_noise(space.labels.shape, 9 / voxel, rng) + smooth_noise(space.labels.shape, 3.5 / voxel, rng)
    texture *= np.float32(0.7)
    brain = brain_mask(space.labels) if region == "brain" else None
    chemistry_seed = int(rng.integers(2**31))
    return Anatomy(region, person, space.labels, mask, texture, space.affine_mm, finding, chemistry_seed, brain)


def brain_mask(labels: np.ndarray) -> np.ndarray:
    """Bool (I, J, K): brain and the fluid within it, as skull stripping leaves it; `labels` of a head.

    The surface is followed into the sulci; deeper in, all fluid is kept, however large the ventricles.
    """
    from scipy.ndimage import gaussian_filter

    brain = np.isin(labels, BRAIN)
    surface = gaussian_filter(brain.astype(np.float32), 1.6) > 0.45
    return (surface | _deep(brain)) & np.isin(labels, (*BRAIN, Tissue.CSF, Tissue.BLOOD))


def _deep(brain: np.ndarray, closed: float = 10.0, below: float = 3.0) -> np.ndarray:
    """Bool (I, J, K): what lies `below` voxels under the surface of a brain whose gaps of up to twice `closed` are closed.
    Every second voxel is looked at."""
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(brain[::2, ::2, ::2], 6)
    hull = distance_transform_edt(distance_transform_edt(~padded) < closed / 2) > (closed + below) / 2
    whole = hull[6:-6, 6:-6, 6:-6].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    return whole[: brain.shape[0], : brain.shape[1], : brain.shape[2]]
