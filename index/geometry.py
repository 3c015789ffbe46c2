"""Where voxels lie: the affine that `to_ras` will give, what plane it shows, and whether it can be true.

Design: everything here works on shape and affine alone, so that a scan reads no pixel.
"""

from typing import Any

import numpy as np

from index.ledger import Rejection

SPACING_RANGE_MM = (0.02, 100.0)
ACROSS = ("sagittal", "coronal", "axial")


def check_affine(affine_mm: np.ndarray) -> None:
    """Raise Rejection bad_geometry unless the affine is finite, invertible, and its voxels are of a possible size."""
    if not np.isfinite(affine_mm).all():
        raise Rejection("bad_geometry", "the affine is not finite")
    edges_mm = np.linalg.norm(affine_mm[:3, :3], axis=0)
    if edges_mm.min() < SPACING_RANGE_MM[0] or edges_mm.max() > SPACING_RANGE_MM[1]:
        raise Rejection("bad_geometry", f"voxel edges of {np.round(edges_mm, 6).tolist()} mm")
    if abs(np.linalg.det(affine_mm[:3, :3] / edges_mm)) < 0.05:
        raise Rejection("bad_geometry", "the axes are not independent")


def ras_geometry(shape: tuple[int, int, int], affine_mm: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Shape (3,) and affine (4, 4) that `to_ras` gives an array of this shape and affine, without the array."""
    from nibabel.orientations import inv_ornt_aff, io_orientation

    orientation = io_orientation(affine_mm)
    turned = [0, 0, 0]
    for axis, target in enumerate(orientation[:, 0].astype(int)):
        turned[target] = int(shape[axis])
    return turned, affine_mm @ inv_ornt_aff(orientation, shape)


def plane_of(affine_mm: np.ndarray) -> str:
    """'3d' when the longest voxel edge is under 1.35 of the shortest, else the plane across the longest edge.

    `affine_mm` is in RAS+ voxel order, so the axis of the longest edge names the plane.
    """
    edges_mm = np.linalg.norm(affine_mm[:3, :3], axis=0)
    if edges_mm.max() < 1.35 * edges_mm.min():
        return "3d"
    return ACROSS[int(edges_mm.argmax())]


def geometry_columns(
    shape: tuple[int, int, int], affine_mm: np.ndarray, slice_axis: int | None = None
) -> dict[str, Any]:
    """The columns shape, affine_mm, spacing_mm, plane of a stored array (I, J, K) and its RAS+ affine.

    `slice_axis` is the stored axis along which slices were excited one by one; it names the plane of a 2D acquisition
    whatever the voxel's shape.
    """
    from nibabel.orientations import io_orientation

    turned, affine = ras_geometry(shape, affine_mm)
    plane, source = plane_of(affine), "geometry"
    if slice_axis is not None:
        plane, source = ACROSS[int(io_orientation(affine_mm)[slice_axis, 0])], "tag"
    return {
        "shape": turned,
        "affine_mm": [float(value) for value in affine.ravel()],
        "spacing_mm": [float(value) for value in np.linalg.norm(affine[:3, :3], axis=0)],
        "plane": plane,
        "plane_from": source,
    }
