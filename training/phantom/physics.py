"""Signal equations of MRI: tissue properties and sequence timing to signal.

- Equations of a steady, ideal pulse train, as in Haacke, Magnetic Resonance Imaging, and Bernstein, Handbook of MRI Pulse
  Sequences; times in ms, angles in degrees, b in s/mm2, diffusion in um2/ms. All work on scalars and on arrays.
- A protocol draws its timing from the ranges found in clinical headers; inversion times lie near the null of the
  tissue that the sequence means to suppress, since that is how they are chosen at the scanner.
"""

from dataclasses import dataclass, replace

import numpy as np

from training.phantom.tissue import FATTY, Tissue, tissue_values

Value = float | np.ndarray
RELAXIVITY_PER_MMOL_S = 4.3  # gadolinium chelates at 37 C in plasma, Rohrer 2005


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
    """How one series is measured: sequence of the vocabulary, kind of equation, timing in ms, degrees and s/mm2, Tesla."""

    sequence: str
    kind: str  # "spin_echo", "inversion_recovery", "gradient_echo", "diffusion" or "adc"
    field_strength_t: float
    repetition_time_ms: float
    echo_time_ms: float
    inversion_time_ms: float | None = None
    flip_angle_deg: float = 90.0
    b_value: float | None = None
    fat_suppressed: bool = False
    contrast: bool = False


def draw_protocol(
    sequence: str, region: str, field_strength_t: float, volumetric: bool, rng: np.random.Generator
) -> Protocol:
    """A protocol for `sequence` (T1, T1C, T2, FLAIR, PD, T2STAR, STIR, DWI, ADC) with timing from clinical ranges."""
    draw = {
        "T1": _draw_t1,
        "T1C": _draw_t1,
        "T2": _draw_t2,
        "PD": _draw_pd,
        "FLAIR": _draw_flair,
        "STIR": _draw_stir,
        "T2STAR": _draw_t2star,
        "DWI": _draw_diffusion,
        "ADC": _draw_diffusion,
    }[sequence]
    protocol = draw(sequence, region, field_strength_t, volumetric, rng)
    if sequence in ("T1C", "T2", "PD") and region != "brain":
        likely = {"T1C": 0.75, "PD": 0.6, "T2": 0.35}[sequence]
        protocol = replace(protocol, fat_suppressed=bool(rng.random() < likely))
    return protocol


def _draw_t1(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    contrast = sequence == "T1C"
    if volumetric and region == "brain" and rng.random() < 0.65:
        tr, ti = rng.uniform(1800, 2400), rng.uniform(850, 1050)
        return Protocol(sequence, "inversion_recovery", field_t, tr, rng.uniform(2.2, 4.6), ti, 9.0, contrast=contrast)
    if volumetric or rng.random() < 0.25:
        tr, te, flip = rng.uniform(6, 25), rng.uniform(1.8, 5), rng.uniform(14, 30)
        return Protocol(sequence, "gradient_echo", field_t, tr, te, None, flip, contrast=contrast)
    return Protocol(sequence, "spin_echo", field_t, rng.uniform(400, 680), rng.uniform(8, 16), contrast=contrast)


def _draw_t2(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    return Protocol(sequence, "spin_echo", field_t, rng.uniform(3500, 6500), rng.uniform(80, 118))


def _draw_pd(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    return Protocol(sequence, "spin_echo", field_t, rng.uniform(2200, 4000), rng.uniform(11, 30))


def _draw_flair(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    tr = rng.uniform(8000, 11000)
    csf_t1 = float(tissue_values("t1_ms", field_t)[Tissue.CSF])
    ti = null_time_ms(csf_t1, tr) * rng.uniform(0.975, 1.02)
    return Protocol(sequence, "inversion_recovery", field_t, tr, rng.uniform(85, 135), ti)


def _draw_stir(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    tr = rng.uniform(3500, 6500)
    fat_t1 = float(tissue_values("t1_ms", field_t)[Tissue.FAT])
    ti = null_time_ms(fat_t1, tr) * rng.uniform(0.95, 1.05)
    return Protocol(sequence, "inversion_recovery", field_t, tr, rng.uniform(28, 65), ti)


def _draw_t2star(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    te = rng.uniform(18, 28) if region == "brain" else rng.uniform(10, 18)
    return Protocol(sequence, "gradient_echo", field_t, rng.uniform(500, 850), te, None, rng.uniform(15, 25))


def _draw_diffusion(sequence: str, region: str, field_t: float, volumetric: bool, rng: np.random.Generator) -> Protocol:
    b_value = 1000.0 if region == "brain" else float(rng.choice([500.0, 600.0, 800.0]))
    kind = "diffusion" if sequence == "DWI" else "adc"
    tr, te = rng.uniform(4000, 8000), rng.uniform(58, 92)
    return Protocol(sequence, kind, field_t, tr, te, None, 90.0, b_value, fat_suppressed=True)


def tissue_signal(protocol: Protocol, rng: np.random.Generator | None = None, spread: float = 0.04) -> np.ndarray:
    """Signal of every tissue, float32 (tissues,), by Tissue value; `rng` gives each property a patient's own value,
    log-normal with deviation `spread` (CSF keeps its T1: it is water)."""
    field = protocol.field_strength_t
    names = ("pd", "t1_ms", "t2_ms", "t2star_ms", "adc_um2_ms")
    pd, t1, t2, t2star, adc = (_individual(tissue_values(name, field), rng, spread) for name in names)
    t1[Tissue.CSF] = tissue_values("t1_ms", field)[Tissue.CSF]
    if protocol.contrast:
        t1 = np.asarray(enhanced_t1_ms(t1, tissue_values("uptake_mmol_l")))
    tr, te, ti = protocol.repetition_time_ms, protocol.echo_time_ms, protocol.inversion_time_ms
    if protocol.kind == "adc":
        return np.asarray(adc, np.float32)
    if protocol.kind == "diffusion":
        signal: Value = diffusion_weighted(pd, t2, adc, te, protocol.b_value or 0.0)
    elif protocol.kind == "gradient_echo":
        signal = spoiled_gradient_echo(pd, t1, t2star, tr, te, protocol.flip_angle_deg)
    elif protocol.kind == "inversion_recovery":
        signal = inversion_recovery(pd, t1, t2, tr, te, ti or 0.0)
    else:
        signal = spin_echo(pd, t1, t2, tr, te)
    return np.asarray(_prepared(np.array(signal), protocol), np.float32)


def _individual(values: np.ndarray, rng: np.random.Generator | None, spread: float) -> np.ndarray:
    """The values of one patient: log-normal about the table."""
    return values if rng is None else values * np.exp(spread * rng.standard_normal(values.shape))


def _prepared(signal: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Fat suppression leaves a tenth; flowing blood leaves the slice of a spin echo before it is read (flow void),
    and enters fresh in a gradient echo."""
    if protocol.fat_suppressed:
        signal[list(FATTY)] *= 0.1
        signal[Tissue.RED_MARROW] *= 0.5
    if protocol.kind == "gradient_echo" and not protocol.contrast:
        signal[Tissue.BLOOD] *= 1.8
    elif protocol.flip_angle_deg == 90 and not protocol.contrast:
        signal[Tissue.BLOOD] *= 0.12
    return signal
