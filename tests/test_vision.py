"""The vision encoder: shapes, masking, positions in millimetres, both stems."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config import SIZES, ModelConfig, PrepareConfig, VisionConfig
from models.layers import ScaledConv, fourier_positions
from models.prepare import Prepared
from models.vision import BINS, Masking, VisionEncoder, contrast_channels, hide, intensity_histogram, token_places

SMALL = VisionConfig(stem="patch", width=48, depth=2, heads=3, registers=2)
CONV = VisionConfig(stem="conv", conv_widths=(8, 16, 24), width=48, depth=2, heads=3)


def batch(count: int = 2, box: int = 32) -> Prepared:
    torch.manual_seed(0)
    content = torch.tensor([[[4, 28], [0, 32], [9, 15]]]).expand(count, 3, 2)
    pixels = torch.zeros(count, 1, box, box, box)
    pixels[:, :, 4:28, 0:32, 9:15] = torch.rand(count, 1, 24, 32, 6)
    geometry = torch.log(torch.tensor([1.0, 1, 5, 200, 200, 60, 3])).expand(count, 7)
    return Prepared(pixels, content, geometry, torch.eye(4).expand(count, 4, 4))


@pytest.mark.parametrize("config", [SMALL, CONV], ids=["patch", "conv"])
def test_shapes(config: VisionConfig) -> None:
    found = VisionEncoder(config, 64).eval()(batch(3))
    assert found.volume.shape == (3, 64)
    assert found.patches.shape == (3, 4**3, 64)
    assert found.valid.shape == (3, 64)


def test_valid_tokens_are_those_that_touch_data() -> None:
    _, valid = token_places(batch(), (8, 8, 8))
    grid = valid[0].reshape(4, 4, 4)
    assert grid.any(dim=1).any(dim=1).tolist() == [True] * 4
    assert grid.any(dim=0).any(dim=0).tolist() == [False, True, False, False]


def test_positions_are_millimetres_from_the_middle() -> None:
    position_mm, _ = token_places(batch(), (8, 8, 8))
    assert position_mm[0, 0].tolist() == pytest.approx([-36.0] * 3, abs=1e-3)
    assert position_mm[0].mean(dim=0).tolist() == pytest.approx([0.0] * 3, abs=1e-3)
    step = position_mm[0, 1] - position_mm[0, 0]
    assert step.tolist() == pytest.approx([0, 0, 24.0], abs=1e-3)


def test_fourier_positions_by_hand() -> None:
    code = fourier_positions(torch.tensor([[[8.0, 2.0, 0.0]]]), 48)[0, 0]
    assert code.shape == (48,)
    first = code[:16]
    assert float(first[0]) == pytest.approx(0.0, abs=1e-5), "sine of a whole turn at 8 mm"
    assert float(first[8]) == pytest.approx(1.0, abs=1e-5), "cosine of a whole turn at 8 mm"
    assert float(code[16]) == pytest.approx(1.0, abs=1e-5), "2 mm is a quarter turn at 8 mm"


@pytest.mark.parametrize("config", [SMALL, CONV], ids=["patch", "conv"])
def test_padding_never_changes_an_embedding(config: VisionConfig) -> None:
    """Whatever stands outside the content, also within a patch that is partly filled."""
    torch.manual_seed(0)
    model = VisionEncoder(config, 64).eval()
    clean = batch()
    padding = torch.ones_like(clean.pixels, dtype=torch.bool)
    padding[:, :, 4:28, 0:32, 9:15] = False
    dirty = torch.where(padding, torch.rand_like(clean.pixels), clean.pixels)
    first = model(clean)
    second = model(Prepared(dirty, clean.content, clean.geometry, clean.affine_mm))
    assert torch.equal(first.volume, second.volume)
    assert torch.equal(first.patches[first.valid], second.patches[second.valid])


def test_what_is_hidden_cannot_be_seen() -> None:
    """Hidden patches: their pixels change nothing anywhere, in either stem; what is seen does."""
    for config in (SMALL, CONV):
        torch.manual_seed(0)
        model = VisionEncoder(config, 64).eval()
        clean = batch()
        tokens = torch.zeros(2, 64, dtype=torch.bool)
        tokens[:, 20:40] = True
        grid = tokens.reshape(2, 1, 4, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
        changed = torch.where(grid & (clean.pixels > 0), torch.full_like(clean.pixels, 0.3), clean.pixels)
        other = Prepared(changed, clean.content, clean.geometry, clean.affine_mm)
        masking = Masking(tokens, torch.randn(config.width))
        assert torch.equal(hide(clean.pixels, tokens, (8, 8, 8)), clean.pixels * ~grid)
        assert not torch.allclose(model(clean).patches, model(other).patches, atol=1e-3)
        first, second = model(clean, masking=masking), model(other, masking=masking)
        assert torch.equal(first.patches, second.patches) and torch.equal(first.volume, second.volume)


def test_recomputing_blocks_gives_the_same_gradient() -> None:
    torch.manual_seed(0)
    model = VisionEncoder(SMALL, 64).train()
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        model.recompute = recompute
        model(batch()).volume.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("config", [SMALL, CONV], ids=["patch", "conv"])
def test_a_volume_does_not_depend_on_its_neighbours(config: VisionConfig) -> None:
    torch.manual_seed(0)
    model = VisionEncoder(config, 64).eval()
    many = batch(4)
    alone = Prepared(*(getattr(many, f)[1:2] for f in Prepared.__dataclass_fields__))
    assert torch.allclose(model(many).volume[1], model(alone).volume[0], atol=1e-5)


def test_geometry_can_be_hidden() -> None:
    torch.manual_seed(0)
    model = VisionEncoder(SMALL, 64).eval()
    one, other = batch(), batch()
    other = Prepared(other.pixels, other.content, other.geometry.clone(), other.affine_mm)
    other.geometry[:, :6] += 0.5
    hidden = torch.zeros(2)
    assert not torch.allclose(model(one).volume, model(other).volume, atol=1e-5)
    assert torch.allclose(model(one, hidden).volume, model(other, hidden).volume, atol=1e-6)


@pytest.mark.parametrize("config", [SMALL, CONV], ids=["patch", "conv"])
def test_the_volume_vector_is_the_sum_of_what_its_parts_say(config: VisionConfig) -> None:
    """Tokens, stem and histogram, each of which says nothing else when another falls silent."""
    torch.manual_seed(0)
    model = VisionEncoder(config, 64).eval()
    found = model(batch())
    assert found.parts.shape == (2, 3, 64)
    assert torch.allclose(found.volume, found.parts.sum(dim=1), atol=1e-6)
    seen, content = contrast_channels(batch())
    stem = model.stem(seen).flatten(2).transpose(1, 2)
    mean = torch.stack([tokens[valid].mean(dim=0) for tokens, valid in zip(stem, found.valid, strict=True)])
    assert torch.allclose(found.parts[:, 1], model.to_volume[1](mean), atol=1e-5)
    assert torch.allclose(found.parts[:, 2], model.to_volume[2](model.histogram(intensity_histogram(seen, content))))
    for layer in model.blocks:
        torch.nn.init.zeros_(layer.scale1), torch.nn.init.zeros_(layer.scale2)
    silent = model(batch())
    assert torch.equal(silent.parts[:, 1:], found.parts[:, 1:])
    assert not torch.allclose(silent.parts[:, 0], found.parts[:, 0], atol=1e-3)


def test_a_scaled_convolution_by_hand() -> None:
    """Weights of no mean and unit length; brightness of the whole goes through, and scale stays over many layers."""
    torch.manual_seed(0)
    layer = ScaledConv(3, 5)
    layer.gain.data.uniform_(0.5, 2)
    x = torch.randn(2, 3, 6, 6, 6)
    rows = layer.weight.detach().double().flatten(1).numpy()
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows *= (layer.gain.detach().double().numpy() / np.sqrt((rows**2).sum(axis=1)))[:, None]
    cube = x[1, :, 1:4, 2:5, 3:6].double().numpy().ravel()
    expected = np.maximum(rows @ cube + layer.bias.detach().double().numpy(), 0) * np.sqrt(2 / (1 - 1 / np.pi))
    assert layer(x)[1, :, 2, 3, 4].detach().numpy() == pytest.approx(expected, abs=1e-5)
    deep = torch.nn.Sequential(*(ScaledConv(32, 32) for _ in range(8)))
    for one in deep:
        torch.nn.init.zeros_(one.bias)
    with torch.no_grad():
        spread = float(deep(torch.randn(2, 32, 12, 12, 12))[:, :, 4:8, 4:8, 4:8].std())
    assert 0.5 < spread < 2


def test_base_has_the_size_of_the_paper() -> None:
    with torch.device("meta"):
        model = VisionEncoder(SIZES["base"], 384)
    count = sum(p.numel() for p in model.blocks.parameters())
    assert 84e6 < count < 88e6


def test_config_survives_json() -> None:
    config = ModelConfig(name="x", vision=CONV, prepare=PrepareConfig(box=(32, 32, 32)))
    assert ModelConfig.from_json(config.to_json()) == config


def test_the_second_channel_is_standardised_by_the_middle_of_the_content() -> None:
    torch.manual_seed(0)
    pixels = torch.zeros(1, 1, 16, 16, 16)
    pixels[..., 4:12] = 0.1 + 0.5 * torch.rand(1, 1, 16, 16, 8)
    content = torch.tensor([[[0, 16], [0, 16], [4, 12]]])
    plain, standard = contrast_channels(Prepared(pixels, content, torch.zeros(1, 7), torch.eye(4)))[0][0]
    middle, shown = pixels[0, 0, 4:12, 4:12, 6:10].double(), pixels[0, 0, :, :, 4:12].double()
    expected = (shown - middle.mean()) / middle.std(correction=0)
    assert torch.allclose(plain, pixels[0, 0] - 0.5)
    assert torch.allclose(standard[..., 4:12].double(), expected.clamp(-3, 3), atol=1e-4)
    assert standard[..., :4].abs().sum() == standard[..., 12:].abs().sum() == 0
    brighter = contrast_channels(Prepared(pixels * 1.2, content, torch.zeros(1, 7), torch.eye(4)))[0][0, 1]
    assert torch.allclose(brighter, standard, atol=1e-4)


def test_what_lies_outside_the_middle_changes_nothing_within() -> None:
    """Scalp, coil and air are not the same in two series of one sequence."""
    torch.manual_seed(0)
    pixels = 0.2 + 0.5 * torch.rand(1, 1, 16, 16, 16)
    stripped = pixels.clone()
    stripped[..., :4, :] = stripped[:, :, 12:] = 0
    whole = torch.tensor([[[0, 16]] * 3])
    one, other = (contrast_channels(Prepared(x, whole, torch.zeros(1, 7), torch.eye(4)))[0] for x in (pixels, stripped))
    assert torch.equal(one[..., 4:12, 4:12, 4:12], other[..., 4:12, 4:12, 4:12])
    assert torch.equal(*(intensity_histogram(x, whole)[:, BINS:] for x in (one, other)))


def test_pooled_channels_are_those_of_pooled_pixels() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(1, 1, 16, 16, 16)
    content = torch.tensor([[[3, 13], [0, 16], [4, 11]]])
    batch = Prepared(pixels, content, torch.zeros(1, 7), torch.eye(4))
    cubes = torch.from_numpy(pixels.numpy().reshape(1, 1, 8, 2, 8, 2, 8, 2).mean(axis=(3, 5, 7)))
    touched = torch.tensor([[[1, 7], [0, 8], [2, 6]]])
    expected, _ = contrast_channels(replace(batch, pixels=cubes, content=touched))
    found, where = contrast_channels(batch, pool=2)
    assert torch.equal(where, touched) and torch.allclose(found, expected, atol=1e-5)


def test_the_histogram_counts_the_body_and_the_middle() -> None:
    standard = torch.zeros(1, 16, 16, 16)
    standard[0, :8], standard[0, 8:] = -1.1, 2.1
    standard[0, 4:12, 4:12, 4:12] = 0.6
    pixels = torch.full((1, 16, 16, 16), 0.4)
    pixels[0, 4:8] = 0.1  # dark: no body, but counted in the middle
    channels = torch.stack([pixels - 0.5, standard], dim=1)
    body, middle = intensity_histogram(channels, torch.tensor([[[0, 16]] * 3])).reshape(2, BINS).numpy() / BINS
    edges = np.linspace(-3, 3, BINS + 1)
    bright = standard[pixels > 0.2].numpy()
    assert body == pytest.approx(np.histogram(bright, edges)[0] / bright.size)
    assert middle[np.digitize(0.6, edges) - 1] == pytest.approx(1)
