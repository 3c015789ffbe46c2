"""Inference by tables of cases: timing beats words, words beat names, and the unknown stays unknown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.patient import age_between, age_of_string, sex_of
from index.sequence import REGIONS, SEQUENCES, Tags, infer_contrast, infer_region, infer_sequence, words_of
from index.tags import vendor_of


def timed(kind: str, repetition: float, echo: float, inversion: float = 0, **more: object) -> Tags:
    tags = {"scanning_sequence": tuple(kind.split()), "repetition_time_ms": repetition, "echo_time_ms": echo, **more}
    return Tags(**tags, **({"inversion_time_ms": inversion} if inversion else {}))  # type: ignore[typeddict-item]


def called(description: str, **more: object) -> Tags:
    return Tags(words_from="tag", series_description=description, **more)  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (timed("SE", 550, 12), ("T1", "physics")),
        (timed("SE", 11730, 91), ("T2", "physics")),
        (timed("SE", 2300, 22), ("PD", "physics")),
        (timed("SE IR", 9000, 110, 2500), ("FLAIR", "physics")),
        (timed("SE IR", 5000, 388, 1800, series_description="T2 SPACE"), ("FLAIR", "physics")),
        (timed("SE IR", 4500, 60, 160), ("STIR", "physics")),
        (timed("GR IR", 2300, 2.98, 900), ("T1", "physics")),
        (timed("SE IR", 2000, 10, 860, series_description="Ax T1 FLAIR"), ("T1", "physics")),
        (timed("GR", 8.2, 3.2, flip_angle_deg=12.0), ("T1", "physics")),
        (timed("GR", 650, 20, flip_angle_deg=20.0), ("T2STAR", "physics")),
        (timed("GR", 28, 20, series_description="SWI_Images"), ("SWI", "tag")),
        (timed("GR", 22, 3.6, series_description="TOF_3D_multi-slab"), ("MRA", "tag")),
        (timed("GR", 22, 3.6, angio=True), ("MRA", None)),
        (timed("EP", 3000, 30), ("EPI", "physics")),
        (timed("EP", 3000, 80, b_value=1000.0), ("DWI", "physics")),
        (timed("EP SE", 3000, 80, b_value=0.0, series_description="ep2d_diff_b0"), ("DWI", "tag")),
        (Tags(image_type=("DERIVED", "PRIMARY", "DIFFUSION", "ADC")), ("ADC", "physics")),
        (Tags(image_type=("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW")), ("DWI", "physics")),
        (Tags(image_type=("ORIGINAL", "PRIMARY", "P", "ND")), ("OTHER", "physics")),
        (timed("SE", 550, 12, series_description="T2 ax"), ("T1", "physics")),
        (timed("SE", 550, 12, series_description="T1 ax +C", contrast_agent="Dotarem"), ("T1C", "physics")),
        (timed("SE", 600, 12, name="t1_post/IM1"), ("T1C", "physics")),
        (called("t2_tse_tra"), ("T2", "tag")),
        (called("Sag T2* MEDIC"), ("T2STAR", "tag")),
        (called("AX DWI b1000"), ("DWI", "tag")),
        (called("eADC map ADC"), ("ADC", "tag")),
        (called("fl3d T1 vibe dynamic"), ("DCE", "tag")),
        (called("cine_sax", cardiac_images=25), ("CINE", "tag")),
        (Tags(name="sub/x", bids_suffix="T2w"), ("T2", "name")),
        (Tags(name="patient07/FLAIR"), ("FLAIR", "name")),
        (Tags(name="wmh/301D00252-20040121_FL"), ("FLAIR", "name")),
        (called("fl_sag"), (None, None)),
        (Tags(name="T1POST", folder="patient07"), ("T1C", "name")),
        (Tags(name="T1", folder="diffusion_study"), ("T1", "name")),
        (Tags(name="IM0001", folder="dwi"), ("DWI", "name")),
        (Tags(name="misc/example4d"), (None, None)),
        (Tags(), (None, None)),
    ],
)
def test_sequence(tags: Tags, expected: tuple[str | None, str | None]) -> None:
    found = infer_sequence(Tags(**{"words_from": "tag", **tags}))  # type: ignore[typeddict-item]
    assert found == (expected[0], expected[1] or ("tag" if expected[0] else None))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (Tags(contrast_agent="Gadovist 7.5 ml"), ("yes", "tag")),
        (Tags(contrast_agent="None"), ("no", "tag")),
        (called("T1 post gad"), ("yes", "tag")),
        (called("t1_ce"), ("yes", "tag")),
        (called("T1 without contrast"), ("no", "tag")),
        (called("T1 W/O"), ("no", "tag")),
        (called("T1 pre"), ("no", "tag")),
        (called("T1 post-op"), (None, None)),
        (called("posterior fossa"), (None, None)),
        (Tags(name="tcga/T1_post-contrast"), ("yes", "name")),
        (Tags(), (None, None)),
    ],
)
def test_contrast(tags: Tags, expected: tuple[str | None, str | None]) -> None:
    assert infer_contrast(tags) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (Tags(body_part="HEAD", series_description="knee"), ("brain", "tag")),
        (Tags(body_part="LSPINE"), ("spine", "tag")),
        (Tags(body_part="PROSTATE"), ("pelvis", "tag")),
        (Tags(body_part="HEADNECK"), ("neck", "tag")),
        (Tags(body_part="WHOLEBODY"), ("whole_body", "tag")),
        (Tags(body_part="EXTREMITY", series_description="Left Knee PD"), ("knee", "tag")),
        (called("C-Spine T2 sag"), ("spine", "tag")),
        (called("whole body stir"), ("whole_body", "tag")),
        (Tags(name="sct/t2_lumbar"), ("spine", "name")),
        (Tags(name="pyradiomics/breast1"), ("breast", "name")),
        (called("t2_tse_tra"), (None, None)),
    ],
)
def test_region(tags: Tags, expected: tuple[str | None, str | None]) -> None:
    assert infer_region(tags) == expected


@settings(max_examples=60, deadline=None)
@given(
    kind=st.lists(st.sampled_from(["SE", "GR", "IR", "EP", "RM"]), max_size=3),
    times=st.lists(st.floats(0.01, 20_000), min_size=3, max_size=3),
    text=st.text(max_size=30),
)
def test_only_words_of_the_vocabulary_come_out(kind: list[str], times: list[float], text: str) -> None:
    tags = timed(" ".join(kind), times[0], times[1], times[2], series_description=text, words_from="tag")
    found, source = infer_sequence(tags)
    assert found is None or found in SEQUENCES
    assert (found is None) == (source is None)
    assert infer_region(tags)[0] in (None, *REGIONS)


def test_words_split_at_punctuation_and_capitals() -> None:
    assert words_of("T2*_tse-Tra AxialFLAIR", None) == ("t2star", "tse", "tra", "axial", "flair")


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("026Y", 26.0),
        ("006M", 0.5),
        ("012W", 0.23),
        ("030D", 0.082),
        ("63", 63.0),
        ("090Y", 90.0),
        ("101Y", 90.0),
        ("089Y", 89.0),
        ("***", None),
        ("", None),
        ("999Y", None),
    ],
)
def test_age_strings(text: str, years: float | None) -> None:
    assert age_of_string(text) == years


@pytest.mark.parametrize(
    ("birth", "study", "years"),
    [
        ("19800115", "20200114", 39.9),
        ("19800115", "20200116", 40.0),
        ("19000101", "20200101", 90.0),
        ("20200101", "19800101", None),
        ("", "20200101", None),
        ("19801399", "20200101", None),
    ],
)
def test_ages_from_dates(birth: str, study: str, years: float | None) -> None:
    assert age_between(birth, study) == years


def test_sex_and_vendor_are_normalised() -> None:
    assert [sex_of(text) for text in ("f", "Male", "O", "", None, "U")] == ["F", "M", "O", None, None, None]
    makers = [
        "SIEMENS",
        "Siemens Healthineers",
        "GE MEDICAL SYSTEMS",
        "Philips Healthcare",
        "TOSHIBA_MEC",
        "UIH",
        "Acme",
    ]
    assert [vendor_of(maker) for maker in makers] == ["Siemens", "Siemens", "GE", "Philips", "Canon", "UIH", None]
