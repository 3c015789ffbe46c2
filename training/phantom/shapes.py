"""Implicit shapes painted into a warped label grid.

- A shape is a signed distance (mm, negative inside) with a bounding box, so that painting touches only a sub-block.
- Every shape is evaluated at coordinates displaced by smooth noise: one warp makes all organs of a patient individual,
  keeps neighbours adjacent, and breaks left-right symmetry.
- Smooth noise is a cubic B-spline on a coarse random lattice, applied one axis at a time: three matrix products.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from training.phantom.tissue import Tissue

Distance = Callable[[np.ndarray], np.ndarray]
Vector = Sequence[float] | np.ndarray
SPLINE_DEVIATION = 0.479**1.5  # of a cubic B-spline with unit-variance coefficients, in three dimensions


@dataclass(frozen=True)
class Shape:
    """A signed distance in mm over points (3, ...) in mm, and the box (3,), (3,) in mm outside which it is positive."""

    low_mm: np.ndarray
    high_mm: np.ndarray
    distance: Distance


@dataclass(frozen=True)
class Space:
    """labels uint8 (I, J, K) of Tissue; affine_mm (4, 4) of the grid in patient space; points_mm float32 (3, I, J, K):
    where each voxel lies in the template, in template mm; stretch (3,): patient mm per template mm, negative where
    mirrored; slack_mm: the furthest that the warp moves a point, in patient mm."""

    labels: np.ndarray
    points_mm: np.ndarray
    affine_mm: np.ndarray
    stretch: np.ndarray
    slack_mm: float

    @property
    def voxel_mm(self) -> float:
        """Edge length of the isotropic voxels in mm."""
        return float(self.affine_mm[0, 0])

    def block(self, low_mm: np.ndarray, high_mm: np.ndarray) -> tuple[slice, slice, slice]:
        """Index slices that surely hold every voxel whose template place lies between `low_mm` and `high_mm` (3,)."""
        corners = np.stack([np.asarray(low_mm), np.asarray(high_mm)]) * self.stretch - self.affine_mm[:3, 3]
        first = np.floor((corners.min(0) - self.slack_mm) / self.voxel_mm).astype(int)
        last = np.ceil((corners.max(0) + self.slack_mm) / self.voxel_mm).astype(int) + 1
        first, last = np.clip(first, 0, self.labels.shape), np.clip(last, 0, self.labels.shape)
        return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])

    def paint(
        self,
        shapes: Shape | Iterable[Shape],
        tissue: Tissue,
        over: Sequence[Tissue] | None = None,
        grow_mm: float = 0.0,
    ) -> None:
        """Give `tissue` to the voxels inside any of `shapes`, grown by `grow_mm`; only over the tissues in `over`."""
        for shape in (shapes,) if isinstance(shapes, Shape) else shapes:
            block = self.block(shape.low_mm - max(grow_mm, 0), shape.high_mm + max(grow_mm, 0))
            labels = self.labels[block]
            inside = shape.distance(self.points_mm[(slice(None), *block)]) < grow_mm
            if over is not None:
                inside &= np.isin(labels, over)
            labels[inside] = tissue

    def mask(self, shapes: Shape | Iterable[Shape], over: Sequence[Tissue] | None = None) -> np.ndarray:
        """Bool (I, J, K): inside any of `shapes` and, where given, in one of the tissues of `over`."""
        found = np.zeros(self.labels.shape, bool)
        for shape in (shapes,) if isinstance(shapes, Shape) else shapes:
            block = self.block(shape.low_mm, shape.high_mm)
            inside = shape.distance(self.points_mm[(slice(None), *block)]) < 0
            found[block] |= inside if over is None else inside & np.isin(self.labels[block], over)
        return found


def make_space(
    low_mm: Vector,
    high_mm: Vector,
    voxel_mm: float,
    rng: np.random.Generator,
    warps: Sequence[tuple[float, float]] = ((70.0, 3.0), (25.0, 1.0)),
    scale: float = 1.0,
    mirror: bool = False,
) -> Space:
    """An empty grid over a box of the template, in template mm, for a patient `scale` times its size.

    warps: noise fields that move the points, each (knot distance in mm, standard deviation in mm). The patient's own
    proportions vary by 2.5 % an axis; `mirror` exchanges left and right.
    """
    stretch = scale * np.clip(rng.normal(1, 0.025, 3), 0.93, 1.07)
    low, high = np.asarray(low_mm, float) * stretch, np.asarray(high_mm, float) * stretch
    shape = tuple(np.ceil((high - low) / voxel_mm).astype(int))
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = low + voxel_mm / 2
    if mirror:
        stretch[0] *= -1
    points = np.empty((3, *shape), np.float32)
    slack = 0.0
    for axis in range(3):
        shift = sum(size * smooth_noise(shape, knots_mm / voxel_mm, rng) for knots_mm, size in warps)
        slack = max(slack, float(np.abs(shift).max()))
        line = (low[axis] + voxel_mm * (np.arange(shape[axis]) + 0.5)).astype(np.float32)
        points[axis] = (shift + line.reshape([-1 if a == axis else 1 for a in range(3)])) / np.float32(stretch[axis])
    return Space(np.zeros(shape, np.uint8), points, affine, stretch, slack)


def smooth_noise(shape: Sequence[int], knot_voxels: float | Vector, rng: np.random.Generator) -> np.ndarray:
    """Float32 field (I, J, K), mean 0, deviation 1, smooth over about `knot_voxels` voxels (one number or three)."""
    knots = np.maximum(np.broadcast_to(np.asarray(knot_voxels, float), 3), 1.0)
    bases = [_spline_basis(n, float(knot)) for n, knot in zip(shape, knots, strict=True)]
    field = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32)
    for basis in bases:
        field = np.tensordot(field, basis, axes=(0, 1))
    return np.ascontiguousarray(field) / np.float32(SPLINE_DEVIATION)


def _spline_basis(length: int, knot_voxels: float) -> np.ndarray:
    """Values (length, knots) of the uniform cubic B-splines at each voxel of a line."""
    position = np.arange(length)[:, None] / knot_voxels
    gap = np.abs(position - (np.arange(int(length / knot_voxels) + 4) - 1)[None])
    near = 2 / 3 - gap**2 + gap**3 / 2
    far = np.clip(2 - gap, 0, None) ** 3 / 6
    return np.where(gap < 1, near, far).astype(np.float32)


def ellipsoid(centre_mm: Vector, radii_mm: Vector) -> Shape:
    """An ellipsoid along the patient's axes; distance is first-order exact near the surface."""
    centre, radii = np.asarray(centre_mm, np.float32), np.asarray(radii_mm, np.float32)

    def distance(points: np.ndarray) -> np.ndarray:
        scaled = (points - _column(centre, points)) / _column(radii, points)
        norm = np.sqrt(np.einsum("a...,a...->...", scaled, scaled))
        scaled /= _column(radii, points)
        slope = np.sqrt(np.einsum("a...,a...->...", scaled, scaled)) + np.float32(1e-6)
        return norm * (norm - 1) / slope

    return Shape(centre - radii, centre + radii, distance)


def turned_ellipsoid(centre_mm: Vector, axes: np.ndarray, radii_mm: Vector) -> Shape:
    """An ellipsoid along the rows of `axes` (3, 3), orthonormal; its bounding box is that of a ball."""
    centre, turn, reach = np.asarray(centre_mm, np.float32), np.asarray(axes, np.float32), float(max(radii_mm))
    straight = ellipsoid((0, 0, 0), radii_mm)

    def distance(points: np.ndarray) -> np.ndarray:
        return straight.distance(np.tensordot(turn, points - _column(centre, points), axes=(1, 0)))

    return Shape(centre - reach, centre + reach, distance)


def capsule(
    start_mm: Vector,
    end_mm: Vector,
    start_radius_mm: float,
    end_radius_mm: float | None = None,
    flatten: Vector = (1.0, 1.0, 1.0),
) -> Shape:
    """A rod with round ends whose radius runs linearly; `flatten` (3,) stretches the cross-section along each axis."""
    end_radius = start_radius_mm if end_radius_mm is None else end_radius_mm
    stretch = np.asarray(flatten, np.float32)
    start, end = np.asarray(start_mm, np.float32) / stretch, np.asarray(end_mm, np.float32) / stretch
    axis = end - start
    length_squared = float(axis @ axis) + 1e-9

    def distance(points: np.ndarray) -> np.ndarray:
        offset = points / _column(stretch, points) - _column(start, points)
        along = np.clip(np.tensordot(axis, offset, axes=(0, 0)) / np.float32(length_squared), 0, 1)
        offset -= _column(axis, points) * along
        radius = np.float32(start_radius_mm) + np.float32(end_radius - start_radius_mm) * along
        return np.sqrt(np.einsum("a...,a...->...", offset, offset)) - radius

    reach = max(start_radius_mm, end_radius) * stretch
    return Shape(np.minimum(start, end) * stretch - reach, np.maximum(start, end) * stretch + reach, distance)


def tube(path_mm: Sequence[Vector], radii_mm: Sequence[float] | float) -> list[Shape]:
    """Capsules along a path of points (n, 3) in mm, with one radius or one a point."""
    radii = [float(radii_mm)] * len(path_mm) if isinstance(radii_mm, float | int) else list(radii_mm)
    return [capsule(path_mm[i], path_mm[i + 1], radii[i], radii[i + 1]) for i in range(len(path_mm) - 1)]


def pair(shapes: Shape | Iterable[Shape]) -> list[Shape]:
    """The shapes and their mirror images about the plane between left and right (x = 0)."""
    found = [shapes] if isinstance(shapes, Shape) else list(shapes)
    return found + [mirrored(shape) for shape in found]


def mirrored(shape: Shape) -> Shape:
    """The mirror image of a shape about x = 0."""
    flip = np.array([-1, 1, 1], np.float32)
    low, high = shape.low_mm * flip, shape.high_mm * flip
    return Shape(np.minimum(low, high), np.maximum(low, high), lambda p: shape.distance(p * _column(flip, p)))


def _column(vector: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A vector (3,) shaped to broadcast over points (3, ...)."""
    return vector.reshape((3,) + (1,) * (points.ndim - 1))


def blend(first: np.ndarray, second: np.ndarray, radius_mm: float) -> np.ndarray:
    """Smooth union of two signed distances: the polynomial smooth minimum with a fillet of `radius_mm`."""
    near = np.clip(0.5 + 0.5 * (second - first) / radius_mm, 0, 1)
    return second + (first - second) * near - radius_mm * near * (1 - near)
