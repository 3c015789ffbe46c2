"""MR-honest variation: a series as another scanner, operator or patient position might have given it.

Decisions:
- What needs the native grid (field of view, slice thickness, plane) acts on the Volume before prepare(). What acts on
  prepared pixels (pose, coil bias, Gibbs ringing, blur) is monai's.
- Both are slow beside the network on a CPU, so they run once, when a shard is written; each step adds only what is
  cheap: flips, gamma, noise.
- Left and right are swapped freely, since no caption here names a side.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from models.prepare import Prepared
from models.volume import Volume


def reacquire(volume: Volume, rng: np.random.Generator) -> Volume:
    """Another field of view, thicker slices, or the mirror image: cropping and averaging only, no interpolation."""
    data, affine = volume.data[0], volume.affine_mm.copy()
    if rng.random() < 0.5:
        data = data[::-1]
    if rng.random() < 0.5:
        data, affine = _crop(data, affine, rng)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if rng.random() < 0.5 and spacing.max() < 2.6:
        data, affine = _thicken(data, affine, int(rng.integers(3)), rng.uniform(3.0, 7.0))
    return Volume(np.ascontiguousarray(data)[None], affine)


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


def pixel_variation(seed: int) -> Callable[[Prepared], Prepared]:
    """A seeded monai pipeline on prepared pixels: pose, coil bias, Gibbs ringing, blur."""
    from monai.transforms import Compose, RandAffine, RandBiasField, RandGaussianSmooth, RandGibbsNoise

    pipeline = Compose(
        [
            RandAffine(
                prob=0.8,
                rotate_range=(0.25,) * 3,
                scale_range=(0.15,) * 3,
                translate_range=(4,) * 3,
                padding_mode="zeros",
                mode="bilinear",
            ),
            RandBiasField(prob=0.4, coeff_range=(0.0, 0.3)),
            RandGibbsNoise(prob=0.15, alpha=(0.3, 0.7)),
            RandGaussianSmooth(prob=0.2, sigma_x=(0.3, 0.9), sigma_y=(0.3, 0.9), sigma_z=(0.3, 0.9)),
        ]
    )
    pipeline.set_random_state(seed=seed)

    def vary(prepared: Prepared) -> Prepared:
        pixels = torch.as_tensor(pipeline(prepared.pixels)).as_subclass(torch.Tensor).float().clamp(0, 1)
        return replace(prepared, pixels=pixels, content=content_of(pixels, prepared.content))

    return vary


def content_of(pixels: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """Bounds (3, 2) of what is not zero in pixels (1, S, S, S); `otherwise` where all is zero."""
    there = pixels[0] > 0.01
    bounds = []
    for axis in range(3):
        rows = torch.nonzero(there.movedim(axis, 0).flatten(1).any(dim=1))
        if not len(rows):
            return otherwise
        bounds.append([int(rows[0]), int(rows[-1]) + 1])
    return torch.tensor(bounds)


def quick_variation(batch: Prepared, generator: torch.Generator) -> Prepared:
    """Per sample: left-right flip, gamma, gain, noise inside the content, jittered spacing and field of view."""
    count = len(batch.pixels)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, 1, 1, 1, 1, generator=generator) * (high - low) + low

    pixels, content = batch.pixels, batch.content.clone()
    flip = torch.rand(count, generator=generator) < 0.5
    pixels = torch.where(flip[:, None, None, None, None], pixels.flip(2), pixels)
    box = pixels.shape[-1]
    content[flip, 0] = box - content[flip, 0].flip(-1)
    body = pixels > 0
    pixels = pixels ** uniform(-0.35, 0.35).exp() * uniform(0.9, 1.1)
    noise = torch.randn(pixels.shape, generator=generator) * uniform(0.0, 0.05)
    pixels = torch.where(body, pixels + noise, pixels).clamp(0, 1)
    geometry = batch.geometry + 0.1 * torch.randn(batch.geometry.shape, generator=generator)
    return replace(batch, pixels=pixels, content=content, geometry=geometry)


def random_box(batch: Prepared, size: int, generator: torch.Generator) -> Prepared:
    """A local view: the same random cube of `size` voxels, somewhere in the middle half, cut from every sample."""
    box = batch.pixels.shape[-1]
    low = [int(torch.randint(box // 8, box - size - box // 8 + 1, (1,), generator=generator)) for _ in range(3)]
    cut = batch.pixels[:, :, low[0] : low[0] + size, low[1] : low[1] + size, low[2] : low[2] + size]
    offset = torch.tensor(low)[None, :, None]
    content = (batch.content - offset).clamp(0, size)
    empty = content[..., 0] >= content[..., 1]
    content = torch.where(empty[..., None], torch.tensor([0, size]), content)
    return replace(batch, pixels=cut, content=content)
