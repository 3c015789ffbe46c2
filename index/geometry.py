"""Where voxels lie: the affine that `to_ras` will give, what plane it shows, and whether it can be true.

Design: everything here works on shape and affine alone, so that a scan reads no pixel. Matrices of three rows are worked
on as plain numbers, which is ten times faster than arrays of that size.
"""

import math
from typing import Any

import numpy as np

from index.ledger import Rejection

SPACING_RANGE_MM = (0.02, 100.0)
ACROSS = ("sagittal", "coronal", "axial")
Axes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def check_affine(affine_mm: np.ndarray) -> None:
    """Raise Rejection bad_geometry unless the affine is finite, invertible, and its voxels are of a possible size."""
    rows = affine_mm.tolist()
    if not all(map(math.isfinite, (value for row in rows for value in row))):
        raise Rejection("bad_geometry", "the affine is not finite")
    edges_mm = _edges_mm(rows)
    if min(edges_mm) < SPACING_RANGE_MM[0] or max(edges_mm) > SPACING_RANGE_MM[1]:
        raise Rejection("bad_geometry", f"voxel edges of {np.round(edges_mm, 6).tolist()} mm")
    (a, b, c), (d, e, f), (g, h, i) = _unit_columns(rows, edges_mm)
    if abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)) < 0.05:
        raise Rejection("bad_geometry", "the axes are not independent")


def orientation_of(affine_mm: np.ndarray) -> Axes:
    """For each voxel axis the patient axis that lies closest (0 right, 1 anterior, 2 superior), and 1 or -1 along it.

    The same as nibabel.orientations.io_orientation, which looks at the rotation nearest to the unit columns. Its elements
    differ from theirs by no more than the norm of their Gram matrix less the identity. Where each column's largest element
    leads by twice that, in a row of its own, the columns tell the answer; elsewhere nibabel does.
    """
    rows = affine_mm.tolist()
    edges_mm = _edges_mm(rows)
    return (_clear_axes(rows, edges_mm) if min(edges_mm) > 0 else None) or _nearest_rotation(affine_mm)


def _clear_axes(rows: list[list[float]], edges_mm: list[float]) -> Axes | None:
    columns = _unit_columns(rows, edges_mm)
    (a, b, c), (d, e, f), (g, h, i) = columns
    skew = math.hypot(a * d + b * e + c * f, a * g + b * h + c * i, d * g + e * h + f * i)
    lead = 1e-6 + 2 * math.sqrt(2) * skew
    found = []
    for column in columns:
        sizes = [abs(value) for value in column]
        _, second, largest = sorted(sizes)
        if not largest > second + lead:
            return None
        target = sizes.index(largest)
        found.append((target, 1 if column[target] > 0 else -1))
    i_axis, j_axis, k_axis = found
    return (i_axis, j_axis, k_axis) if len({i_axis[0], j_axis[0], k_axis[0]}) == 3 else None


def _nearest_rotation(affine_mm: np.ndarray) -> Axes:
    from nibabel.orientations import io_orientation

    first, second, third = ((int(axis), int(sign)) for axis, sign in io_orientation(affine_mm))
    return first, second, third


def _edges_mm(rows: list[list[float]]) -> list[float]:
    (a, b, c, *_), (d, e, f, *_), (g, h, i, *_) = rows[:3]
    return [math.sqrt(a * a + d * d + g * g), math.sqrt(b * b + e * e + h * h), math.sqrt(c * c + f * f + i * i)]


def _unit_columns(rows: list[list[float]], edges_mm: list[float]) -> list[tuple[float, float, float]]:
    x, y, z = rows[:3]
    return [(x[axis] / edge_mm, y[axis] / edge_mm, z[axis] / edge_mm) for axis, edge_mm in enumerate(edges_mm)]


def ras_geometry(shape: tuple[int, int, int], affine_mm: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Shape (3,) and affine (4, 4) that `to_ras` gives an array of this shape and affine, without the array."""
    return _turned(shape, affine_mm, orientation_of(affine_mm))


def _turned(shape: tuple[int, int, int], affine_mm: np.ndarray, axes: Axes) -> tuple[list[int], np.ndarray]:
    turned, back = [0, 0, 0], [[0.0] * 4, [0.0] * 4, [0.0] * 4, [0.0, 0.0, 0.0, 1.0]]
    for axis, (target, sign) in enumerate(axes):
        turned[target] = int(shape[axis])
        back[axis][target] = float(sign)
        back[axis][3] = 0.0 if sign == 1 else shape[axis] - 1.0
    return turned, affine_mm @ np.array(back)


def plane_of(affine_mm: np.ndarray) -> str:
    """'3d' when the longest voxel edge is under 1.35 of the shortest, else the plane across the longest edge.

    `affine_mm` is in RAS+ voxel order, so the axis of the longest edge names the plane.
    """
    return _plane(_edges_mm(affine_mm.tolist()))


def _plane(edges_mm: list[float]) -> str:
    longest_mm = max(edges_mm)
    return "3d" if longest_mm < 1.35 * min(edges_mm) else ACROSS[edges_mm.index(longest_mm)]


def geometry_columns(
    shape: tuple[int, int, int], affine_mm: np.ndarray, slice_axis: int | None = None
) -> dict[str, Any]:
    """The columns shape, affine_mm, spacing_mm, plane of a stored array (I, J, K) and its RAS+ affine.

    `slice_axis` is the stored axis along which slices were excited one by one; it names the plane of a 2D acquisition
    whatever the voxel's shape.
    """
    axes = orientation_of(affine_mm)
    turned, affine = _turned(shape, affine_mm, axes)
    rows = affine.tolist()
    edges_mm = _edges_mm(rows)
    return {
        "shape": turned,
        "affine_mm": [value for row in rows for value in row],
        "spacing_mm": edges_mm,
        "plane": _plane(edges_mm) if slice_axis is None else ACROSS[axes[slice_axis][0]],
        "plane_from": "geometry" if slice_axis is None else "tag",
    }
