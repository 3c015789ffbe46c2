"""What goes wrong in a scanner, done to prepared pixels: pose, resolution, motion, coils, ringing, noise, contrast, blur.

Decisions:
- Too slow for every step, so it happens once a version, when a shard is written.
- Artefacts act on the signal that the scanner measures: prepare()'s v / (v + body mean) is undone before, and done again
  after with the body mean that prepare() would find then. Only contrast is a matter of the prepared intensities.
- What lies outside the content is padding and stays zero; air inside the content gets noise and ghosts, as on a scanner.
- monai has no motion during the acquisition, so k-space is put together here from the lines of moved copies (Shaw et al.,
  2019); and its low resolution is isotropic, where acquisitions save time along one axis.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from models.prepare import Prepared
from training.phantom.flaws import phase_axis

Vary = Callable[[torch.Tensor], torch.Tensor]
BRIGHTEST = 0.97
"""prepared intensity above which signal is cut, since undoing v / (v + mean) has no end there"""


def pixel_variation(seed: int) -> Callable[[Prepared], Prepared]:
    """A seeded chain of artefacts, each at times: every call varies one prepared volume anew. Output is 0..1."""
    from monai.transforms import RandAdjustContrast, RandAffine

    rng = np.random.default_rng(seed)
    pose = RandAffine(
        prob=0.8, rotate_range=(0.25,) * 3, scale_range=(0.15,) * 3, translate_range=(4,) * 3,
        padding_mode="zeros", mode="bilinear",
    )  # fmt: skip
    contrast = RandAdjustContrast(prob=0.25, gamma=(0.75, 1.35), retain_stats=True)
    for transform in (pose, contrast):
        transform.set_random_state(seed=seed)
    acquired = _acquisition(seed)

    def vary(prepared: Prepared) -> Prepared:
        pixels = _plain(pose(prepared.pixels)).clamp(0, 1)
        moved = not torch.equal(pixels, prepared.pixels)
        content = content_of(pixels, prepared.content) if moved else prepared.content
        inside = (slice(None), *(slice(a, b) for a, b in content.tolist()))
        block = pixels[inside]
        measured = _signal(block)
        changed = acquired(measured, prepared.geometry, rng)
        if changed is not measured:
            block = _intensity(changed, _body_mean(changed) / _body_mean(measured))
        found = torch.zeros_like(pixels)
        found[inside] = _plain(contrast(block)).clamp(0, 1)
        return replace(prepared, pixels=found, content=content)

    return vary


def _acquisition(seed: int) -> Callable[[torch.Tensor, torch.Tensor, np.random.Generator], torch.Tensor]:
    """What changes the measured signal (1, i, j, k), in the order of an acquisition; the same object where nothing did."""
    from monai.transforms import Compose, RandBiasField, RandGaussianSmooth, RandGibbsNoise, RandRicianNoise

    blur = RandGaussianSmooth(prob=0.15, sigma_x=(0.3, 0.7), sigma_y=(0.3, 0.7), sigma_z=(0.3, 0.7))
    coils = Compose(
        [RandBiasField(prob=0.4, coeff_range=(0.0, 0.3)), RandGibbsNoise(prob=0.15, alpha=(0.3, 0.6)), blur]
    )
    noise = RandRicianNoise(prob=0.25, std=0.06, sample_std=True)
    for transform in (coils, noise):
        transform.set_random_state(seed=seed + 1)

    def acquired(signal: torch.Tensor, geometry: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        found = signal
        through = int(geometry[:3].argmax())
        if rng.random() < 0.25:
            found = coarsen(found, int(rng.integers(3)), rng.uniform(1.5, 2.5))
        if rng.random() < 0.15:
            found = shaken(found, phase_axis(through, rng), rng)
        elif rng.random() < 0.1:
            found = breathing(found, phase_axis(through, rng), rng)
        return _plain(noise(_plain(coils(found)).clamp(min=0)))

    return acquired


def _plain(found: torch.Tensor) -> torch.Tensor:
    """monai's tensor with metadata as a plain one."""
    return torch.as_tensor(found).as_subclass(torch.Tensor).float()


def _signal(pixels: torch.Tensor) -> torch.Tensor:
    """Prepared intensities to what was measured, in body means."""
    cut = pixels.clamp(max=BRIGHTEST)
    return cut / (1 - cut)


def _intensity(signal: torch.Tensor, body_mean: float) -> torch.Tensor:
    """What prepare() makes of a signal."""
    return signal / (signal + body_mean)


def _body_mean(signal: torch.Tensor) -> float:
    """Mean of what is brighter than the overall mean; 1 where nothing is."""
    body = signal[signal > signal.mean()]
    return float(body.mean()) if body.numel() else 1.0


def coarsen(signal: torch.Tensor, axis: int, factor: float) -> torch.Tensor:
    """As measured `factor` times coarser along one axis: averages, drawn out again to the same (1, i, j, k). The spacing
    of the series stays, as it does on a scanner that interpolates."""
    size, fewer = list(signal.shape[1:]), list(signal.shape[1:])
    fewer[axis] = max(2, round(size[axis] / factor))
    if fewer[axis] >= size[axis]:
        return signal
    averages = F.interpolate(signal[None], size=fewer, mode="area")
    return F.interpolate(averages, size=size, mode="trilinear", align_corners=False)[0]


def shaken(signal: torch.Tensor, axis: int, rng: np.random.Generator) -> torch.Tensor:
    """The patient moves one to three times while the lines of k-space along `axis` are filled: each part of them is from
    another pose, up to 4 degrees and 2 voxels off. The middle of k-space keeps the pose of the volume."""
    lines = signal.shape[axis + 1]
    ends = np.sort(rng.choice(np.arange(1, lines), size=min(int(rng.integers(1, 4)), lines - 1), replace=False))
    part = np.searchsorted(ends, np.arange(lines), side="right")
    middle = part[lines // 2]
    spectrum = torch.fft.fftshift(torch.fft.fft(signal, dim=axis + 1), dim=axis + 1).movedim(axis + 1, 0)
    for number in range(len(ends) + 1):
        if number != middle:
            other = torch.fft.fft(_moved(signal, rng), dim=axis + 1)
            spectrum[part == number] = torch.fft.fftshift(other, dim=axis + 1).movedim(axis + 1, 0)[part == number]
    return torch.fft.ifft(torch.fft.ifftshift(spectrum.movedim(0, axis + 1), dim=axis + 1), dim=axis + 1).abs()


def _moved(signal: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A rigidly moved copy of (1, i, j, k)."""
    from scipy.spatial.transform import Rotation

    half = torch.tensor(signal.shape[:0:-1]) / 2
    turn = torch.from_numpy(
        Rotation.from_rotvec(rng.normal(0, math.radians(2), 3).clip(-0.07, 0.07)).as_matrix()
    ).float()
    shift = torch.from_numpy(rng.normal(0, 1, 3).clip(-2, 2)).float()
    theta = torch.cat([turn * half[None] / half[:, None], (shift / half)[:, None]], dim=1)
    grid = F.affine_grid(theta[None], [1, *signal.shape], align_corners=False)
    return F.grid_sample(signal[None], grid, padding_mode="border", align_corners=False)[0]


def breathing(signal: torch.Tensor, axis: int, rng: np.random.Generator) -> torch.Tensor:
    """Ghosts of a body that sways along `axis` by up to half a voxel, some times over the acquisition: a shift of the body is
    a phase of each line of k-space."""
    lines = signal.shape[axis + 1]
    moments = np.arange(lines) / lines
    sway = rng.uniform(0.15, 0.5) * np.sin(2 * np.pi * (rng.uniform(3, 12) * moments + rng.random()))
    frequency = np.fft.fftshift(np.fft.fftfreq(lines))
    phase = np.fft.ifftshift(np.exp(-2j * np.pi * frequency * (sway - sway[lines // 2])))
    shape = [lines if a == axis + 1 else 1 for a in range(4)]
    ramp = torch.from_numpy(phase.astype(np.complex64)).reshape(shape)
    return torch.fft.ifft(torch.fft.fft(signal, dim=axis + 1) * ramp, dim=axis + 1).abs()


def content_of(pixels: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """Bounds (3, 2) of what is not zero in pixels (1, I, J, K); `otherwise` where all is zero."""
    there = pixels[0] > 0.01
    bounds = []
    for axis in range(3):
        rows = torch.nonzero(there.movedim(axis, 0).flatten(1).any(dim=1))
        if not len(rows):
            return otherwise
        bounds.append([int(rows[0]), int(rows[-1]) + 1])
    return torch.tensor(bounds)
