"""Contradictions: each kind is told, its neighbours that are no contradiction are not, and no header text is quoted."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.contradictions import age_contradiction, contradictions
from index.sequence import Tags
from index.vocabulary import listed

AXIAL = {
    "plane": "axial",
    "spacing_mm": [0.5, 0.5, 4.0],
    "affine_mm": [0.5, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 4.0, 0, 0, 0, 0, 1],
}
SAGITTAL = {
    "plane": "sagittal",
    "spacing_mm": [4.0, 0.5, 0.5],
    "affine_mm": [4.0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 1],
}


def spin(description: str, repetition: float, echo: float, **more: Any) -> Tags:
    tags = {"scanning_sequence": ("SE",), "repetition_time_ms": repetition, "echo_time_ms": echo, **more}
    return Tags(series_description=description, **tags)  # type: ignore[typeddict-item]


def gradient(description: str, repetition: float, echo: float, **more: Any) -> Tags:
    return spin(description, repetition, echo, **{"scanning_sequence": ("GR",), **more})


def tilted(degrees: float) -> dict[str, Any]:
    """A stack whose slices' normal is turned from the foot-head axis towards the front."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    affine = [0.5, 0, 0, 0, 0, 0.5 * cos, 4 * sin, 0, 0, -0.5 * sin, 4 * cos, 0, 0, 0, 0, 1]
    return {**AXIAL, "affine_mm": affine}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (spin("AX T1 FS", 4000, 90), "described as T1, timed as T2 (TR 4000, TE 90)"),
        (
            spin("AX T1", 9000, 120, inversion_time_ms=2500.0),
            "described as T1, timed as FLAIR (TR 9000, TE 120, TI 2500)",
        ),
        (spin("SAG T2 TSE", 520, 11), "described as T2, timed as T1 (TR 520, TE 11)"),
        (spin("SAG PD FS", 3500, 96.4), "described as PD, timed as T2 (TR 3500, TE 96.4)"),
        (
            spin("COR STIR", 9000, 110, inversion_time_ms=2500.0),
            "described as STIR, timed as FLAIR (TR 9000, TE 110, TI 2500)",
        ),
        (
            spin("AX FLAIR", 4500, 70, inversion_time_ms=160.0),
            "described as FLAIR, timed as STIR (TR 4500, TE 70, TI 160)",
        ),
        (spin("AX FLAIR", 550, 12), "described as FLAIR, timed as T1 (TR 550, TE 12)"),
        (gradient("AX T1", 650, 20), "described as T1, timed as T2* (TR 650, TE 20)"),
        (gradient("AX T1", 3000, 60, b_value=800.0), "described as T1, diffusion-weighted by the tags (b 800)"),
        (
            Tags(series_description="T2 ax", image_type=("DERIVED", "ADC")),
            "described as T2, diffusion by the image type",
        ),
        (spin("t2", 80, 100), "TE 100 is longer than TR 80"),
        (spin("ir", 1800, 20, inversion_time_ms=2400.0), "TI 2400 is not shorter than TR 1800"),
        (spin("t1_mprage_sag", 600, 5), "described as gradient echo, tagged as spin echo"),
        (gradient("t2_tse_tra", 400, 10), "described as spin echo, tagged as gradient echo"),
        (spin("t1", 600, 9, sequence_name="*fl2d1"), "pulse sequence of gradient echo, tagged as spin echo"),
        (
            gradient("t1", 10, 3, sequence_name="*fl3d1", acquisition_type="2D", image_type=("ORIGINAL", "PRIMARY")),
            "pulse sequence of 3D, tagged as 2D",
        ),
        (
            gradient("3D T1", 10, 3, acquisition_type="2D", image_type=("ORIGINAL", "PRIMARY")),
            "described as 3D, tagged as 2D",
        ),
        (Tags(series_description="knee sag PD", body_part="HEAD"), "body part brain, described as knee"),
        (Tags(body_part="BRAIN", protocol_name="L-SPINE"), "body part brain, described as spine"),
        (
            Tags(series_description="T1 pre", contrast_agent="Gadovist"),
            "contrast agent by the tag, described as without",
        ),
        (Tags(series_description="T1 +C", contrast_agent="NONE"), "no contrast agent by the tag, described as with"),
        (Tags(bids_suffix="T1w", series_description="t2_tse_tra"), "named T1w, described as T2"),
        (
            Tags(bids_suffix="T1w", scanning_sequence=("SE",), repetition_time_ms=4000.0, echo_time_ms=90.0),
            "named as T1, timed as T2 (TR 4000, TE 90)",
        ),
        (
            spin("t1 knee", 4000, 90, body_part="HEAD"),
            "described as T1, timed as T2 (TR 4000, TE 90); body part brain, described as knee",
        ),
    ],
)
def test_told(tags: Tags, expected: str) -> None:
    assert contradictions(tags, {}) == expected


@pytest.mark.parametrize(
    "tags",
    [
        Tags(),
        spin("T1 ax", 550, 12),
        spin("T1 FLAIR", 2450, 24, inversion_time_ms=860.0),
        spin("T2 FLAIR", 9000, 120, inversion_time_ms=2500.0),
        spin("T2 tirm", 9000, 120, inversion_time_ms=2500.0),
        spin("FLAIR", 9000, 120),
        spin("T2 FS", 4500, 60, inversion_time_ms=160.0),
        spin("T2 haste", 900, 84),
        spin("T1 space", 700, 11),
        spin("PD/T2 TSE", 3500, 96),
        spin("T2 dual echo", 3500, 15, echoes=2),
        spin("T1 mapping", 4000, 90),
        spin("T1 rho", 4000, 90),
        spin("T1 perfusion", 4000, 90),
        gradient("t1_mprage", 2300, 3, inversion_time_ms=900.0),
        gradient("bravo", 8.2, 3.2, inversion_time_ms=450.0),
        gradient("psif", 17, 22),
        gradient("ep2d_diff", 3000, 80, b_value=1000.0),
        spin("3D MPR", 700, 11, acquisition_type="2D", image_type=("DERIVED", "SECONDARY", "MPR")),
        Tags(series_description="neck angio", body_part="HEAD"),
        Tags(series_description="prostate", body_part="PELVIS"),
        Tags(series_description="brain and c-spine", body_part="HEAD"),
        Tags(series_description="head first t1", body_part="KNEE"),
        Tags(series_description="whole body", body_part="CHEST"),
        Tags(series_description="femoral head", body_part="HIP"),
        Tags(series_description="T1 post op", contrast_agent="NONE"),
        Tags(series_description="T1 without FS", contrast_agent="Dotarem"),
        Tags(bids_suffix="FLAIR", series_description="t2_tirm_tra"),
        Tags(bids_suffix="bold", series_description="t2star epi"),
    ],
    ids=lambda tags: str(tags)[:70],
)
def test_not_told(tags: Tags) -> None:
    assert contradictions(tags, {"sex": "M", **AXIAL}) is None


@pytest.mark.parametrize(
    ("description", "region", "record", "expected"),
    [
        ("SAG T2", "brain", AXIAL, "described as sagittal, lies axial"),
        ("t2_tse_cor", "pelvis", AXIAL, "described as coronal, lies axial"),
        ("t2_tse_tra", "spine", SAGITTAL, "described as axial, lies sagittal"),
        ("t2_tse_tra", None, SAGITTAL, "described as axial, lies sagittal"),
        ("t2_tse_cor", "brain", tilted(25), "described as coronal, lies axial"),
        ("t2_tse_cor", "brain", tilted(40), None),
        ("t2_tse_cor", None, AXIAL, None),
        ("t2_tse_sag", "foot", AXIAL, None),
        ("t2_tse_cor", "heart", AXIAL, None),
        ("sag cor tra t2", "brain", AXIAL, None),
        ("AX T2", "brain", AXIAL, None),
        ("SAG T2", "brain", {**AXIAL, "plane": "3d"}, None),
        ("SAG T2", "brain", {**AXIAL, "spacing_mm": [0.9, 0.9, 1.2]}, None),
    ],
)
def test_planes(description: str, region: str | None, record: dict[str, Any], expected: str | None) -> None:
    assert contradictions(Tags(series_description=description), {**record, "body_region": region}) == expected


@pytest.mark.parametrize(
    ("sex", "tags", "expected"),
    [
        ("F", Tags(body_part="PROSTATE"), "sex F, described as male organs"),
        ("M", Tags(series_description="t2 uterus"), "sex M, described as female organs"),
        ("M", Tags(body_part="PROSTATE"), None),
        ("O", Tags(body_part="PROSTATE"), None),
        (None, Tags(body_part="PROSTATE"), None),
        ("M", Tags(body_part="CSPINE", series_description="cervical"), None),
        ("M", Tags(body_part="BREAST"), None),
    ],
)
def test_sex_against_organs(sex: str | None, tags: Tags, expected: str | None) -> None:
    assert contradictions(tags, {"sex": sex}) == expected


@pytest.mark.parametrize(
    ("told", "birth", "study", "expected"),
    [
        ("026Y", "19850101", "20120414", None),
        ("028Y", "19850101", "20120414", None),
        ("036Y", "19850101", "20120414", "age 36 by the tag, 27 by the dates"),
        ("006M", "20100101", "20120414", "age 0 by the tag, 2 by the dates"),
        ("095Y", "19200101", "20120414", None),
        ("040Y", "19000101", "20120414", None),
        ("040Y", "20120414", "20120414", None),
        ("040Y", "19500101", "19600101", None),
        ("", "19850101", "20120414", None),
        ("***", "19850101", "20120414", None),
        ("036Y", "", "20120414", None),
        ("036Y", "19850101", "", None),
    ],
)
def test_ages(told: str, birth: str, study: str, expected: str | None) -> None:
    assert age_contradiction(told, birth, study) == expected


OURS = listed(
    "described named as timed diffusion weighted diffusion-weighted by the tags image type sagittal coronal axial lies TE TI "
    "TR is longer than not shorter gradient spin echo tagged pulse sequence of body part contrast agent tag without with no "
    "sex F M male female organs T1 T2 PD FLAIR STIR T2* T1w T2w PDw b 2D 3D brain spine neck chest heart breast abdomen pelvis "
    "hip knee shoulder ankle foot wrist hand elbow whole_body"
)
WORDS = listed("T1 T2 PD FLAIR sag cor ax knee brain prostate uterus pre post mprage tse 3D")


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(max_size=20),
    words=st.lists(st.sampled_from(sorted(WORDS)), max_size=4),
    part=st.sampled_from(["HEAD", "KNEE", "PROSTATE", "MUELLER", ""]),
    times=st.lists(st.floats(0.1, 20_000), min_size=3, max_size=3),
    kind=st.sampled_from([("SE",), ("GR",), ("EP",), ("SE", "IR"), ()]),
)
def test_sentences_hold_our_words_and_numbers_only(
    text: str, words: list[str], part: str, times: list[float], kind: tuple[str, ...]
) -> None:
    tags = spin(" ".join([text, *words]), times[0], times[1], inversion_time_ms=times[2], scanning_sequence=kind)
    tags.update(
        body_part=part, contrast_agent=text, protocol_name=text, sequence_name=text, acquisition_type="2D", b_value=70.0
    )
    said = contradictions(tags, {"sex": "F", "body_region": "brain", **AXIAL}) or ""
    for word in said.replace(";", "").replace(",", "").replace("(", "").replace(")", "").split():
        assert word in OURS or word.replace(".", "").replace("e+", "").isdigit()


def test_quick_where_nothing_is_wrong() -> None:
    tags = spin("t2_tse_tra", 5660, 104, sequence_name="*tse2d1_25", acquisition_type="2D", body_part="PROSTATE")
    tags.update(image_type=("ORIGINAL", "PRIMARY", "M"), protocol_name="t2_tse_tra", contrast_agent="")
    record = {"sex": "M", "body_region": "pelvis", **AXIAL}
    assert contradictions(tags, record) is None
    best = min(_seconds(tags, record) for _ in range(5))
    assert best / 2000 < 60e-6  # some 10 on an idle machine


def _seconds(tags: Tags, record: dict[str, Any]) -> float:
    start = time.perf_counter()
    for _ in range(2000):
        contradictions(tags, record)
    return time.perf_counter() - start


def test_no_false_alarm_on_public_series(shared: Path) -> None:
    from index.catalog import scan
    from index.options import ScanOptions

    for folder in (shared / "mri" / "dicom", shared / "dicom-zoo" / "two_planes_one_folder" / "input"):
        records = scan(folder, ScanOptions(min_slices=3)).records
        assert records.height
        assert records["contradictions"].null_count() == records.height
