"""Multi-crops: honest millimetres, exact counts of what is hidden, and shares of a batch that are slices of it."""

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import SIZES, ModelConfig, PrepareConfig, VisionConfig
from models.prepare import Prepared, collate
from models.vision import VisionEncoder, token_places
from training.compute import Compute
from training.config import TrainConfig
from training.crops import (
    CropBatch,
    CropBatches,
    blocks,
    crop,
    hidden_shares,
    local_edges,
    through_axis,
)

SHAPE = ModelConfig(
    prepare=PrepareConfig(box=(32, 32, 32)), vision=VisionConfig(width=48, depth=1, heads=3, registers=1)
)
VOXEL_MM = 3.2


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramps(content: list[list[int]], spacing_mm: tuple[float, ...] = (1.0, 1.0, 5.0), axis: int = 0) -> Prepared:
    """A box of 32 cubed whose intensity grows along one axis by 0.02 a voxel, so that it says where a voxel lies."""
    pixels = torch.zeros(1, 32, 32, 32)
    inside = (slice(None), *(slice(a, b) for a, b in content))
    grown = 0.1 + 0.02 * torch.arange(32.0)
    shape = [1, 1, 1, 1]
    shape[axis + 1] = 32
    pixels[inside] = grown.reshape(shape).expand(1, 32, 32, 32)[inside]
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] *= VOXEL_MM
    affine[:3, 3] = torch.tensor([-40.0, 12.0, 7.0])
    geometry = torch.log(torch.tensor([*spacing_mm, 90.0, 80.0, 70.0, VOXEL_MM]))
    return Prepared(pixels, torch.tensor(content), geometry, affine)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("size", [(32, 32, 32), (16, 16, 16), (32, 16, 24)])
def test_a_voxel_stays_where_it_is_in_millimetres(axis: int, size: tuple[int, int, int]) -> None:
    """Intensity names the millimetre along an axis, in the crop as in the sample."""
    sample = ramps([[2, 31], [0, 32], [8, 25]], axis=axis)
    for seed in range(5):
        found = crop(sample, 0.6, 0.8, size, source(seed))
        low, high = found.content[:, 0], found.content[:, 1]
        middle = ((low + high) // 2).tolist()
        place_mm = found.affine_mm.numpy() @ [*middle, 1.0]
        told_voxel = (float(found.pixels[(0, *middle)]) - 0.1) / 0.02
        told_mm = told_voxel * VOXEL_MM + float(sample.affine_mm[axis, 3])
        assert place_mm[axis] == pytest.approx(told_mm, abs=1e-3)


def test_tokens_of_a_crop_keep_their_distances_in_millimetres() -> None:
    sample = ramps([[0, 32], [4, 30], [8, 24]])
    found = crop(sample, 0.3, 0.5, (16, 16, 16), source(3))
    position_mm, _ = token_places(collate([found]), (8, 8, 8))
    corners = np.stack(np.meshgrid(*[[3.5, 11.5]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    by_affine = corners @ found.affine_mm[:3, :3].numpy().T
    expected = np.linalg.norm(by_affine[:, None] - by_affine[None], axis=-1)
    told = position_mm[0].numpy()
    assert np.linalg.norm(told[:, None] - told[None], axis=-1) == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_edges_are_shares_of_the_content_along_and_across_the_slices() -> None:
    """16 of 32 voxels in the slice and 6 of 24 across it, as many millimetres after resizing to a box of 32."""
    sample = ramps([[0, 32], [0, 32], [4, 28]])
    found = crop(sample, 0.5, 0.25, (32, 32, 32), source())
    held_mm = (found.content[:, 1] - found.content[:, 0]).numpy() * math.exp(float(found.geometry[6]))
    assert held_mm == pytest.approx(np.array([16, 16, 6]) * VOXEL_MM, rel=1e-5)
    assert found.geometry[:6].tolist() == sample.geometry[:6].tolist(), "how the series was acquired stays"


@settings(max_examples=60, deadline=None)
@given(
    bounds=st.lists(st.tuples(st.integers(0, 31), st.integers(1, 32)), min_size=3, max_size=3),
    shares=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    size=st.sampled_from([(32, 32, 32), (16, 16, 16), (8, 24, 16)]),
    seed=st.integers(0, 99),
)
def test_any_content_fits_and_padding_is_zero(
    bounds: list[tuple[int, int]], shares: tuple[float, float], size: tuple[int, int, int], seed: int
) -> None:
    content = [[a, max(a + 1, b)] for a, b in bounds]
    found = crop(ramps(content), *shares, size, source(seed))
    assert found.pixels.shape == (1, *size)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[tuple(slice(a, b) for a, b in found.content.tolist())] = True
    assert inside.any() and bool((found.pixels[0][~inside] == 0).all())
    assert bool((found.pixels[0][inside] >= 0.1 - 1e-6).all()), "the crop lies in the content and nowhere else"
    spacing_mm = np.linalg.norm(found.affine_mm[:3, :3].numpy(), axis=0)
    assert spacing_mm == pytest.approx(np.full(3, math.exp(float(found.geometry[6]))), rel=1e-5)


def test_the_through_plane_axis_is_that_of_the_thickest_voxels() -> None:
    thick = ramps([[0, 32]] * 3, (0.9, 4.0, 0.9)).geometry
    cubes = ramps([[0, 32]] * 3, (1.0, 1.3, 1.0)).geometry
    assert {through_axis(thick, source(seed)) for seed in range(9)} == {1}
    assert {through_axis(cubes, source(seed)) for seed in range(30)} == {0, 1, 2}


def test_local_crops_are_half_a_box_of_whole_patches() -> None:
    def of(box: tuple[int, int, int], patch: tuple[int, int, int]) -> tuple[int, int, int]:
        return local_edges(ModelConfig(prepare=PrepareConfig(box=box), vision=VisionConfig(patch=patch)))

    assert of((64, 64, 64), (16, 16, 16)) == (32, 32, 32)
    assert of((96, 96, 40), (8, 8, 8)) == (48, 48, 24)
    assert of((32, 32, 16), (16, 16, 16)) == (32, 32, 16), "two patches an edge where the box has two"


@settings(max_examples=80, deadline=None)
@given(
    kept=st.floats(0.1, 1),
    share=st.floats(0, 1),
    seed=st.integers(0, 999),
    grid=st.sampled_from([(4, 4, 4), (6, 5, 3)]),
)
def test_blocks_hide_the_nearest_count_and_never_all(
    kept: float, share: float, seed: int, grid: tuple[int, int, int]
) -> None:
    valid = torch.rand(math.prod(grid), generator=source(seed)) < kept
    hidden = blocks(valid, grid, share, source(seed))
    total = int(valid.sum())
    assert not bool((hidden & ~valid).any())
    assert int(hidden.sum()) == max(0, min(round(share * total), total - 1))


def test_blocks_are_blocks() -> None:
    """Hidden tokens have more hidden neighbours than ones scattered at random, which have 0.3 of them by chance."""
    grid = (12, 12, 12)
    near = []
    for seed in range(10):
        hidden = blocks(torch.ones(12**3, dtype=torch.bool), grid, 0.3, source(seed)).reshape(grid)
        near.append(float((hidden[1:] & hidden[:-1]).sum() / hidden[1:].sum()))
    assert np.mean(near) > 0.6


def test_hidden_shares_are_exact_and_even() -> None:
    config = TrainConfig()
    for seed in range(20):
        shares = hidden_shares(np.random.default_rng(seed), 16, config)
        assert shares.shape == (16, 2)
        assert (shares > 0).sum() == 16
        for world in (2, 4, 8):
            each = (shares > 0).reshape(world, -1).sum(axis=1)
            assert each.tolist() == [16 // world] * world
        drawn = np.sort(shares[shares > 0])
        edge = np.linspace(0.2, 0.75, 17)
        assert (drawn >= edge[:-1]).all() and (drawn <= edge[1:]).all(), "one from each sixteenth of the range"


@dataclass(frozen=True)
class Stored:
    """A training set of volumes at hand."""

    samples: list[Prepared]
    rows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame({"series_id": [f"s{i}" for i in range(6)]}))
    may_flip: np.ndarray = field(default_factory=lambda: np.array([True, False] * 3))

    def draw(self, rng: np.random.Generator, count: int, among: Any = None) -> np.ndarray:
        return rng.choice(6, count)

    def sample(self, row: int) -> Prepared:
        return self.samples[row]


def stored() -> Any:
    texture = torch.rand(6, 1, 32, 32, 32, generator=source(7)) * 0.2
    plain = [ramps([[0, 32], [2, 30], [6 + n, 26]], axis=n % 3) for n in range(6)]
    return Stored([replace(p, pixels=p.pixels + t * (p.pixels > 0)) for p, t in zip(plain, texture, strict=True)])


def batches(**settings: Any) -> CropBatches:
    model: Any = SimpleNamespace(config=SHAPE)
    return CropBatches(stored(), model, TrainConfig(**{"batch_size": 8, "local_crops": 3, **settings}))


def tensors(batch: CropBatch) -> list[torch.Tensor]:
    fields = Prepared.__dataclass_fields__
    crops = [getattr(crops, name) for crops in (*batch.globals, *batch.locals) for name in fields]
    return [*crops, *batch.hidden, batch.geometry_known]


@pytest.mark.parametrize("world", [2, 4])
def test_the_share_of_a_process_is_a_slice_of_the_whole_batch(world: int) -> None:
    made = batches()
    whole = made.batch(5, Compute())
    parts = [made.batch(5, Compute(rank=rank, world=world)) for rank in range(world)]
    assert [name for part in parts for name in part.names] == whole.names
    for all_of_it, *shares in zip(tensors(whole), *map(tensors, parts), strict=True):
        assert torch.equal(torch.cat(shares), all_of_it)


def test_a_batch_is_a_function_of_its_number() -> None:
    first, again = batches().batch(3, Compute()), batches().batch(3, Compute())
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(again), strict=True))
    assert not torch.equal(first.globals[0].pixels, batches().batch(4, Compute()).globals[0].pixels)


def test_hidden_patches_hold_data_and_their_share_is_as_drawn() -> None:
    batch = batches(masked_patches=(0.4, 0.4)).batch(0, Compute())
    masked = 0
    for crops, hidden in zip(batch.globals, batch.hidden, strict=True):
        valid = token_places(crops, SHAPE.vision.patch)[1]
        assert not bool((hidden & ~valid).any())
        counts, totals = hidden.sum(dim=1), valid.sum(dim=1)
        for count, total in zip(counts.tolist(), totals.tolist(), strict=True):
            assert count in (0, round(0.4 * total))
        masked += int((counts > 0).sum())
    assert masked == 8, "half of sixteen global crops"


def test_batch_shapes() -> None:
    batch = batches().batch(0, Compute())
    assert [crops.pixels.shape for crops in batch.globals] == [(8, 1, 32, 32, 32)] * 2
    assert [crops.pixels.shape for crops in batch.locals] == [(8, 1, 16, 16, 16)] * 3
    assert all(float(c.pixels.min()) >= 0 and float(c.pixels.max()) <= 1 for c in (*batch.globals, *batch.locals))
    assert batch.to(torch.device("cpu")).names == batch.names
    assert not batches(local_crops=0).batch(0, Compute()).locals


def test_padding_of_a_crop_changes_no_feature() -> None:
    """Whatever stands in patches of pure padding, volume vector and valid patch tokens stay."""
    torch.manual_seed(0)
    model = VisionEncoder(SHAPE.vision, 24).eval()
    crops = collate([crop(ramps([[0, 32], [0, 32], [12, 20]]), 1.0, 1.0, (32, 32, 32), source(n)) for n in range(2)])
    valid = token_places(crops, SHAPE.vision.patch)[1]
    padded = ~valid.reshape(2, 1, 4, 4, 4)
    assert bool(padded.any())
    for axis in (2, 3, 4):
        padded = padded.repeat_interleave(8, dim=axis)
    dirty = replace(crops, pixels=torch.where(padded, torch.rand(crops.pixels.shape, generator=source()), crops.pixels))
    clean, other = model(crops), model(dirty)
    assert torch.allclose(clean.volume, other.volume, atol=1e-6)
    assert torch.allclose(clean.patches[valid], other.patches[valid], atol=1e-6)


def test_the_shipped_size_has_local_crops_of_two_patches_an_edge() -> None:
    assert local_edges(ModelConfig(vision=SIZES["mini"])) == (32, 32, 32)
