"""How well a predicted mask or box agrees with the true one, one volume at a time.

Decisions:
- Distances are in mm on the volume's own grid, between the border voxels of both: those of which a face neighbour is not
  marked. The 95th percentile is taken each way, and the larger counts, as monai and MedPy do.
- Lesions are components joined by faces, edges or corners. A lesion is found where any of its voxels is predicted; a
  predicted component is false where none of its voxels is marked.
- What one of two empty masks says nothing of is NaN: the Dice where nothing is marked, distances where either is empty.
- A predicted object's box leaves out components below a tenth of its largest one: a single stray voxel would stretch it.
"""

from typing import Any

import numpy as np

STRAY = 0.1
NOTHING = float("nan")


def dice(truth: np.ndarray, found: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of bool masks; NaN where the truth is empty."""
    if not truth.any():
        return NOTHING
    return float(2 * np.count_nonzero(truth & found) / (np.count_nonzero(truth) + np.count_nonzero(found)))


def surface_distances_mm(truth: np.ndarray, found: np.ndarray, spacing_mm: np.ndarray) -> tuple[float, float]:
    """95th percentile of the Hausdorff distance and mean distance of both borders, of bool masks (I, J, K)."""
    from scipy.ndimage import distance_transform_edt

    if not truth.any() or not found.any():
        return NOTHING, NOTHING
    about = _around(truth | found)
    borders = [_border(mask[about]) for mask in (truth, found)]
    away = [distance_transform_edt(~border, sampling=spacing_mm) for border in borders]
    ways = [away[1][borders[0]], away[0][borders[1]]]
    return max(float(np.percentile(way, 95)) for way in ways), float(np.concatenate(ways).mean())


def _border(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)


def _around(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest slices that hold a mask that is not empty."""
    low, high = box_of(mask)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers from 1 (I, J, K) int32 of the components of a mask, 0 elsewhere; and how many there are."""
    from scipy.ndimage import label

    return label(mask, structure=np.ones((3, 3, 3)))


def lesion_counts(truth: np.ndarray, found: np.ndarray) -> tuple[int, int, int]:
    """Lesions found, predicted components that are false, and lesions missed."""
    lesions, count = components(truth)
    predicted, said = components(found)
    hit = len(np.unique(lesions[truth & found]))
    return hit, said - len(np.unique(predicted[truth & found])), count - hit


def box_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First (3,) and past-the-last (3,) voxel of a mask that is not empty."""
    places = [np.flatnonzero(mask.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    return np.array([p[0] for p in places]), np.array([p[-1] + 1 for p in places])


def without_strays(mask: np.ndarray) -> np.ndarray:
    """The mask without components smaller than a tenth of its largest one."""
    numbers, count = components(mask)
    if count < 2:
        return mask
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    return (sizes >= STRAY * sizes.max())[numbers] & mask


def box_iou(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """Intersection over union of two boxes, (first voxel, past-the-last voxel) each."""
    shared = np.clip(np.minimum(first[1], second[1]) - np.maximum(first[0], second[0]), 0, None).prod()
    return float(shared / ((first[1] - first[0]).prod() + (second[1] - second[0]).prod() - shared))


def box_figures(truth: np.ndarray, found: np.ndarray, affine_mm: np.ndarray) -> tuple[float, float]:
    """IoU of the boxes of two masks, and the distance of their centres in mm; an object that is not found has IoU 0."""
    if not truth.any():
        return NOTHING, NOTHING
    if not found.any():
        return 0.0, NOTHING
    true, said = box_of(truth), box_of(without_strays(found))
    apart = (sum(said) - sum(true)) / 2
    return box_iou(true, said), float(np.linalg.norm(affine_mm[:3, :3] @ apart))


def described_box(low: np.ndarray, high: np.ndarray, affine_mm: np.ndarray) -> dict[str, Any]:
    """A box of voxels in patient space: centre_mm (3,) in RAS+, extent_mm (3,) along the grid's axes, low and high."""
    centre = affine_mm[:3, :3] @ ((low + high - 1) / 2) + affine_mm[:3, 3]
    extent = (high - low) * np.linalg.norm(affine_mm[:3, :3], axis=0)
    return {
        "centre_mm": np.round(centre, 3).tolist(), "extent_mm": np.round(extent, 3).tolist(),
        "low": low.tolist(), "high": high.tolist(),
    }  # fmt: skip


def boxes_in(mask: np.ndarray, affine_mm: np.ndarray, values: np.ndarray | None = None) -> list[dict[str, Any]]:
    """The box of each component of a mask, the largest component first, with its volume_ml, and, as its score, the largest
    of `values` (I, J, K) in it where there are any."""
    from scipy.ndimage import find_objects, maximum

    numbers, _ = components(mask)
    places = find_objects(numbers)
    voxel_ml = abs(np.linalg.det(affine_mm[:3, :3])) / 1000
    sizes = np.bincount(numbers.ravel())[1:]
    scores = [] if values is None else maximum(values, numbers, np.arange(len(sizes)) + 1)
    found = []
    for number in np.argsort(-sizes, kind="stable"):
        where = places[number]
        box = described_box(np.array([s.start for s in where]), np.array([s.stop for s in where]), affine_mm)
        told = {} if values is None else {"score": round(float(scores[number]), 4)}
        found.append({**told, "volume_ml": round(float(sizes[number] * voxel_ml), 4), **box})
    return found


def case_figures(truth: np.ndarray, found: np.ndarray, affine_mm: np.ndarray) -> dict[str, float]:
    """All figures of one case, bool masks (I, J, K) on one grid."""
    spacing = np.linalg.norm(affine_mm[:3, :3], axis=0)
    hd95_mm, surface_mm = surface_distances_mm(truth, found, spacing)
    iou, centre_mm = box_figures(truth, found, affine_mm)
    hit, false, missed = lesion_counts(truth, found)
    return {
        "dice": dice(truth, found), "hd95_mm": hd95_mm, "surface_mm": surface_mm, "box_iou": iou,
        "centre_error_mm": centre_mm, "true_lesions": hit, "false_lesions": false, "missed_lesions": missed,
    }  # fmt: skip
