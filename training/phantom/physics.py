"""Signal equations of MRI: tissue properties and sequence timing to signal.

- Equations of a steady, ideal pulse train, as in Haacke, Magnetic Resonance Imaging, and Bernstein, Handbook of MRI Pulse
  Sequences; times in ms, angles in degrees, b in s/mm2, diffusion in um2/ms. All work on scalars and on arrays.
- What no equation of a resting tissue tells (fat suppression, blood that leaves or enters the slice, opposed phase) is done
  to the signal of the tissues after.
"""

from dataclasses import dataclass

import numpy as np

from training.phantom.tissue import BRAIN, FATTY, Tissue, tissue_values

Value = float | np.ndarray
RELAXIVITY_PER_MMOL_S = 4.3  # gadolinium chelates at 37 C in plasma, Rohrer 2005
LATE_SHARE = 0.4
"""of the contrast agent in blood that is left ten minutes after, when scars are looked for"""

BLOOD_GAIN = {"EPI": 1.0, "SWI": 0.35, "CINE": 1.5}
"""of blood in a gradient echo: what comes fresh into a slice, but for veins that lose phase"""

MAGNETISATION_LEFT = 0.6
"""of brain, where angiography saturates what is bound to proteins"""


def spin_echo(pd: Value, t1_ms: Value, t2_ms: Value, tr_ms: float, te_ms: float) -> Value:
    """Spin echo: PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    return pd * (1 - np.exp(-tr_ms / t1_ms)) * np.exp(-te_ms / t2_ms)


def inversion_recovery(pd: Value, t1_ms: Value, t2_ms: Value, tr_ms: float, te_ms: float, ti_ms: float) -> Value:
    """Magnitude of an inversion-prepared echo: PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)."""
    return pd * np.abs(1 - 2 * np.exp(-ti_ms / t1_ms) + np.exp(-tr_ms / t1_ms)) * np.exp(-te_ms / t2_ms)


def spoiled_gradient_echo(
    pd: Value, t1_ms: Value, t2star_ms: Value, tr_ms: float, te_ms: float, flip_deg: float
) -> Value:
    """Ernst's steady state: PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2*), with E1 = exp(-TR/T1)."""
    recovery, flip = np.exp(-tr_ms / t1_ms), np.deg2rad(flip_deg)
    return pd * np.sin(flip) * (1 - recovery) / (1 - np.cos(flip) * recovery) * np.exp(-te_ms / t2star_ms)


def balanced_gradient_echo(pd: Value, t1_ms: Value, t2_ms: Value, tr_ms: float, te_ms: float, flip_deg: float) -> Value:
    """Balanced steady state on resonance: PD sin(a) (1 - E1) / (1 - (E1 - E2) cos(a) - E1 E2) exp(-TE/T2), Freeman-Hill."""
    e1, e2, flip = np.exp(-tr_ms / t1_ms), np.exp(-tr_ms / t2_ms), np.deg2rad(flip_deg)
    return pd * np.sin(flip) * (1 - e1) / (1 - (e1 - e2) * np.cos(flip) - e1 * e2) * np.exp(-te_ms / t2_ms)


def diffusion_weighted(pd: Value, t2_ms: Value, adc_um2_ms: Value, te_ms: float, b_s_mm2: float) -> Value:
    """Diffusion-weighted echo-planar spin echo at long TR: PD exp(-TE/T2) exp(-b ADC)."""
    return pd * np.exp(-te_ms / t2_ms) * np.exp(-b_s_mm2 * np.asarray(adc_um2_ms) * 1e-3)


def null_time_ms(t1_ms: float, tr_ms: float) -> float:
    """Inversion time in ms at which a tissue gives no signal: T1 ln(2 / (1 + exp(-TR/T1)))."""
    return float(t1_ms * np.log(2 / (1 + np.exp(-tr_ms / t1_ms))))


def enhanced_t1_ms(t1_ms: Value, uptake_mmol_l: Value) -> Value:
    """T1 in ms with contrast agent: 1/T1' = 1/T1 + r1 C, Solomon and Bloembergen's linear relaxivity."""
    return 1 / (1 / t1_ms + RELAXIVITY_PER_MMOL_S * 1e-3 * uptake_mmol_l)


@dataclass(frozen=True)
class Protocol:
    """How one series is measured: sequence of the vocabulary, kind of equation, timing in ms, degrees and s/mm2, Tesla.

    fat_left: share of fat's signal that suppression leaves; opposed: echo at which fat and water cancel; inflow: blood
    comes fresh into a saturated slab; uptake: the contrast agent against a standard dose some minutes after it; late: ten
    minutes after; t2_share: of the echo time in which T2 acts: refocusing by less than 180 degrees keeps magnetisation along
    the field meanwhile (Busse et al., 2006); fat_gain: of fat, whose coupled spins a train of close echoes keeps in phase
    (Henkelman et al., 1992).
    """

    sequence: str
    kind: str  # "spin_echo", "inversion_recovery", "gradient_echo", "balanced", "diffusion" or "adc"
    field_strength_t: float
    repetition_time_ms: float
    echo_time_ms: float
    inversion_time_ms: float | None = None
    flip_angle_deg: float = 90.0
    b_value: float | None = None
    fat_suppressed: bool = False
    contrast: bool = False
    fat_left: float = 0.1
    opposed: bool = False
    inflow: bool = False
    uptake: float = 1.0
    late: bool = False
    t2_share: float = 1.0
    fat_gain: float = 1.0


def tissue_signal(protocol: Protocol, rng: np.random.Generator | None = None, spread: float = 0.04) -> np.ndarray:
    """Signal of every tissue, float32 (tissues,), by Tissue value, negative where its phase is opposed; `rng` gives each
    property a patient's own value, log-normal with deviation `spread` (CSF keeps its T1: it is water)."""
    field = protocol.field_strength_t
    names = ("pd", "t1_ms", "t2_ms", "t2star_ms", "adc_um2_ms")
    pd, t1, t2, t2star, adc = (_individual(tissue_values(name, field), rng, spread) for name in names)
    t1[Tissue.CSF] = tissue_values("t1_ms", field)[Tissue.CSF]
    if protocol.contrast:
        t1 = np.asarray(enhanced_t1_ms(t1, protocol.uptake * _uptake_mmol_l(protocol.late)))
    tr, te, ti, flip = (
        protocol.repetition_time_ms,
        protocol.echo_time_ms * protocol.t2_share,
        protocol.inversion_time_ms,
        protocol.flip_angle_deg,
    )
    if protocol.kind == "adc":
        return np.asarray(adc, np.float32)
    if protocol.kind == "diffusion":
        signal: Value = diffusion_weighted(pd, t2, adc, te, protocol.b_value or 0.0)
    elif protocol.kind == "gradient_echo":
        signal = spoiled_gradient_echo(pd, t1, t2star, tr, te, flip)
    elif protocol.kind == "balanced":
        signal = balanced_gradient_echo(pd, t1, t2, tr, te, flip)
    elif protocol.kind == "inversion_recovery":
        signal = inversion_recovery(pd, t1, t2, tr, te, ti or 0.0)
    else:
        signal = spin_echo(pd, t1, t2, tr, te)
    return np.asarray(_prepared(np.array(signal), protocol), np.float32)


def _uptake_mmol_l(late: bool) -> np.ndarray:
    """Contrast agent in every tissue, minutes after it was given, or late, when the blood has lost most of it."""
    uptake = tissue_values("uptake_mmol_l")
    if late:
        uptake[Tissue.BLOOD] *= LATE_SHARE
    return uptake


def _individual(values: np.ndarray, rng: np.random.Generator | None, spread: float) -> np.ndarray:
    """The values of one patient: log-normal about the table."""
    return values if rng is None else values * np.exp(spread * rng.standard_normal(values.shape))


def _prepared(signal: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Bright, suppressed or opposed fat; blood, which leaves the slice of a spin echo before it is read (flow void) and comes
    fresh into a gradient echo's."""
    signal[list(FATTY)] *= protocol.fat_gain
    if protocol.fat_suppressed:
        signal[list(FATTY)] *= protocol.fat_left
        signal[Tissue.RED_MARROW] *= 0.4 + protocol.fat_left
    if protocol.opposed:
        signal[list(FATTY)] *= -1
        signal[Tissue.RED_MARROW] *= 0.25
    if protocol.inflow:
        fresh = tissue_values("pd")[Tissue.BLOOD] * np.sin(np.deg2rad(protocol.flip_angle_deg))
        signal[Tissue.BLOOD] = max(float(fresh), 2 * float(signal[Tissue.BLOOD]))
        signal[list(BRAIN)] *= MAGNETISATION_LEFT
    elif protocol.kind in ("gradient_echo", "balanced") and not protocol.contrast:
        signal[Tissue.BLOOD] *= BLOOD_GAIN.get(protocol.sequence, 1.8)
    elif protocol.flip_angle_deg == 90:
        signal[Tissue.BLOOD] *= 0.5 if protocol.contrast else 0.06
    return signal
