"""Protocols: timing drawn from the ranges found in clinical headers, for every sequence of the vocabulary.

- Inversion times lie near the null of the tissue that the sequence means to suppress, since that is how they are chosen at
  the scanner; near, not at: real fluid is seldom quite dark.
- A sequence is measured in several ways (spin echo, gradient echo, inversion-prepared; 2D and 3D; fat suppressed or not),
  since that is what differs between sites.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from training.phantom.physics import Protocol, enhanced_t1_ms, null_time_ms
from training.phantom.tissue import Tissue, tissue_values

FAT_SUPPRESSED = {  # sequence: how often, in the brain and elsewhere
    "T1": (0.06, 0.22),
    "T1C": (0.25, 0.75),
    "T2": (0.15, 0.4),
    "PD": (0.05, 0.55),
    "FLAIR": (0.45, 0.5),
    "DCE": (0.2, 0.75),
    "CINE": (0.1, 0.15),
    "MRA": (0.3, 0.3),
}
BRIGHTEST_FAT = 1.8
"""fat in a train of many close echoes against fat in a single one"""
OPPOSED = 0.22
"""how often a plain T1 gradient echo of the trunk is read where fat and water cancel"""


def draw_protocol(
    sequence: str, region: str, field_strength_t: float, volumetric: bool, rng: np.random.Generator
) -> Protocol:
    """A protocol for `sequence` (a key of DRAWN) with timing from clinical ranges."""
    protocol = DRAWN[sequence](sequence, region, field_strength_t, volumetric, rng)
    if sequence in FAT_SUPPRESSED:
        often = FAT_SUPPRESSED[sequence][region != "brain"]
        left = float(np.exp(rng.uniform(np.log(0.02), np.log(0.3))))
        protocol = replace(protocol, fat_suppressed=bool(rng.random() < often), fat_left=left)
    trunk = region in ("abdomen", "pelvis", "breast", "heart", "spine")
    if protocol.kind == "gradient_echo" and sequence == "T1" and trunk and not protocol.fat_suppressed:
        protocol = replace(protocol, opposed=bool(rng.random() < OPPOSED))
    return protocol


def _draw_t1(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    """Spin echo, inversion-prepared (MPRAGE, T1 FLAIR, late enhancement) or spoiled gradient echo (SPGR, VIBE)."""
    contrast = sequence == "T1C"
    uptake = float(rng.uniform(0.5, 1.5))
    if contrast and region == "heart" and rng.random() < 0.7:
        return _draw_late(sequence, field_t, rng)
    if volumetric and region == "brain" and rng.random() < 0.65:
        tr, te = rng.uniform(1500, 2500), rng.uniform(2.2, 4.6)
        ti = _fluid_null_ms(field_t, tr) * rng.uniform(0.95, 1.12)
        return Protocol(sequence, "inversion_recovery", field_t, tr, te, ti, 9.0, contrast=contrast, uptake=uptake)
    if volumetric or rng.random() < 0.3:
        tr, te, flip = rng.uniform(6, 25), rng.uniform(1.4, 5), rng.uniform(12, 30)
        if not volumetric:
            tr, flip = rng.uniform(100, 250), rng.uniform(60, 80)
        return Protocol(sequence, "gradient_echo", field_t, tr, te, None, flip, contrast=contrast, uptake=uptake)
    if region in ("brain", "spine") and rng.random() < 0.2:
        tr, te = rng.uniform(1700, 2400), rng.uniform(8, 24)
        ti = _fluid_null_ms(field_t, tr) * rng.uniform(0.95, 1.05)
        return Protocol(sequence, "inversion_recovery", field_t, tr, te, ti, contrast=contrast, uptake=uptake)
    tr, te = rng.uniform(350, 750), rng.uniform(7, 18)
    return Protocol(sequence, "spin_echo", field_t, tr, te, contrast=contrast, uptake=uptake)


def _fluid_null_ms(field_t: float, tr_ms: float) -> float:
    return null_time_ms(float(tissue_values("t1_ms", field_t)[Tissue.CSF]), tr_ms)


def _draw_late(sequence: str, field_t: float, rng: np.random.Generator) -> Protocol:
    """Late enhancement: healthy myocardium is nulled, scars and blood are bright."""
    t1, uptake = (
        tissue_values("t1_ms", field_t)[Tissue.MYOCARDIUM],
        tissue_values("uptake_mmol_l")[Tissue.MYOCARDIUM],
    )
    tr, te, dose = rng.uniform(650, 1000), rng.uniform(1.5, 4), float(rng.uniform(0.7, 1.3))
    ti = null_time_ms(float(enhanced_t1_ms(t1, dose * uptake)), tr) * rng.uniform(0.94, 1.06)
    return Protocol(sequence, "inversion_recovery", field_t, tr, te, ti, 20.0, contrast=True, uptake=dose, late=True)


def _draw_t2(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    te = rng.uniform(86, 130) if rng.random() < 0.85 else rng.uniform(130, 200)
    if region == "heart":
        te = rng.uniform(60, 100)
    protocol = Protocol(sequence, "spin_echo", field_t, rng.uniform(3000, 6500), te)
    return _echo_train(protocol, 0.4, rng)


def _draw_pd(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    return Protocol(sequence, "spin_echo", field_t, rng.uniform(2000, 4500), rng.uniform(8, 35))


def _draw_flair(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    """2D with a long TR, or 3D with a short one, whose white matter is about as bright as grey."""
    long = rng.random() < (0.3 if volumetric else 0.8)
    tr = rng.uniform(7500, 11000) if long else rng.uniform(4800, 7500)
    ti = _fluid_null_ms(field_t, tr) * rng.uniform(0.86, 1.08)
    protocol = Protocol(sequence, "inversion_recovery", field_t, tr, rng.uniform(80, 145), ti)
    return _echo_train(protocol, 0.25, rng)


def _echo_train(protocol: Protocol, least: float, rng: np.random.Generator) -> Protocol:
    """The same read by a train of echoes, in whose time T2 acts for a share of `least` to 1."""
    return replace(protocol, t2_share=rng.uniform(least, 1.0), fat_gain=rng.uniform(1.0, BRIGHTEST_FAT))


def _draw_stir(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    tr = rng.uniform(3000, 6500)
    fat_t1 = float(tissue_values("t1_ms", field_t)[Tissue.FAT])
    ti = null_time_ms(fat_t1, tr) * rng.uniform(0.95, 1.05)
    return Protocol(sequence, "inversion_recovery", field_t, tr, rng.uniform(25, 75), ti)


def _draw_t2star(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    te = rng.uniform(16, 30) if region == "brain" else rng.uniform(9, 18)
    return Protocol(sequence, "gradient_echo", field_t, rng.uniform(450, 850), te, None, rng.uniform(12, 25))


def _draw_swi(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    te = rng.uniform(34, 42) if field_t < 2 else rng.uniform(18, 26)
    return Protocol(sequence, "gradient_echo", field_t, rng.uniform(27, 50), te, None, rng.uniform(12, 18))


def _draw_mra(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    """Time of flight: a saturated slab into which blood comes fresh."""
    tr, te, flip = rng.uniform(20, 32), rng.uniform(3, 7), rng.uniform(16, 28)
    return Protocol(sequence, "gradient_echo", field_t, tr, te, None, flip, inflow=True)


def _draw_cine(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    tr = rng.uniform(2.6, 4.2)
    return Protocol(sequence, "balanced", field_t, tr, tr / 2, None, rng.uniform(35, 70))


def _draw_dce(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    """One phase of a dynamic series, soon or later after the bolus."""
    tr, te, flip = rng.uniform(3.5, 7), rng.uniform(1.2, 2.6), rng.uniform(10, 20)
    uptake = float(rng.uniform(0.4, 1.8))
    return Protocol(sequence, "gradient_echo", field_t, tr, te, None, flip, contrast=True, uptake=uptake)


def _draw_epi(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    """Gradient-echo EPI, as of functional and perfusion series; always fat suppressed."""
    te = rng.uniform(38, 55) if field_t < 2 else rng.uniform(25, 36)
    tr, flip = rng.uniform(1500, 3500), rng.uniform(65, 89)
    return Protocol(sequence, "gradient_echo", field_t, tr, te, None, flip, fat_suppressed=True)


def _draw_diffusion(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    b_values = [800.0, 1000.0, 1000.0, 1500.0] if region == "brain" else [400.0, 500.0, 600.0, 800.0, 1000.0]
    kind = "diffusion" if sequence == "DWI" else "adc"
    tr, te, b_value = rng.uniform(3000, 9000), rng.uniform(55, 100), float(rng.choice(b_values))
    return Protocol(sequence, kind, field_t, tr, te, None, 90.0, b_value, fat_suppressed=True, fat_left=0.06)


DRAWN: dict[str, Callable[[str, str, float, bool, np.random.Generator], Protocol]] = {
    "T1": _draw_t1,
    "T1C": _draw_t1,
    "T2": _draw_t2,
    "FLAIR": _draw_flair,
    "PD": _draw_pd,
    "T2STAR": _draw_t2star,
    "STIR": _draw_stir,
    "DWI": _draw_diffusion,
    "ADC": _draw_diffusion,
    "CINE": _draw_cine,
    "MRA": _draw_mra,
    "SWI": _draw_swi,
    "EPI": _draw_epi,
    "DCE": _draw_dce,
}
SEQUENCES = tuple(DRAWN)
