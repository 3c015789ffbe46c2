"""Variation keeps what it must: places in the patient, labels' planes, content bounds; and is reproducible."""

import numpy as np
import pytest
import torch

from index.geometry import plane_of
from models.prepare import Prepared
from models.volume import Volume
from training.augment import _crop, _thicken, content_of, pixel_variation, quick_variation, random_box, reacquire


def ramp(shape: tuple[int, int, int] = (24, 30, 36)) -> Volume:
    """Every voxel holds its own superior coordinate in mm."""
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = [-20, -30, 10]
    k = np.arange(shape[2]) * 1.5 + 10
    return Volume(np.broadcast_to(k, shape).astype(np.float32)[None].copy(), affine)


def places_mm(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Superior coordinate (mm) of every voxel by the affine."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in data.shape), indexing="ij"), axis=-1)
    return (grid @ affine[:3, :3].T + affine[:3, 3])[..., 2]


def test_cropping_and_thickening_move_the_affine_with_the_voxels(rng: np.random.Generator) -> None:
    volume = ramp()
    data, affine = _crop(volume.data[0], volume.affine_mm, rng)
    assert data.size < volume.data.size
    assert np.allclose(data, places_mm(data, affine))
    thick, affine = _thicken(volume.data[0], volume.affine_mm, 2, 6.0)
    assert thick.shape == (24, 30, 9) and affine[2, 2] == pytest.approx(6.0)
    assert np.allclose(thick, places_mm(thick, affine))
    assert plane_of(affine) == "axial"


def test_reacquire_is_reproducible_and_never_collapses(rng: np.random.Generator) -> None:
    for seed in range(20):
        first = reacquire(ramp(), np.random.default_rng(seed))
        again = reacquire(ramp(), np.random.default_rng(seed))
        assert np.array_equal(first.data, again.data) and np.array_equal(first.affine_mm, again.affine_mm)
        assert min(first.data.shape[1:]) >= 4


def prepared() -> Prepared:
    pixels = torch.zeros(1, 32, 32, 32)
    pixels[:, 4:28, 2:30, 10:20] = 0.5
    content = torch.tensor([[4, 28], [2, 30], [10, 20]])
    return Prepared(pixels, content, torch.zeros(7), torch.eye(4, dtype=torch.float64))


def batch_of(one: Prepared, count: int) -> Prepared:
    return Prepared(*(torch.stack([getattr(one, f)] * count) for f in Prepared.__dataclass_fields__))


def test_content_of_is_the_box_of_what_is_not_zero() -> None:
    one = prepared()
    assert torch.equal(content_of(one.pixels, one.content), one.content)
    assert torch.equal(content_of(torch.zeros_like(one.pixels), one.content), one.content)


def test_pixel_variation_is_seeded_and_stays_in_range() -> None:
    first = pixel_variation(3)(prepared())
    again = pixel_variation(3)(prepared())
    assert torch.equal(first.pixels, again.pixels)
    assert float(first.pixels.min()) >= 0 and float(first.pixels.max()) <= 1
    others = [pixel_variation(seed)(prepared()).pixels for seed in range(4, 8)]
    assert any(not torch.equal(first.pixels, other) for other in others)


def test_quick_variation_flips_content_with_the_pixels() -> None:
    one = prepared()
    one.pixels[:, 4:16, 2:30, 10:20] = 0.9
    lopsided = Prepared(one.pixels[:, :], torch.tensor([[4, 20], [2, 30], [10, 20]]), one.geometry, one.affine_mm)
    lopsided.pixels[:, 20:] = 0
    varied = quick_variation(batch_of(lopsided, 16), torch.Generator().manual_seed(0))
    firsts = varied.content[:, 0].tolist()
    assert [4, 20] in firsts and [12, 28] in firsts
    for pixels, content in zip(varied.pixels, varied.content, strict=True):
        outside = pixels[0].clone()
        (a, b), (c, d), (e, f) = content.tolist()
        outside[a:b, c:d, e:f] = 0
        assert float(outside.abs().sum()) == 0


def test_a_local_view_is_a_cube_with_its_own_content() -> None:
    local = random_box(batch_of(prepared(), 3), 16, torch.Generator().manual_seed(1))
    assert local.pixels.shape == (3, 1, 16, 16, 16)
    assert ((local.content[..., 0] >= 0) & (local.content[..., 1] <= 16)).all()
    assert (local.content[..., 1] > local.content[..., 0]).all()
