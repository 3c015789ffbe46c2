"""What the scanner adds: geometry, slice profile, coil bias, noise.

- The signal is made on the isotropic grid, blurred to the acquired voxel (a Gaussian whose width at half height is the
  slice thickness across the slices and the pixel in the plane), then read at the acquired voxel centres: partial volume.
- The acquired grid is built in RAS+ order and turned by a few degrees, so a series is oblique as real ones are.
- Noise is Rician: the magnitude of complex Gaussian noise.
"""

from dataclasses import dataclass

import numpy as np

from training.phantom.shapes import smooth_noise

NORMAL_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
MOST_SLICES = 40
COIL_GAIN = {"spine": (3.5, 0.0), "abdomen": (1.5, 1.5), "pelvis": (1.5, 1.5)}  # of coils on the back and the front
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
) -> Geometry:
    """A field of view about `extent_mm` (3,) round `centre_mm` (3,): thick slices with a gap in `plane`, or 3d.

    slice_mm: range of the distance between slices; at most MOST_SLICES of them, so a wide body is covered in part;
    part_chance: how often a stack covers one half to nine tenths of the field; tilt_deg: deviation of the obliquity.
    """
    centre = np.array(centre_mm, float)
    extent = np.asarray(extent_mm, float) * rng.uniform(0.92, 1.1) * rng.uniform(0.97, 1.03, 3)
    if plane == "3d":
        voxel = float(extent.max() / rng.uniform(0.82 * max_voxels, max_voxels))
        spacing = voxel * np.array([1, 1, 1]) * np.where(np.arange(3) == rng.integers(3), rng.uniform(1, 1.2), 1)
        thickness = voxel
    else:
        axis = NORMAL_AXIS[plane]
        in_plane = np.delete(extent, axis).max() / rng.uniform(0.85 * max_voxels, max_voxels)
        across = max(float(rng.uniform(*slice_mm)), 1.45 * in_plane)
        if rng.random() < part_chance:
            kept = extent[axis] * rng.uniform(0.5, 0.9)
            centre[axis] += rng.uniform(-0.4, 0.4) * (extent[axis] - kept)
            extent[axis] = kept
        extent[axis] = min(extent[axis], MOST_SLICES * across)
        spacing = np.full(3, in_plane)
        spacing[axis] = across
        thickness = float(across / rng.uniform(1.0, 1.25))
    shape = np.clip(np.round(extent / spacing), 5, max_voxels).astype(int)
    turn = _rotation(np.deg2rad(rng.normal(0, tilt_deg, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    centre += rng.normal(0, 0.015, 3) * extent
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine, plane, float(thickness))


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
    width = geometry.spacing_mm.copy()
    if geometry.plane != "3d":
        width[NORMAL_AXIS[geometry.plane]] = geometry.thickness_mm
    for axis in range(3):
        deviation = np.sqrt(max(width[axis] ** 2 - (0.6 * voxel_mm) ** 2, 0.0)) * WIDTH_TO_DEVIATION / voxel_mm
        if deviation > 0.2:
            signal = gaussian_filter1d(signal, deviation, axis=axis, mode="constant", truncate=3.0)
    step = np.linalg.inv(source_affine_mm) @ geometry.affine_mm
    return affine_transform(signal, step[:3, :3], step[:3, 3], output_shape=geometry.shape, order=1, output=np.float32)


def coil_bias(geometry: Geometry, region: str, rng: np.random.Generator) -> np.ndarray:
    """Positive gain (I, J, K): the smooth rest that correction leaves, and the fall-off of coils laid on back and front."""
    rest = np.float32(rng.uniform(0.03, 0.2)) * smooth_noise(geometry.shape, 1.0 * max(geometry.shape), rng)
    back, front = COIL_GAIN.get(region, (0.0, 0.0))
    deep_mm = (np.arange(geometry.shape[1]) + 0.5) * geometry.spacing_mm[1]
    reach_mm, uncorrected = rng.uniform(40, 90), rng.uniform(0, 1)
    gain = 1 + uncorrected * (back * np.exp(-deep_mm / reach_mm) + front * np.exp(-deep_mm[::-1] / reach_mm))
    return np.exp(rest) * gain.astype(np.float32)[None, :, None]


def rician(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of `image` with complex Gaussian noise of `deviation` in each part."""
    real = image + np.float32(deviation) * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = np.float32(deviation) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.hypot(real, imaginary)
