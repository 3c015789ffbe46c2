"""Masks from a volume's grid to the encoder's box, and maps from the box back to the volume's grid.

Decisions:
- The box lies along the volume's own axes (see models.prepare), so both ways go axis by axis, as three small matrices.
- To the box: the share of each box voxel that is marked, exact, so that a lesion smaller than a voxel keeps its volume.
- Back: linear interpolation between voxel centres, the last ones held to the edge; 0 beyond what the box shows.
"""

import numpy as np

from models.errors import DecipherError


def shares_in_box(mask: np.ndarray, volume_affine_mm: np.ndarray, box_affine_mm: np.ndarray, box: tuple) -> np.ndarray:
    """float32 (box): the share of every box voxel that lies in `mask` (I, J, K) bool on the volume's RAS+ grid."""
    step, first = along_axes(volume_affine_mm, box_affine_mm)
    weights = [_overlaps(box[a], mask.shape[a], step[a], first[a]) for a in range(3)]
    return _by_axis(mask, weights)


def to_volume(
    values: np.ndarray, content: np.ndarray, volume_affine_mm: np.ndarray, box_affine_mm: np.ndarray, shape: tuple
) -> np.ndarray:
    """float32 (shape): a map (I, J, K) on the box, of which `content` (3, 2) holds data, on the volume's RAS+ grid."""
    step, first = along_axes(volume_affine_mm, box_affine_mm)
    weights = [_between(content[a], values.shape[a], shape[a], step[a], first[a]) for a in range(3)]
    return _by_axis(values, weights)


def along_axes(volume_affine_mm: np.ndarray, box_affine_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Step (3,) and first centre (3,) of the box's voxels, in voxels of the volume."""
    within = np.linalg.inv(volume_affine_mm) @ box_affine_mm
    step = np.diag(within)[:3]
    if not np.allclose(within[:3, :3], np.diag(step), atol=1e-4 * step.max()) or step.min() <= 0:
        raise DecipherError("The box does not lie along the axes of the volume.", "Prepare this volume itself.")
    return step, within[:3, 3]


def _overlaps(boxes: int, voxels: int, step: float, first: float) -> np.ndarray:
    """(boxes, voxels): the share of each box voxel that each volume voxel covers along one axis."""
    low = first + step * (np.arange(boxes) - 0.5)
    edge = np.arange(voxels) - 0.5
    covered = np.minimum(low[:, None] + step, edge + 1) - np.maximum(low[:, None], edge)
    return np.clip(covered, 0, None) / step


def _between(content: np.ndarray, boxes: int, voxels: int, step: float, first: float) -> np.ndarray:
    """(voxels, boxes): weights of the two box voxels about each volume voxel's centre along one axis."""
    place = (np.arange(voxels) - first) / step
    low, high = int(content[0]), int(content[1]) - 1
    seen = (place >= low - 0.5) & (place <= high + 0.5)
    held = np.clip(place, low, high)
    near = np.minimum(np.floor(held).astype(int), max(low, high - 1))
    weights = np.zeros((voxels, boxes))
    weights[np.arange(voxels), near] = near + 1 - held
    weights[np.arange(voxels), np.minimum(near + 1, high)] += held - near
    return weights * seen[:, None]


def _by_axis(values: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Each axis of (I, J, K) through its matrix (new, old), the one that shrinks most first."""
    found = values.astype(np.float32)
    for axis in sorted(range(3), key=lambda a: weights[a].shape[0] / weights[a].shape[1]):
        found = np.moveaxis(np.tensordot(weights[axis].astype(np.float32), found, (1, axis)), 0, axis)
    return np.ascontiguousarray(found)
