"""The tissues of a T1-weighted head, by brightness and place, without an atlas.

Decisions:
- A T1-weighted head orders its tissues by brightness: air and compact bone, fluid, grey matter and muscle, white matter, fat.
- The brain is what is as bright as grey or white matter, holds together when its outer millimetres are taken off, and
  includes the middle of the head. The more is found, the more is taken off, until it is no more than a brain can be.
- The skull's cavity is the brain with its gaps closed; what is dark in it is fluid, what is dark around it is bone.
- Globes are the round dark bodies in front that are brighter than air. Large dark spaces elsewhere are air.
- A head whose brightness has another order, or whose brain has no plausible size, gives no map: None.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.volume import Volume
from training.phantom.head_map import HeadMap
from training.phantom.tissue import Tissue

GRID_MM = 2.0
BRAIN_CENTRE_MM = np.array([0.0, -14.0, 8.0])
"""middle of the template's brain, stem and all"""
BRAIN_ML = (550.0, 1330.0)
GREY_OF_WHITE = (0.55, 0.93)
"""range of the ratio of their brightness; contrast agents lead out of it"""
DEEPER = 1.1
"""how much deeper white matter lies than grey, at least"""
BRAIN_STEM_MM = 150
"""from the vertex, at most"""
PASSES = 2


def head_map(volume: Volume, known: Mapping[str, Any]) -> HeadMap | None:
    """The tissues of a T1-weighted head without contrast agent; None where no brain is found.

    known: age_years, sex, lesion and skull_stripped of the catalogue, where they are known.
    """
    data, step_mm = _even(volume)
    found = _brain(data)
    if found is None:
        return None
    data, brain, classes = found
    whole = known.get("skull_stripped") != "yes"
    labels = _labels(data, brain, classes, whole)
    affine = np.diag([*step_mm, 1.0])
    affine[:3, 3] = BRAIN_CENTRE_MM - step_mm * np.argwhere(brain).mean(axis=0)
    healthy = "no" if known.get("lesion") == "no" else None
    return HeadMap(labels, affine, whole, known.get("age_years"), known.get("sex"), healthy)


def _even(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The volume (I, J, K) in voxels of about GRID_MM, its body near 1, and the edges (3,) of the voxels in mm."""
    import torch
    from torch.nn import functional as F

    native = torch.from_numpy(np.nan_to_num(volume.data))[None]
    size = np.maximum(1, np.round(volume.extent_mm / GRID_MM)).astype(int)
    even = F.interpolate(native, size=size.tolist(), mode="trilinear", align_corners=False)[0, 0].numpy()
    data = np.clip(even - np.percentile(even, 1), 0, None)
    return data / np.percentile(data[data > data.mean()], 75), volume.extent_mm / size


def _brain(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The head with its bias taken off, its brain bool (I, J, K), and the brightness (3,) of fluid, grey and white matter."""
    middle = _middle(data)
    classes = _classes(data[middle & (data > 0.1)])
    for _ in range(PASSES):
        brain = _largest(data, classes, middle)
        if brain is None:
            return None
        data = data / _bias(data, brain & (data > classes[1:].mean()))
        classes = _classes(data[brain | (middle & (data > 0.1) & (data < 1.5 * classes[2]))])
    brain = _largest(data, classes, middle)
    return (data, brain, classes) if brain is not None and _plausible(data, brain, classes) else None


def _plausible(data: np.ndarray, brain: np.ndarray, classes: np.ndarray) -> bool:
    """Whether grey and white matter differ as they do on T1, and white matter lies deeper."""
    white = brain & (data > classes[1:].mean())
    depth = _depth_mm(_cavity(brain))
    ratio = classes[1] / classes[2]
    return GREY_OF_WHITE[0] < ratio < GREY_OF_WHITE[1] and depth[white].mean() > DEEPER * depth[brain & ~white].mean()


def _cavity(brain: np.ndarray) -> np.ndarray:
    """Bool (I, J, K): a brain with its fissures and ventricles closed, and the fluid around it."""
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(_depth_mm(_depth_mm(~brain) < 14.0) > 12.0)


def _middle(data: np.ndarray) -> np.ndarray:
    """Bool (I, J, K): an ellipsoid in the upper head, where little but brain lies."""
    inside = np.argwhere(data > 0.3)
    low, high = np.percentile(inside, 0.5, axis=0), np.percentile(inside, 99.5, axis=0)
    centre = np.array(
        [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, high[2] - min(80 / GRID_MM, (high[2] - low[2]) / 2)]
    )
    place = np.indices(data.shape) - centre.reshape(3, 1, 1, 1)
    return ((place * GRID_MM / np.array([50, 60, 45]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 1


def _upper(data: np.ndarray) -> np.ndarray:
    """Bool (1, 1, K): the slabs from the vertex down to where the brain stem ends."""
    vertex = np.flatnonzero((data > 0.3).mean(axis=(0, 1)) > 0.02).max()
    return np.arange(data.shape[2])[None, None] > vertex - BRAIN_STEM_MM / GRID_MM


def _classes(values: np.ndarray) -> np.ndarray:
    """Mean brightness (3,) of the three classes of `values`, darkest first: Lloyd's k-means from percentiles."""
    centres = np.percentile(values, [10, 45, 85])
    for _ in range(30):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
        centres = np.array([values[nearest == k].mean() if (nearest == k).any() else centres[k] for k in range(3)])
    return centres


def _largest(data: np.ndarray, classes: np.ndarray, middle: np.ndarray) -> np.ndarray | None:
    """Bool (I, J, K): what is as bright as brain and hangs together in the middle; None where that is no brain."""
    from scipy.ndimage import label

    fluid, grey, white = classes
    tissue = (data > (fluid + grey) / 2) & (data < white + 0.8 * (white - grey)) & _upper(data)
    depth = _depth_mm(tissue)
    for peel_mm in (2.5, 4.0, 5.6, 7.0):
        parts, count = label(depth > peel_mm)
        if not count:
            return None
        core = parts == 1 + np.bincount(parts[middle], minlength=count + 1)[1:].argmax()
        brain = tissue & (_depth_mm(~core) < peel_mm + 1.8)
        size_ml = brain.sum() * GRID_MM**3 / 1000
        if size_ml < BRAIN_ML[1]:
            return brain if size_ml > BRAIN_ML[0] else None
    return None


def _depth_mm(mask: np.ndarray) -> np.ndarray:
    """Distance in mm of each voxel of a mask (I, J, K) from what is not in it; 0 outside."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(mask) * GRID_MM


def _bias(data: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Gain (I, J, K) of the coils, as white matter shows it; mean 1 there."""
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(white.astype(np.float32), 20 / GRID_MM)
    log = gaussian_filter(np.log(np.clip(data, 0.05, None)) * white, 20 / GRID_MM) / np.clip(weight, 1e-3, None)
    return np.exp(log - log[white].mean())


def _labels(data: np.ndarray, brain: np.ndarray, classes: np.ndarray, whole: bool) -> np.ndarray:
    """Tissue of each voxel, uint8 (I, J, K)."""
    fluid, grey, white = classes
    cavity = _cavity(brain) if whole else data > 0.05
    labels = _around(data / white, cavity) if whole else np.zeros(data.shape, np.uint8)
    labels[cavity] = Tissue.CSF
    labels[cavity & (data > (fluid + grey) / 2)] = Tissue.GRAY_MATTER
    labels[cavity & (data > (grey + white) / 2)] = Tissue.WHITE_MATTER
    vessels = cavity & ~brain & (data > (fluid + grey) / 2) & (_depth_mm(cavity) < 6.0)
    labels[vessels] = Tissue.BLOOD if whole else Tissue.GRAY_MATTER
    return labels


def _around(bright: np.ndarray, cavity: np.ndarray) -> np.ndarray:
    """Tissue, uint8 (I, J, K), of what lies around the skull's cavity; brightness against white matter."""
    from scipy.ndimage import binary_closing, binary_fill_holes

    head = binary_fill_holes(binary_closing(bright > 0.2, iterations=4) | cavity)
    far = _depth_mm(~cavity)
    labels = np.where(head, Tissue.CORTICAL_BONE, Tissue.AIR).astype(np.uint8)
    labels[head & (bright > 0.3)] = Tissue.MUSCLE
    soft = head & ~cavity & (bright > 0.3)
    labels[soft & (bright > _classes(bright[soft])[1:].mean())] = Tissue.FAT
    rim = head & (_depth_mm(head) < 2.5) & (labels != Tissue.FAT)
    labels[rim] = Tissue.SKIN
    spaces = _round(head & (bright < 0.12) & (far > 3), 4.0)
    labels[spaces] = Tissue.AIR
    labels[(_depth_mm(~spaces) < 3.5) & (labels == Tissue.MUSCLE) & (far > 6)] = Tissue.MUCOSA
    front = np.arange(bright.shape[1])[None, :, None] > np.argwhere(cavity)[:, 1].mean() + 30 / GRID_MM
    labels[_round(head & front & (bright > 0.12) & (bright < 0.5) & ~cavity, 6.0)] = Tissue.VITREOUS
    return labels


def _round(mask: np.ndarray, radius_mm: float) -> np.ndarray:
    """What of a mask lies in balls of radius_mm within it: its opening."""
    core = _depth_mm(mask) > radius_mm
    return _depth_mm(~core) < radius_mm if core.any() else core
