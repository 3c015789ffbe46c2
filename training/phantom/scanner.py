"""Geometry of a series, and the reading of a signal on it; thermal noise.

- The signal is made on the isotropic grid, blurred to the acquired voxel (a Gaussian whose width at half height is the
  slice thickness across the slices and the pixel in the plane), then read at the acquired voxel centres: partial volume.
  Of an oblique view the blur is laid along the grid's axes, as much as the voxel reaches along each.
- The acquired grid is in RAS+ order and turned by a few degrees, or laid across a direction, so a series is oblique as
  real ones are.
- Noise is Rician: the magnitude of complex Gaussian noise.
"""

from dataclasses import dataclass

import numpy as np

NORMAL_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
MOST_SLICES = 40
WIDTH_TO_DEVIATION = 1 / 2.355


@dataclass(frozen=True)
class Geometry:
    """shape (3,) and affine_mm (4, 4) of the acquired grid in RAS+ order; plane; slice thickness in mm (3d: the voxel)."""

    shape: tuple[int, int, int]
    affine_mm: np.ndarray
    plane: str
    thickness_mm: float

    @property
    def spacing_mm(self) -> np.ndarray:
        """Distances (3,) in mm between voxel centres."""
        return np.linalg.norm(self.affine_mm[:3, :3], axis=0)


def draw_geometry(
    plane: str,
    centre_mm: np.ndarray,
    extent_mm: np.ndarray,
    rng: np.random.Generator,
    max_voxels: int = 96,
    slice_mm: tuple[float, float] = (3.5, 6.5),
    tilt_deg: float = 4.0,
    part_chance: float = 0.3,
    normal: np.ndarray | None = None,
) -> Geometry:
    """A field of view about `extent_mm` (3,) round `centre_mm` (3,): thick slices with a gap in `plane`, or 3d.

    slice_mm: range of the distance between slices; at most MOST_SLICES of them, so a wide body is covered in part;
    part_chance: how often a stack covers two fifths to nine tenths of the field, and a quarter as often the plane is cropped;
    tilt_deg: deviation of the obliquity; normal (3,): lay the slices of an axial stack across this direction, and name
    the plane by what they come nearest to.
    """
    centre = np.array(centre_mm, float)
    extent = np.asarray(extent_mm, float) * rng.uniform(0.92, 1.12) * rng.uniform(0.96, 1.04, 3)
    axis = NORMAL_AXIS.get(plane, int(rng.integers(3)))
    _take_part(centre, extent, axis, part_chance, rng)
    fineness = max_voxels * rng.uniform(0.7, 1.0)
    if plane == "3d":
        voxel = float(extent.max() / fineness)
        spacing = voxel * np.where(np.arange(3) == axis, rng.uniform(1, 1.25), 1)
        thickness = voxel
    else:
        in_plane = np.delete(extent, axis).max() / fineness
        across = max(float(rng.uniform(*slice_mm)), 1.45 * in_plane)
        extent[axis] = min(extent[axis], MOST_SLICES * across)
        spacing = np.where(np.arange(3) == axis, across, in_plane)
        thickness = float(across / (rng.uniform(1.0, 1.25) if rng.random() < 0.8 else rng.uniform(1.25, 2.0)))
    shape = np.clip(np.round(extent / spacing), 5, max_voxels).astype(int)
    turn = _rotation(np.deg2rad(rng.normal(0, tilt_deg, 3)))
    affine = np.eye(4)
    affine[:3, :3] = (turn if normal is None else turn @ _across(normal)) * spacing
    centre += rng.normal(0, 0.015, 3) * extent
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    if normal is not None:
        shape, affine, plane = _in_order(shape, affine)
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine, plane, float(thickness))


def _take_part(centre: np.ndarray, extent: np.ndarray, axis: int, chance: float, rng: np.random.Generator) -> None:
    """Shorten the field (3,) along `axis`, and less often along the others, and move its centre (3,), in place."""
    for a in range(3):
        if rng.random() < (chance if a == axis else 0.25 * chance):
            kept = extent[a] * (rng.uniform(0.4, 0.9) if a == axis else rng.uniform(0.7, 0.95))
            centre[a] += rng.uniform(-0.4, 0.4) * (extent[a] - kept)
            extent[a] = kept


def _across(normal: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) whose third column is `normal` and whose first lies level, as far as it can."""
    third = np.asarray(normal, float) / np.linalg.norm(normal)
    first = np.cross([0.0, 1.0, 0.0] if abs(third[1]) < 0.8 else [0.0, 0.0, 1.0], third)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third], axis=1)


def _in_order(shape: np.ndarray, affine_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Shape (3,), affine (4, 4) in RAS+ order and plane of a stack whose slices follow the third axis."""
    from nibabel.orientations import inv_ornt_aff, io_orientation

    orientation = io_orientation(affine_mm)
    places = orientation[:, 0].astype(int)
    turned = np.empty(3, int)
    turned[places] = shape
    plane = next(name for name, axis in NORMAL_AXIS.items() if axis == places[2])
    return turned, affine_mm @ inv_ornt_aff(orientation, tuple(shape)), plane


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of turns about the three axes, in radians."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return turn


def acquire(signal: np.ndarray, source_affine_mm: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Float32 (I, J, K) of `geometry` from a signal (I', J', K') on an isotropic grid; zero outside it."""
    from scipy.ndimage import affine_transform, gaussian_filter1d

    voxel_mm = float(np.linalg.norm(source_affine_mm[:3, 0]))
    deviations = _deviations(geometry, voxel_mm)
    step = np.linalg.inv(source_affine_mm) @ geometry.affine_mm
    first, last = _reach(step, geometry.shape, signal.shape, 3 * deviations + 1)
    signal = np.asarray(signal[tuple(slice(a, b) for a, b in zip(first, last, strict=True))], np.float32)
    for axis in range(3):
        if deviations[axis] > 0.2:
            signal = gaussian_filter1d(signal, deviations[axis], axis=axis, mode="constant", truncate=3.0)
    return affine_transform(
        signal, step[:3, :3], step[:3, 3] - first, output_shape=geometry.shape, order=1, output=np.float32
    )


def _deviations(geometry: Geometry, voxel_mm: float) -> np.ndarray:
    """(3,) of the blur along the source's axes, in its voxels: what the acquired voxel adds to the source's own."""
    width = geometry.spacing_mm.copy()
    if geometry.plane != "3d":
        width[NORMAL_AXIS[geometry.plane]] = geometry.thickness_mm
    cosines = geometry.affine_mm[:3, :3] / geometry.spacing_mm
    squares = cosines**2 @ width**2
    return np.asarray(np.sqrt(np.clip(squares - (0.6 * voxel_mm) ** 2, 0, None)) * WIDTH_TO_DEVIATION / voxel_mm)


def _reach(
    step: np.ndarray, shape: tuple[int, int, int], source: tuple[int, ...], margin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last source voxel (3,) of each axis that the acquired grid can see; one voxel at least."""
    corners = np.array(np.meshgrid(*((0, n - 1) for n in shape), indexing="ij")).reshape(3, -1)
    places = step[:3, :3] @ corners + step[:3, 3:]
    first = np.clip(np.floor(places.min(1) - margin), 0, np.array(source) - 1).astype(int)
    last = np.clip(np.ceil(places.max(1) + margin) + 1, first + 1, source).astype(int)
    return first, last


def rician(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of `image` with complex Gaussian noise of `deviation` in each part."""
    real = image + np.float32(deviation) * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = np.float32(deviation) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.hypot(real, imaginary)
