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
from training.phantom.head_map import HeadMap
from training.phantom.imaging import make_image
from training.phantom.lesion import intensity
from training.phantom.person import draw_person
from training.phantom.physics import Protocol, tissue_signal
from training.phantom.practice import CLOSE, ECHO_PLANAR, SLICE_MM, draw_plane, draw_sequences, draw_view
from training.phantom.protocol import SEQUENCES, draw_protocol
from training.phantom.report import write_report
from training.phantom.scanner import Geometry, acquire, draw_geometry

VENDORS = ("Siemens", "GE", "Philips", "Canon")
FEMALE_SHARE = {"breast": 0.97}
"""of the patients of a region; elsewhere one half"""


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
    head: HeadMap | None = None,
) -> list[PhantomSeries]:
    """The series of one digital patient, the same for the same arguments.

    region: one of anatomy.BUILDERS; sequences: of protocol.SEQUENCES, two to four; diagnosis: "healthy" or of lesion.LESIONS;
    skull_stripped: of a brain, about one in three. What is None is drawn.
    voxel_mm: edge of the anatomy's voxels, coarser is faster; max_voxels: longest side of a series.
    head: the tissues of a real head, in whose place the patient's brain is built; what is not known of that person is
    None in the labels.
    DecipherError for an unknown region, sequence or diagnosis.
    """
    who, how = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    region = "brain" if head else region or str(who.choice(list(BUILDERS)))
    _check(region, sequences)
    person = draw_person(who, female_share=FEMALE_SHARE.get(region, 0.5))
    anatomy = make_anatomy(region, person, who, voxel_mm, diagnosis, head)
    visit = {
        "field_strength_t": float(how.choice([1.5, 3.0])),
        "vendor": str(how.choice(VENDORS, p=[0.4, 0.25, 0.25, 0.1])),
        "skull_stripped": region == "brain" and _without_skull(skull_stripped, head, how),
    }
    chosen = list(sequences) if sequences else draw_sequences(region, how)
    known = _known(anatomy, head) | {"skull_stripped": "yes" if visit["skull_stripped"] else "no"}
    return [
        _scan(anatomy, sequence, visit, known, np.random.default_rng([seed, 2, index]), max_voxels)
        for index, sequence in enumerate(chosen)
    ]


def _without_skull(wish: bool | None, head: HeadMap | None, rng: np.random.Generator) -> bool:
    """As wished, else one brain in three; a head that came without a skull has none to show."""
    drawn = bool(rng.random() < 0.35) if wish is None else wish
    return drawn or (head is not None and not head.whole)


def _known(anatomy: Anatomy, head: HeadMap | None) -> dict[str, Any]:
    """Labels of the patient: what is not known of a real head's owner is None."""
    person = head or anatomy.person
    return {
        "body_region": anatomy.region,
        "age_years": person.age_years,
        "sex": person.sex,
        "own_lesion": head.lesion if head else "no",
    }


def _check(region: str, sequences: Sequence[str] | None) -> None:
    if region not in BUILDERS:
        raise DecipherError(f"The phantom has no region {region!r}.", f"Regions: {', '.join(BUILDERS)}.")
    unknown = [s for s in sequences or () if s not in SEQUENCES]
    if unknown:
        raise DecipherError(f"The phantom has no sequence {unknown[0]!r}.", f"Sequences: {', '.join(SEQUENCES)}.")


def _scan(
    anatomy: Anatomy,
    sequence: str,
    visit: dict[str, Any],
    known: dict[str, Any],
    rng: np.random.Generator,
    max_voxels: int,
) -> PhantomSeries:
    """One series: protocol, geometry, signal, acquisition, labels, report."""
    geometry = _geometry(anatomy, sequence, visit["skull_stripped"], rng, max_voxels)
    protocol = draw_protocol(sequence, anatomy.region, visit["field_strength_t"], geometry.plane == "3d", rng)
    image = make_image(anatomy, protocol, geometry, visit["skull_stripped"], rng)
    mask = _lesion_mask(anatomy, geometry)
    labels = _labels(anatomy, protocol, geometry, known, bool(mask.any()))
    signal = np.abs(tissue_signal(protocol, np.random.default_rng(anatomy.chemistry_seed)))
    report = write_report(labels, anatomy.finding, intensity(anatomy.finding.diagnosis, signal), rng)
    tags = _tags(protocol, visit) | {"slice_thickness_mm": geometry.thickness_mm}
    return PhantomSeries(Volume(image[None], geometry.affine_mm), labels, tags, report, mask[None])


def _geometry(anatomy: Anatomy, sequence: str, stripped: bool, rng: np.random.Generator, max_voxels: int) -> Geometry:
    """Where the series lies: the region's usual field or that of one organ, its planes, slices and obliquity."""
    region = anatomy.region
    plane = draw_plane(region, sequence, rng)
    close = rng.random() < CLOSE.get(region, 0.0)
    centre, extent = anatomy.field_mm(plane, stripped, close, rng)
    fineness = {"EPI": 0.6}.get(sequence, 0.8 if sequence in ECHO_PLANAR else 1.0)
    normal = draw_view(region, plane, rng)
    return draw_geometry(plane, centre, extent, rng, int(max_voxels * fineness), SLICE_MM[region], normal=normal)


def _labels(
    anatomy: Anatomy, protocol: Protocol, geometry: Geometry, known: dict[str, Any], shown: bool
) -> dict[str, Any]:
    """Labels of one series; whether a real head that may be ill is healthy is not known."""
    own = known["own_lesion"]
    return {name: value for name, value in known.items() if name != "own_lesion"} | {
        "sequence": protocol.sequence,
        "plane": geometry.plane,
        "contrast": "yes" if protocol.contrast else "no",
        "diagnosis": anatomy.finding.diagnosis if shown else "healthy" if own == "no" else None,
        "lesion": "yes" if shown else own,
    }


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
        "gradient_echo": protocol.kind in ("gradient_echo", "balanced") or protocol.flip_angle_deg < 60,
    }


def _lesion_mask(anatomy: Anatomy, geometry: Geometry) -> np.ndarray:
    """Bool (I, J, K): voxels of the series of which at least 0.3 is lesion."""
    if not anatomy.lesion_mask.any():
        return np.zeros(geometry.shape, bool)
    return acquire(anatomy.lesion_mask.astype(np.float32), anatomy.affine_mm, geometry) > 0.3
