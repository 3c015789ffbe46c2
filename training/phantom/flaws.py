"""What goes wrong or is done to images after the signal: distortion, ghosts, ringing, low resolution, empty margins, windows.

- Flaws work on the acquired grid, which is small, so that they cost little.
- Each comes and goes by chance and by strength; most series have few.
"""

import numpy as np

from training.phantom.shapes import smooth_noise


def phase_axis(through: int, rng: np.random.Generator) -> int:
    """An axis in the plane of the slices, other than `through`: along it lines of k-space follow each other in time."""
    return int(rng.choice([axis for axis in range(3) if axis != through]))


def distort(image: np.ndarray, air: np.ndarray, axis: int, rng: np.random.Generator) -> np.ndarray:
    """Echo-planar image (I, J, K): pixels displaced along `axis` and signal lost where the field bends about air.

    air: share of air in each voxel, 0..1.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    field = gaussian_filter(air, 2.5) - gaussian_filter(air, 6.0)
    field += np.float32(0.05) * smooth_noise(image.shape, 0.4 * max(image.shape), rng)
    bend = sum(np.gradient(field, axis=a) ** 2 for a in range(3))
    shift = np.float32(rng.choice([-1, 1]) * rng.uniform(3, 16)) * field
    grid = [np.arange(n, dtype=np.float32).reshape([-1 if a == b else 1 for b in range(3)])
            for a, n in enumerate(image.shape)]  # fmt: skip
    places = [np.broadcast_to(line + (shift if a == axis else 0), image.shape) for a, line in enumerate(grid)]
    moved = map_coordinates(image, places, order=1, mode="nearest")
    return moved * np.exp(np.float32(-rng.uniform(40, 300)) * bend)


def low_resolution(image: np.ndarray, axis: int, share: float) -> np.ndarray:
    """Only the middle `share` of the spatial frequencies along `axis`: coarser, with Gibbs' ringing at edges."""
    spectrum = np.fft.rfft(image, axis=axis)
    kept = max(2, int(share * spectrum.shape[axis]))
    spectrum[tuple(slice(kept, None) if a == axis else slice(None) for a in range(3))] = 0
    return np.asarray(np.fft.irfft(spectrum, n=image.shape[axis], axis=axis), np.float32)


def ghosts(image: np.ndarray, axis: int, rng: np.random.Generator) -> np.ndarray:
    """Copies displaced along `axis`, as breathing, pulsation and restlessness make them."""
    strength, count = float(rng.uniform(0.03, 0.18)), int(rng.integers(2, 7))
    step = image.shape[axis] / count
    found = image * np.float32(1 - strength)
    for number in (1, 2):
        for way in (-1, 1):
            found += np.float32(0.5 * strength / number) * np.roll(image, round(way * number * step), axis)
    return found


def empty_margins(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Zeros on both sides of one axis or two, as interpolation, reformatting and cropping leave them."""
    found = image.copy()
    for axis in rng.choice(3, int(rng.integers(1, 3)), replace=False):
        first, last = (int(rng.uniform(0, 0.09) * image.shape[axis]) for _ in range(2))
        line = np.ones(image.shape[axis], np.float32)
        line[:first], line[image.shape[axis] - last :] = 0, 0
        found *= line.reshape([-1 if a == axis else 1 for a in range(3)])
    return found


def darken_air(image: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Background set to exactly zero below a threshold, as some reconstructions do."""
    return np.where(image > noise * rng.uniform(1.8, 3.4), image, 0)


def window(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stored values: an arbitrary scale, at times clipped above, lifted by an offset or cut to 8 bits."""
    top = float(np.percentile(image, rng.uniform(97, 99.8) if rng.random() < 0.25 else 99.5))
    found = image / np.float32(max(top, 1e-6))
    if rng.random() < 0.3:
        found = np.minimum(found, np.float32(rng.uniform(1.0, 1.3)))
    if rng.random() < 0.08:
        found = found + np.float32(rng.uniform(0.01, 0.15))
    scale = 255.0 if rng.random() < 0.15 else float(np.exp(rng.uniform(np.log(150), np.log(4000))))
    return np.asarray(np.rint(found * scale) if scale == 255.0 else found * scale, np.float32)
