"""Variation keeps what it must: places in the patient, labels' planes, content bounds; and is reproducible."""

import numpy as np
import pytest
import torch

from index.geometry import plane_of
from models.prepare import Prepared
from models.volume import Volume
from training.augment import _crop, _thicken, quick_variation, reacquire


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
        first = reacquire(ramp(), np.random.default_rng(seed), True)
        again = reacquire(ramp(), np.random.default_rng(seed), True)
        assert np.array_equal(first.data, again.data) and np.array_equal(first.affine_mm, again.affine_mm)
        assert min(first.data.shape[1:]) >= 4


def prepared() -> Prepared:
    pixels = torch.zeros(1, 32, 32, 32)
    pixels[:, 4:28, 2:30, 10:20] = 0.5
    content = torch.tensor([[4, 28], [2, 30], [10, 20]])
    return Prepared(pixels, content, torch.zeros(7), torch.eye(4, dtype=torch.float64))


def test_reacquire_mirrors_only_where_it_may() -> None:
    volume = ramp()
    volume.data[0, :12] += 1000
    sides = {bool(reacquire(volume, np.random.default_rng(seed), True).data[0, 0, 0, 0] > 900) for seed in range(20)}
    assert sides == {True, False}
    assert all(reacquire(volume, np.random.default_rng(seed), False).data[0, 0].mean() > 900 for seed in range(20))


def lopsided() -> Prepared:
    one = prepared()
    one.pixels[:, 20:] = 0
    return Prepared(one.pixels, torch.tensor([[4, 20], [2, 30], [10, 20]]), one.geometry, one.affine_mm)


def test_quick_variation_flips_content_with_the_pixels() -> None:
    found = [quick_variation(lopsided(), torch.Generator().manual_seed(seed), True) for seed in range(16)]
    assert {tuple(one.content[0].tolist()) for one in found} == {(4, 20), (12, 28)}
    for one in found:
        outside = one.pixels[0].clone()
        (a, b), (c, d), (e, f) = one.content.tolist()
        outside[a:b, c:d, e:f] = 0
        assert float(outside.abs().sum()) == 0


def test_quick_variation_never_flips_what_names_a_side() -> None:
    found = [quick_variation(lopsided(), torch.Generator().manual_seed(seed), False) for seed in range(16)]
    assert all(one.content[0].tolist() == [4, 20] for one in found)


def test_quick_variation_follows_its_generator_alone() -> None:
    first, again, other = (
        quick_variation(lopsided(), torch.Generator().manual_seed(s), True).pixels for s in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
