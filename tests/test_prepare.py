"""prepare(): geometry is kept, intensity does not depend on scale, padding is told apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import PrepareConfig
from models.errors import DecipherError
from models.prepare import collate, prepare
from models.volume import Volume, to_ras

CONFIG = PrepareConfig()


def ball(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], radius_mm: float, centre_mm=(0, 0, 0)
) -> Volume:
    """A bright ball around centre_mm in a volume whose middle lies at the origin of RAS."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -np.array(spacing_mm) * (np.array(shape) - 1) / 2
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    place_mm = grid * spacing_mm + affine[:3, 3]
    inside = np.linalg.norm(place_mm - np.array(centre_mm), axis=-1) < radius_mm
    return Volume((100.0 * inside + 3).astype(np.float32)[None], affine)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (4.0, 0.9, 0.9)])
def test_a_ball_stays_a_ball_in_its_place(spacing: tuple[float, float, float]) -> None:
    shape = tuple(int(160 / s) for s in spacing)
    prepared = prepare(ball(shape, spacing, 50, centre_mm=(12, -7, 9)), CONFIG)
    inside = prepared.pixels[0] > 0.25
    index = torch.nonzero(inside).double()
    affine = prepared.affine_mm
    centre_mm = affine[:3, :3] @ index.mean(dim=0) + affine[:3, 3]
    voxel_mm = affine[:3, :3].norm(dim=0)
    assert centre_mm.numpy() == pytest.approx([12, -7, 9], abs=1.0)
    widths_mm = (index.max(dim=0).values - index.min(dim=0).values + 1) * voxel_mm
    assert widths_mm.numpy() == pytest.approx([100, 100, 100], abs=2.2 * max(float(voxel_mm.max()), max(spacing)))


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-3, 1e4), shift=st.floats(-1e3, 1e3))
def test_linear_rescaling_changes_nothing(scale: float, shift: float) -> None:
    rng = np.random.default_rng(0)
    volume = ball((40, 40, 20), (2, 2, 4), 30)
    noisy = volume.data + rng.normal(0, 5, volume.data.shape).astype(np.float32)
    shift *= scale
    rescaled = (noisy.astype(np.float64) * scale + shift).astype(np.float32)
    first = prepare(Volume(noisy, volume.affine_mm), CONFIG)
    second = prepare(Volume(rescaled, volume.affine_mm), CONFIG)
    assert torch.equal(first.content, second.content)
    assert torch.allclose(first.pixels, second.pixels, atol=2e-3)


def test_empty_margins_lead_to_the_same_picture() -> None:
    tight, wide = ball((60, 60, 60), (2, 2, 2), 55), ball((96, 96, 96), (2, 2, 2), 55)
    first, second = prepare(tight, CONFIG), prepare(wide, CONFIG)
    assert torch.allclose(first.pixels, second.pixels, atol=0.02)
    assert second.geometry[3:6].exp().tolist() == pytest.approx([192, 192, 192])


def test_content_bounds_hold_all_that_is_not_zero() -> None:
    prepared = prepare(ball((80, 80, 8), (1, 1, 5), 35), CONFIG)
    outside = prepared.pixels[0].clone()
    (a, b), (c, d), (e, f) = prepared.content.tolist()
    outside[a:b, c:d, e:f] = 0
    assert outside.abs().sum() == 0
    assert f - e < b - a


def test_bodies_average_half_and_nothing_exceeds_one() -> None:
    prepared = prepare(ball((60, 60, 60), (2, 2, 2), 55), CONFIG)
    inside = prepared.pixels[prepared.pixels > 0.25]
    assert float(inside.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(prepared.pixels.min()) >= 0 and float(prepared.pixels.max()) < 1


def test_nan_and_inf_do_not_spread() -> None:
    volume = ball((40, 40, 40), (2, 2, 2), 30)
    dirty = volume.data.copy()
    dirty[0, 0, 0, 0], dirty[0, 1, 1, 1] = np.nan, np.inf
    assert torch.isfinite(prepare(Volume(dirty, volume.affine_mm), CONFIG).pixels).all()


def test_a_constant_volume_is_told() -> None:
    with pytest.raises(DecipherError, match="empty"):
        prepare(Volume(np.full((1, 20, 20, 20), 7, dtype=np.float32), np.eye(4)), CONFIG)


def test_collate_stacks() -> None:
    one = prepare(ball((40, 40, 40), (2, 2, 2), 30), CONFIG)
    batch = collate([one, one])
    assert batch.pixels.shape == (2, 1, 64, 64, 64)
    assert torch.equal(batch.geometry[1], one.geometry)


def test_to_ras_turns_axes_and_keeps_places(rng: np.random.Generator) -> None:
    data = rng.normal(size=(5, 6, 7)).astype(np.float32)
    affine = np.array([[0, 0, -2.0, 10], [-1.0, 0, 0, 20], [0, 3.0, 0, 30], [0, 0, 0, 1]])
    volume = to_ras(data, affine)
    assert (np.diag(volume.affine_mm[:3, :3]) > 0).all()
    for index in ((0, 0, 0), (4, 5, 6), (1, 2, 3)):
        place = affine @ [*index, 1]
        back = np.linalg.solve(volume.affine_mm, place)[:3].round().astype(int)
        assert volume.data[0][tuple(back)] == data[index]
