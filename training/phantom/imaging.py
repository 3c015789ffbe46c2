"""From anatomy and protocol to an image: signal of the tissues, flow, acquisition, coils, flaws, noise, stored values."""

import numpy as np

from training.phantom.anatomy import Anatomy
from training.phantom.coils import coil_bias
from training.phantom.flaws import darken_air, distort, empty_margins, ghosts, low_resolution, phase_axis, window
from training.phantom.physics import Protocol, tissue_signal
from training.phantom.practice import ECHO_PLANAR
from training.phantom.scanner import NORMAL_AXIS, Geometry, acquire, rician
from training.phantom.shapes import smooth_noise
from training.phantom.tissue import FATTY, Tissue, tissue_values

GHOSTS = {"abdomen": 0.45, "heart": 0.55, "breast": 0.4, "pelvis": 0.3}
"""how often breathing, bowel or heart leave ghosts; elsewhere one series in six has them"""
SEEN_BY_DIFFUSION = 0.15
"""ADC in um2/ms below which there is no signal to measure it from: air, bone, suppressed fat"""


def make_image(
    anatomy: Anatomy, protocol: Protocol, geometry: Geometry, stripped: bool, rng: np.random.Generator
) -> np.ndarray:
    """Float32 (I, J, K), 0 or more: the stored magnitude image at an arbitrary scale; ADC in 1e-6 mm2/s."""
    image = np.abs(acquire(_contrast(anatomy, protocol, stripped, rng), anatomy.affine_mm, geometry))
    axis = phase_axis(NORMAL_AXIS.get(geometry.plane, 2), rng)
    if protocol.sequence in ECHO_PLANAR and not stripped:
        air = np.isin(anatomy.labels, (Tissue.AIR, Tissue.LUNG)).astype(np.float32)
        image = distort(image, acquire(air, anatomy.affine_mm, geometry), axis, rng)
    if protocol.kind == "adc":
        return _diffusion_map(image, rng)
    image = _flawed(image, anatomy.region, axis, rng) * coil_bias(geometry, anatomy.region, rng)
    noise = float(np.exp(rng.uniform(np.log(0.004), np.log(0.045)))) * float(np.percentile(image, 99))
    image = rician(image, noise, rng)
    if stripped and anatomy.brain_mask is not None:
        image *= acquire(anatomy.brain_mask.astype(np.float32), anatomy.affine_mm, geometry) > 0.4
    elif rng.random() < 0.3:
        image = darken_air(image, noise, rng)
    if rng.random() < 0.12:
        image = empty_margins(image, rng)
    return window(image, rng)


def _flawed(image: np.ndarray, region: str, axis: int, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.6:
        image = np.abs(low_resolution(image, axis, float(rng.uniform(0.5, 0.95))))
    return ghosts(image, axis, rng) if rng.random() < GHOSTS.get(region, 0.17) else image


def _diffusion_map(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """ADC in 1e-6 mm2/s from ADC in um2/ms: noise where there is no signal, or a mask with or without holes."""
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    found = np.clip(image * (1000 + np.float32(rng.uniform(30, 110)) * grain), 0, None)
    silent = image < SEEN_BY_DIFFUSION
    if rng.random() < 0.6:
        found[silent & (grain < rng.uniform(1.2, 5.0))] = 0
    else:
        found[silent] = np.abs(grain[silent]) * rng.uniform(200, 1500)
    return found


def _contrast(anatomy: Anatomy, protocol: Protocol, stripped: bool, rng: np.random.Generator) -> np.ndarray:
    """Signal of every voxel of the anatomy, float32 (I, J, K), with the texture of its tissues."""
    signal = tissue_signal(protocol, np.random.default_rng(anatomy.chemistry_seed))
    contrast = np.take(tissue_values("texture").astype(np.float32), anatomy.labels)
    contrast *= anatomy.texture
    contrast += 1
    contrast *= np.take(signal, anatomy.labels)
    _disturb(contrast, anatomy, protocol, signal, rng)
    if stripped and anatomy.brain_mask is not None:
        contrast *= anatomy.brain_mask
    return contrast


def _disturb(
    contrast: np.ndarray, anatomy: Anatomy, protocol: Protocol, signal: np.ndarray, rng: np.random.Generator
) -> None:
    """Patches, in place, where fat is not suppressed, where fluid flows into a FLAIR's slice or out of a spin echo's."""
    fails = protocol.fat_suppressed and protocol.kind != "adc" and rng.random() < 0.35
    flows = protocol.sequence in ("FLAIR", "T2", "PD") and rng.random() < 0.4
    if not (fails or flows):
        return
    patch = smooth_noise(anatomy.labels.shape, (28 if flows else 60) / float(anatomy.affine_mm[0, 0]), rng)
    patch = np.clip(patch - np.float32(0.7), 0, 1)
    if fails:
        fat = np.isin(anatomy.labels, FATTY)
        contrast[fat] *= 1 + np.float32(1 / max(protocol.fat_left, 0.05) - 1) * patch[fat]
    if flows:
        fluid = anatomy.labels == Tissue.CSF
        fresh = np.float32(rng.uniform(0.3, 1.5) * signal[Tissue.WHITE_MATTER] if protocol.sequence == "FLAIR" else 0.0)
        contrast[fluid] += (fresh - contrast[fluid]) * patch[fluid]
