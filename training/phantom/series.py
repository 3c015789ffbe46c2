"""A digital patient's visit: one anatomy, several series, each with its own geometry, labels and report.

- Random streams are split by purpose, so that asking for other sequences leaves the patient as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import DecipherError
from models.volume import Volume
from training.phantom.anatomy import BUILDERS, Anatomy, make_anatomy
from training.phantom.lesion import intensity
from training.phantom.person import draw_person
from training.phantom.physics import Protocol, draw_protocol, tissue_signal
from training.phantom.report import write_report
from training.phantom.scanner import Geometry, acquire, coil_bias, draw_geometry, rician
from training.phantom.tissue import tissue_values

SEQUENCES = ("T1", "T1C", "T2", "FLAIR", "PD", "T2STAR", "STIR", "DWI", "ADC")
SEQUENCE_WEIGHTS = {
    "brain": (0.2, 0.15, 0.17, 0.18, 0.07, 0.06, 0.03, 0.07, 0.07),
    "knee": (0.2, 0.04, 0.22, 0.02, 0.28, 0.06, 0.16, 0.01, 0.01),
    "abdomen": (0.22, 0.16, 0.26, 0.02, 0.02, 0.06, 0.06, 0.1, 0.1),
    "spine": (0.26, 0.12, 0.3, 0.02, 0.04, 0.06, 0.18, 0.01, 0.01),
    "pelvis": (0.22, 0.1, 0.34, 0.02, 0.03, 0.03, 0.06, 0.1, 0.1),
}
PLANE_WEIGHTS = {  # axial, sagittal, coronal, 3d
    "brain": (0.5, 0.12, 0.1, 0.28),
    "knee": (0.22, 0.45, 0.25, 0.08),
    "abdomen": (0.6, 0.05, 0.27, 0.08),
    "spine": (0.25, 0.6, 0.07, 0.08),
    "pelvis": (0.5, 0.25, 0.2, 0.05),
}
SLICE_MM = {"brain": (4.0, 6.5), "knee": (3.0, 4.5), "abdomen": (5.0, 8.0), "spine": (3.3, 5.0), "pelvis": (4.0, 7.0)}
PLANES = ("axial", "sagittal", "coronal", "3d")
VENDORS = ("Siemens", "GE", "Philips", "Canon")


@dataclass(frozen=True)
class PhantomSeries:
    """volume (RAS+); labels and tags as in the catalogue's columns; report; lesion_mask bool (1, I, J, K) of the volume."""

    volume: Volume
    labels: dict[str, Any]
    tags: dict[str, Any]
    report: str
    lesion_mask: np.ndarray


def make_patient(
    seed: int,
    region: str | None = None,
    sequences: Sequence[str] | None = None,
    *,
    diagnosis: str | None = None,
    skull_stripped: bool | None = None,
    voxel_mm: float | None = None,
    max_voxels: int = 96,
) -> list[PhantomSeries]:
    """The series of one digital patient, the same for the same arguments.

    region: one of anatomy.BUILDERS; sequences: of SEQUENCES, two to four; diagnosis: "healthy" or of lesion.LESIONS;
    skull_stripped: of a brain, about one in three. What is None is drawn.
    voxel_mm: edge of the anatomy's voxels, coarser is faster; max_voxels: longest side of a series.
    DecipherError for an unknown region, sequence or diagnosis.
    """
    who, how = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    region = region or str(who.choice(list(BUILDERS)))
    _check(region, sequences)
    anatomy = make_anatomy(region, draw_person(who), who, voxel_mm, diagnosis)
    visit = {
        "field_strength_t": float(how.choice([1.5, 3.0])),
        "vendor": str(how.choice(VENDORS, p=[0.4, 0.25, 0.25, 0.1])),
        "skull_stripped": region == "brain" and (how.random() < 0.35 if skull_stripped is None else skull_stripped),
    }
    chosen = list(sequences) if sequences else _draw_sequences(region, how)
    return [
        _scan(anatomy, sequence, visit, np.random.default_rng([seed, 2, index]), max_voxels)
        for index, sequence in enumerate(chosen)
    ]


def _check(region: str, sequences: Sequence[str] | None) -> None:
    if region not in BUILDERS:
        raise DecipherError(f"The phantom has no region {region!r}.", f"Regions: {', '.join(BUILDERS)}.")
    unknown = [s for s in sequences or () if s not in SEQUENCES]
    if unknown:
        raise DecipherError(f"The phantom has no sequence {unknown[0]!r}.", f"Sequences: {', '.join(SEQUENCES)}.")


def _draw_sequences(region: str, rng: np.random.Generator) -> list[str]:
    count = int(rng.integers(2, 5))
    return [str(s) for s in rng.choice(SEQUENCES, count, replace=False, p=SEQUENCE_WEIGHTS[region])]


def _scan(
    anatomy: Anatomy, sequence: str, visit: dict[str, Any], rng: np.random.Generator, max_voxels: int
) -> PhantomSeries:
    """One series: protocol, geometry, signal, acquisition, labels, report."""
    echo_planar = sequence in ("DWI", "ADC")
    planes = np.array(PLANE_WEIGHTS[anatomy.region])
    plane = str(rng.choice(PLANES, p=planes))
    plane = "axial" if echo_planar and rng.random() < 0.9 else plane
    protocol = draw_protocol(sequence, anatomy.region, visit["field_strength_t"], plane == "3d", rng)
    centre, extent = anatomy.field_mm(plane, visit["skull_stripped"], close=rng.random() < 0.35)
    geometry = draw_geometry(
        plane, centre, extent, rng, int(max_voxels * (0.8 if echo_planar else 1)), SLICE_MM[anatomy.region]
    )
    image = _image(anatomy, protocol, geometry, visit["skull_stripped"], rng)
    mask = _lesion_mask(anatomy, geometry)
    labels = {
        "body_region": anatomy.region,
        "sequence": sequence,
        "plane": plane,
        "contrast": "yes" if protocol.contrast else "no",
        "age_years": anatomy.person.age_years,
        "sex": anatomy.person.sex,
        "diagnosis": anatomy.finding.diagnosis if mask.any() else "healthy",
        "lesion": "yes" if mask.any() else "no",
        "skull_stripped": "yes" if visit["skull_stripped"] else "no",
    }
    signal = tissue_signal(protocol, np.random.default_rng(anatomy.chemistry_seed))
    report = write_report(labels, anatomy.finding, intensity(anatomy.finding.diagnosis, signal), rng)
    tags = _tags(protocol, visit) | {"slice_thickness_mm": geometry.thickness_mm}
    return PhantomSeries(Volume(image[None], geometry.affine_mm), labels, tags, report, mask[None])


def _tags(protocol: Protocol, visit: dict[str, Any]) -> dict[str, Any]:
    timing = {
        name: getattr(protocol, name)
        for name in ("repetition_time_ms", "echo_time_ms", "inversion_time_ms", "flip_angle_deg", "b_value")
    }
    rounded = {name: None if value is None else round(float(value), 1) for name, value in timing.items()}
    return rounded | {
        "field_strength_t": protocol.field_strength_t,
        "vendor": visit["vendor"],
        "fat_suppressed": protocol.fat_suppressed,
    }


def _contrast(anatomy: Anatomy, protocol: Protocol, stripped: bool) -> np.ndarray:
    """Signal of every voxel of the anatomy, float32 (I, J, K), with the texture of its tissues."""
    signal = tissue_signal(protocol, np.random.default_rng(anatomy.chemistry_seed))
    contrast = np.take(tissue_values("texture").astype(np.float32), anatomy.labels)
    contrast *= anatomy.texture
    contrast += 1
    contrast *= np.take(signal, anatomy.labels)
    if stripped and anatomy.brain_mask is not None:
        contrast *= anatomy.brain_mask
    return contrast


def _image(
    anatomy: Anatomy, protocol: Protocol, geometry: Geometry, stripped: bool, rng: np.random.Generator
) -> np.ndarray:
    """Float32 (I, J, K): the acquired magnitude image at an arbitrary scale; ADC in 1e-6 mm2/s."""
    image = np.clip(acquire(_contrast(anatomy, protocol, stripped), anatomy.affine_mm, geometry), 0, None)
    if protocol.kind == "adc":
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        return np.clip(image * (1000 + 60 * grain), 0, None)
    noise = float(rng.uniform(0.006, 0.03)) * float(np.percentile(image, 99))
    image = rician(image * coil_bias(geometry, anatomy.region, rng), noise, rng)
    if stripped and anatomy.brain_mask is not None:
        image *= acquire(anatomy.brain_mask.astype(np.float32), anatomy.affine_mm, geometry) > 0.4
    return image * np.float32(rng.uniform(150, 2500) / max(float(np.percentile(image, 99.5)), 1e-6))


def _lesion_mask(anatomy: Anatomy, geometry: Geometry) -> np.ndarray:
    """Bool (I, J, K): voxels of the series of which at least 0.3 is lesion."""
    if not anatomy.lesion_mask.any():
        return np.zeros(geometry.shape, bool)
    return acquire(anatomy.lesion_mask.astype(np.float32), anatomy.affine_mm, geometry) > 0.3
