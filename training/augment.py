"""MR-honest variation: a series as another scanner, operator or patient position might have given it.

Decisions:
- What needs the native grid (field of view, slice thickness, plane) acts on the Volume before prepare(), once, when a
  shard is written; each step adds only what is cheap: flips, gamma, noise. Artefacts are in artifacts.py.
- Left and right are swapped only where no text names a side.
"""

import math
from dataclasses import replace

import numpy as np
import torch

from models.prepare import Prepared
from models.volume import Volume


def reacquire(volume: Volume, rng: np.random.Generator, may_flip: bool) -> Volume:
    """Another field of view, thicker slices, or the mirror image: cropping and averaging only, no interpolation."""
    data, affine = volume.data[0], volume.affine_mm.copy()
    if rng.random() < 0.5 and may_flip:
        data = data[::-1]
    if rng.random() < 0.5:
        data, affine = _crop(data, affine, rng)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if rng.random() < 0.5 and spacing.max() < 2.6:
        data, affine = _thicken(data, affine, int(rng.integers(3)), rng.uniform(3.0, 7.0))
    return replace(volume, data=np.ascontiguousarray(data)[None], affine_mm=affine)


def _crop(data: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    keep = [max(4, round(n * rng.uniform(0.65, 1.0))) for n in data.shape]
    first = [int(rng.integers(n - k + 1)) for n, k in zip(data.shape, keep, strict=True)]
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ np.array(first) + affine[:3, 3]
    return data[tuple(slice(a, a + k) for a, k in zip(first, keep, strict=True))], moved


def _thicken(data: np.ndarray, affine: np.ndarray, axis: int, thickness_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbouring slices along `axis` until they are about thickness_mm thick; at least four remain."""
    factor = int(thickness_mm / np.linalg.norm(affine[:3, axis]))
    factor = min(factor, data.shape[axis] // 4)
    if factor < 2:
        return data, affine
    count = data.shape[axis] // factor
    shape = list(data.shape)
    shape[axis : axis + 1] = [count, factor]
    cut = np.take(data, range(count * factor), axis=axis).reshape(shape).mean(axis=axis + 1)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, axis] * (factor - 1) / 2
    moved[:3, axis] *= factor
    return cut, moved


def quick_variation(sample: Prepared, generator: torch.Generator, may_flip: bool) -> Prepared:
    """One sample as another run of the scanner might give it: left-right flip where allowed, gamma, gain, noise inside the
    content, jittered spacing and field of view."""

    def uniform(low: float, high: float) -> float:
        return float(torch.rand((), generator=generator)) * (high - low) + low

    pixels, content = sample.pixels, sample.content
    if uniform(0, 1) < 0.5 and may_flip:
        pixels, content = pixels.flip(1), content.clone()
        content[0] = pixels.shape[1] - content[0].flip(-1)
    body = pixels > 0
    pixels = pixels ** math.exp(uniform(-0.35, 0.35)) * uniform(0.9, 1.1)
    noise = torch.randn(pixels.shape, generator=generator) * uniform(0.0, 0.05)
    pixels = torch.where(body, pixels + noise, pixels).clamp(0, 1)
    geometry = sample.geometry + 0.1 * torch.randn(sample.geometry.shape, generator=generator)
    return replace(sample, pixels=pixels, content=content, geometry=geometry)
