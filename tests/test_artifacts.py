"""Artefacts of a scanner: seeded, in range, inside the content, and each what physics says it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.config import PrepareConfig
from models.prepare import Prepared, prepare
from models.volume import to_ras
from training.artifacts import (
    _body_mean,
    _intensity,
    _signal,
    breathing,
    coarsen,
    content_of,
    pixel_variation,
    shaken,
)


def prepared() -> Prepared:
    """A ball of tissue with texture, in a slab of content."""
    places = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij"))
    ball = ((places**2).sum(dim=0) < 0.5).float()
    texture = 0.5 + 0.15 * torch.rand(32, 32, 32, generator=torch.Generator().manual_seed(1))
    pixels = torch.zeros(1, 32, 32, 32)
    pixels[0, :, 4:28] = (ball * texture)[:, 4:28]
    geometry = torch.log(torch.tensor([1.0, 1, 4, 100, 100, 100, 3]))
    return Prepared(pixels, torch.tensor([[0, 32], [4, 28], [0, 32]]), geometry, torch.eye(4))


def moments(signal: torch.Tensor, axis: int) -> float:
    """Centre of mass along one axis of (1, i, j, k)."""
    mass = signal[0].movedim(axis, 0).flatten(1).sum(dim=1)
    return float((mass * torch.arange(len(mass))).sum() / mass.sum())


def test_variation_is_seeded_in_range_and_stays_in_its_content() -> None:
    vary, again = pixel_variation(3), pixel_variation(3)
    pictures = []
    for _ in range(12):
        first, second = vary(prepared()), again(prepared())
        assert torch.equal(first.pixels, second.pixels) and torch.equal(first.content, second.content)
        assert type(first.pixels) is torch.Tensor and first.pixels.dtype == torch.float32
        assert float(first.pixels.min()) >= 0 and float(first.pixels.max()) <= 1
        outside = first.pixels.clone()
        outside[(slice(None), *(slice(a, b) for a, b in first.content.tolist()))] = 0
        assert float(outside.abs().sum()) == 0
        pictures.append(first.pixels)
    assert len({float(p.sum()) for p in pictures}) > 8, "each call varies anew"
    other = pixel_variation(4)(prepared())
    assert not torch.equal(other.pixels, pictures[0])


def test_the_sample_itself_is_left_alone() -> None:
    sample = prepared()
    before = sample.pixels.clone()
    vary = pixel_variation(0)
    for _ in range(6):
        vary(sample)
    assert torch.equal(sample.pixels, before)


def test_an_empty_volume_is_no_error() -> None:
    empty = replace(prepared(), pixels=torch.zeros(1, 32, 32, 32))
    vary = pixel_variation(1)
    for _ in range(10):
        assert bool(torch.isfinite(vary(empty).pixels).all())


def test_signal_and_intensity_undo_each_other() -> None:
    pixels = torch.linspace(0, 0.96, 50)
    assert torch.allclose(_intensity(_signal(pixels), 1.0), pixels, atol=1e-6)
    signal = torch.tensor([0.0, 0, 0, 2, 4])
    assert _body_mean(signal) == pytest.approx(3.0)
    assert float(_intensity(7 * signal, 7 * 3.0)[3]) == pytest.approx(2 / 5), "a gain of the coil changes nothing"


def test_coarsen_averages_along_one_axis_alone() -> None:
    """Halved resolution by hand: means of pairs; along the other axes nothing changes."""
    signal = torch.rand(1, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    found = coarsen(signal, 0, 2.0)
    pairs = signal.reshape(1, 4, 2, 5, 6).mean(dim=2)
    assert torch.allclose(found[:, 0], pairs[:, 0], atol=1e-6)
    assert torch.allclose(found[:, 1], 0.75 * pairs[:, 0] + 0.25 * pairs[:, 1], atol=1e-6)
    assert torch.equal(coarsen(signal, 1, 1.05), signal)


def test_motion_ghosts_along_the_phase_axis_and_keeps_the_body_in_place() -> None:
    sample = prepared()
    signal = _signal(sample.pixels)[:, :, 4:28]
    for seed in range(4):
        found = shaken(signal, 1, np.random.default_rng(seed))
        assert found.shape == signal.shape and bool((found >= 0).all())
        assert not torch.allclose(found, signal, atol=1e-3)
        for axis in range(3):
            assert moments(found, axis) == pytest.approx(moments(signal, axis), abs=1.0)


def test_without_movement_motion_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of k-space from copies in the same pose are the lines of the volume."""
    import training.artifacts as artifacts

    monkeypatch.setattr(artifacts, "_moved", lambda signal, rng: signal)
    signal = _signal(prepared().pixels)
    for axis in range(3):
        assert torch.allclose(shaken(signal, axis, np.random.default_rng(axis)), signal, atol=1e-4)


def test_breathing_by_hand(rng: np.random.Generator) -> None:
    """Each line of k-space is that of the body shifted by its sway, here by a plain sum over the lines of the transform."""
    signal = rng.random((1, 2, 9, 2))
    seed = np.random.default_rng(5)
    found = breathing(torch.from_numpy(signal).float(), 1, np.random.default_rng(5)).numpy()
    depth, cycles, start = seed.uniform(0.15, 0.5), seed.uniform(3, 12), seed.random()
    sway = depth * np.sin(2 * np.pi * (cycles * np.arange(9) / 9 + start))
    sway -= sway[4]
    place = np.arange(9)
    expected = np.zeros_like(signal, dtype=complex)
    for line, frequency in enumerate(np.arange(-4, 5)):
        wave = np.exp(2j * np.pi * frequency * place / 9)
        coefficient = np.einsum("aijk,j->aik", signal, wave.conj()) / 9
        shifted = wave * np.exp(-2j * np.pi * frequency / 9 * sway[line])
        expected += np.einsum("aik,j->aijk", coefficient, shifted)
    assert found == pytest.approx(np.abs(expected), abs=1e-5)


def test_content_of_is_the_box_of_what_is_not_zero() -> None:
    pixels = torch.zeros(1, 8, 8, 8)
    pixels[0, 2:5, 1, 3:8] = 0.5
    otherwise = torch.tensor([[0, 8]] * 3)
    assert content_of(pixels, otherwise).tolist() == [[2, 5], [1, 2], [3, 8]]
    assert torch.equal(content_of(torch.zeros_like(pixels), otherwise), otherwise)


def test_a_real_brain_stays_a_brain(shared: Path) -> None:
    """A T1-weighted brain of CBICA's white-matter set: artefacts leave most of its picture and of its size."""
    import nibabel

    image = nibabel.load(shared / "mri/nifti/cbica-wmh/301D00262-20040114_T1.nii.gz")
    sample = prepare(to_ras(np.squeeze(np.asarray(image.dataobj, dtype=np.float32)), image.affine), PrepareConfig())
    vary = pixel_variation(0)
    likeness = []
    for _ in range(12):
        found = vary(sample)
        likeness.append(np.corrcoef(found.pixels.flatten(), sample.pixels.flatten())[0, 1])
        body = float((found.pixels > 0.2).sum() / (sample.pixels > 0.2).sum())
        assert 0.4 < body < 1.8
    assert np.mean(likeness) > 0.6
