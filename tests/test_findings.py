"""Findings of reports as labels: finding, organ, side and denial, on hand-read sentences, phantom and real reports."""

from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.sequence import REGIONS
from training.findings import (
    COMPANIONS,
    FINDINGS,
    GENERAL,
    ORGAN_OF_FINDING,
    REGION_OF_ORGAN,
    affirmed,
    mentions_in,
    mentions_of,
)
from training.phantom.finding import Finding
from training.phantom.lesion import LESIONS
from training.phantom.report import write_report

SEEN = {  # what a phantom's diagnosis must be read as: the organ, and any of the findings
    "multiple sclerosis": ("brain", {"white matter lesions"}),
    "brain tumour": ("brain", {"tumour", "mass"}),
    "stroke": ("brain", {"stroke"}),
    "intracerebral haemorrhage": ("brain", {"haemorrhage"}),
    "joint effusion": ("knee", {"effusion"}),
    "meniscal tear": ("knee", {"meniscal tear"}),
    "anterior cruciate ligament tear": ("knee", {"cruciate ligament tear"}),
    "popliteal cyst": ("knee", {"cyst"}),
    "renal cyst": ("kidney", {"cyst"}),
    "renal tumour": ("kidney", {"tumour", "mass"}),
    "liver haemangioma": ("liver", {"haemangioma"}),
    "liver cyst": ("liver", {"cyst"}),
    "liver metastases": ("liver", {"metastasis"}),
    "disc degeneration": ("spine", {"disc degeneration"}),
    "disc herniation": ("spine", {"disc herniation"}),
    "vertebral metastasis": ("spine", {"metastasis"}),
    "prostate cancer": ("prostate", {"tumour", "lesion"}),
    "uterine fibroid": ("uterus", {"fibroid"}),
    "ovarian cyst": ("ovary", {"cyst"}),
    "bladder tumour": ("bladder", {"tumour", "mass"}),
    "breast cancer": ("breast", {"tumour", "mass"}),
    "fibroadenoma": ("breast", {"tumour", "mass"}),
    "breast cyst": ("breast", {"cyst"}),
    "pericardial effusion": ("heart", {"effusion"}),
    "myocardial infarct": ("heart", {"stroke"}),
    "hypertrophic cardiomyopathy": ("heart", {"hypertrophy"}),
}


PAINTED = [  # region, diagnosis, noun, place, size in mm (0 is not said), count: as the phantom's painters say it
    *(
        (region, "healthy", "", "", 0.0, 0)
        for region in ("brain", "knee", "abdomen", "spine", "pelvis", "breast", "heart")
    ),
    ("brain", "multiple sclerosis", "demyelinating plaques", "periventricular white matter", 13.0, 8),
    ("brain", "multiple sclerosis", "white matter lesions", "periventricular white matter", 13.0, 23),
    ("brain", "brain tumour", "mass with surrounding oedema", "left frontal lobe", 35.0, 1),
    ("brain", "brain tumour", "glial tumour", "right cerebellar hemisphere", 35.0, 1),
    ("brain", "brain tumour", "intra-axial mass", "left temporal lobe", 41.0, 1),
    ("brain", "stroke", "acute infarct", "right parietal lobe", 41.0, 1),
    ("brain", "intracerebral haemorrhage", "chronic haematoma", "left basal ganglia", 18.0, 1),
    ("knee", "joint effusion", "large joint effusion", "suprapatellar recess of the left knee", 18.0, 1),
    ("knee", "meniscal tear", "tear", "posterior horn of the medial meniscus, right knee", 0.0, 1),
    (
        "knee",
        "anterior cruciate ligament tear",
        "tear of the anterior cruciate ligament with bone contusion",
        "left knee",
        0,
        1,
    ),
    ("knee", "popliteal cyst", "popliteal cyst", "popliteal fossa of the right knee", 32.0, 1),
    ("abdomen", "renal cyst", "simple cyst", "interpolar region of the left kidney", 22.0, 1),
    ("abdomen", "renal tumour", "solid mass", "right kidney", 29.0, 1),
    ("abdomen", "liver haemangioma", "haemangioma", "right lobe of the liver", 44.0, 1),
    ("abdomen", "liver cyst", "simple hepatic cyst", "left lobe of the liver", 28.0, 1),
    ("abdomen", "liver metastases", "hepatic metastases", "liver", 33.0, 5),
    ("spine", "disc degeneration", "degenerative disc with loss of signal", "L4/L5 level", 0.0, 1),
    ("spine", "disc herniation", "left paracentral disc herniation", "C4/C5 level", 7.0, 1),
    ("spine", "vertebral metastasis", "marrow-replacing lesions", "C3, C4, C6 vertebral bodies", 14.0, 3),
    ("spine", "vertebral metastasis", "marrow-replacing lesion", "L2 vertebral body", 25.0, 1),
    ("pelvis", "prostate cancer", "focal lesion", "left peripheral zone of the prostate", 18.0, 1),
    ("pelvis", "uterine fibroid", "fibroid", "uterus", 35.0, 1),
    ("pelvis", "ovarian cyst", "simple cyst", "right ovary", 40.0, 1),
    ("pelvis", "bladder tumour", "mass", "right wall of the bladder", 25.0, 1),
    ("breast", "breast cancer", "irregular enhancing mass", "upper outer quadrant of the left breast", 22.0, 1),
    ("breast", "fibroadenoma", "fibroadenoma", "lower inner quadrant of the right breast", 17.0, 1),
    ("breast", "breast cyst", "simple cyst", "upper inner quadrant of the right breast", 12.0, 1),
    ("heart", "pericardial effusion", "large pericardial effusion", "pericardial sac around the heart", 16.0, 1),
    ("heart", "myocardial infarct", "transmural myocardial infarct", "septal wall of the left ventricle", 0.0, 1),
    (
        "heart",
        "hypertrophic cardiomyopathy",
        "asymmetric septal hypertrophy",
        "septal wall of the left ventricle",
        18.0,
        1,
    ),
]
ENHANCING = {
    "breast cancer",
    "fibroadenoma",
    "myocardial infarct",
    "brain tumour",
    "renal tumour",
    "liver metastases",
    "bladder tumour",
    "vertebral metastasis",
}


def short(sentence: str) -> list[str]:
    """-tear/knee/left for a tear denied in the left knee."""
    return [f"{'-' if m.negated else '+'}{m.finding}/{m.organ}/{m.side}" for m in mentions_in(sentence)]


@cache
def phantom_reports() -> list[tuple[str, str, str]]:
    """(region, diagnosis, report): every painter's words in every grammar of the phantom, with nothing painted."""
    found = []
    for region, diagnosis, noun, place, size_mm, count in PAINTED:
        finding = Finding(
            "" if diagnosis == "healthy" else diagnosis, noun, place, size_mm, count, diagnosis in ENHANCING
        )
        for seed in range(30):
            rng = np.random.default_rng(seed)
            labels = {
                "sequence": str(rng.choice(["T1", "T1C", "T2", "ADC", "DWI"])), "plane": str(rng.choice(["axial", "3d"])),
                "body_region": region, "diagnosis": diagnosis, "lesion": "no" if diagnosis == "healthy" else "yes",
                "skull_stripped": "no", "contrast": str(rng.choice(["yes", "no"])), "age_years": 50.0, "sex": "F",
            }  # fmt: skip
            look = str(rng.choice(["hyperintense", "hypointense", "isointense"]))
            found.append((region, diagnosis, write_report(labels, finding, look, rng)))
    return found


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A liver cyst, no metastases.", ["+cyst/liver/", "-metastasis/liver/"]),
        ("No fracture, effusion or bone marrow edema.", ["-fracture//", "-effusion//", "-oedema//"]),
        ("There is a cyst of the left kidney but no mass of the liver.", ["+cyst/kidney/left", "-mass/liver/"]),
        ("Tear, posterior horn of the medial meniscus, right knee.", ["+meniscal tear/knee/right"]),
        ("Torn anterior cruciate ligament with bone contusion.", ["+cruciate ligament tear/knee/", "+contusion/knee/"]),
        ("Degeneration of the medial meniscus without a tear.", ["-meniscal tear/knee/"]),
        ("The menisci are intact.", ["-meniscal tear/knee/"]),
        ("There is a partial tear of the rotator cuff.", ["+tear/shoulder/"]),
        ("Mass with surrounding oedema in the left frontal lobe.", ["+mass/brain/left", "+oedema/brain/left"]),
        ("No evidence of metastases or masses.", ["-metastasis//"]),
        ("Midline shift.", ["+mass effect/brain/"]),
        ("Bilateral renal cysts.", ["+cyst/kidney/both"]),
        ("Cysts in the left and right kidneys.", ["+cyst/kidney/both"]),
        ("Both kidneys are unremarkable.", ["-lesion/kidney/both"]),
        ("Normal study.", ["-lesion//"]),
        ("No hydronephrosis.", ["-hydronephrosis/kidney/"]),
        ("Chronic small vessel ischemic disease.", ["+white matter lesions/brain/"]),
        ("Acute infarction; no hemorrhage.", ["+stroke/brain/", "-haemorrhage//"]),
        ("Posterior central disk herniation at C3-4.", ["+disc herniation/spine/"]),
        ("No change in the hepatic hemangioma.", ["+haemangioma/liver/"]),
        ("Effusion; metastases cannot be excluded.", ["+effusion//", "+metastasis//"]),
        ("T1 with contrast was acquired.", []),
        ("Articular cartilage is preserved.", []),
    ],
)
def test_a_sentence_is_read_as_a_reader_would(sentence: str, expected: list[str]) -> None:
    assert short(sentence) == expected


def test_a_report_places_what_a_sentence_leaves_open() -> None:
    report = (
        "TECHNIQUE: MRI of the abdomen.\nHISTORY: Breast cancer.\nFINDINGS: Mass of the left kidney. "
        "It enhances after contrast. No free fluid.\nIMPRESSION: Renal tumour."
    )
    said = [(m.finding, m.organ, m.side, m.negated, m.section) for m in mentions_of(report)]
    assert said == [
        ("mass", "kidney", "left", False, "findings"),
        ("enhancement", "kidney", "", False, "findings"),
        ("free fluid", "abdomen", "", True, "findings"),
        ("tumour", "kidney", "", False, "impression"),
    ]
    assert affirmed(mentions_of(report)) == {("kidney", "tumour"), ("kidney", "enhancement")}


def test_the_region_given_places_a_report_that_names_none() -> None:
    assert [m.organ for m in mentions_of("Small effusion.", "knee")] == ["knee"]
    assert [m.organ for m in mentions_of("Small effusion.")] == [""]
    assert [m.organ for m in mentions_of("MRI of the hip. Small effusion.")] == ["hip"]
    assert [m.organ for m in mentions_of("Hepatic cyst.", "knee")] == ["liver"]


def test_tables_agree() -> None:
    assert set(REGION_OF_ORGAN.values()) == set(REGIONS)
    assert set(ORGAN_OF_FINDING) <= set(FINDINGS) and set(ORGAN_OF_FINDING.values()) <= set(REGION_OF_ORGAN)
    assert {*GENERAL, *COMPANIONS} <= set(FINDINGS)


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_phrase_names_its_finding(finding: str) -> None:
    for phrase in FINDINGS[finding]:
        text = phrase.replace("*", "").replace("~", "left ")
        assert finding in {m.finding for m in mentions_in(f"There is {text}.")}, phrase
        assert {m.negated for m in mentions_in(f"There is no {text}.")} == {True}, phrase


def test_every_phantom_diagnosis_is_read_in_its_organ() -> None:
    assert {d for names in LESIONS.values() for d in names} == set(SEEN) == {row[1] for row in PAINTED} - {"healthy"}
    for region, diagnosis, report in phantom_reports():
        pairs = affirmed(mentions_of(report, region))
        if diagnosis == "healthy":
            assert not pairs, report
            continue
        organ, names = SEEN[diagnosis]
        assert any((organ, name) in pairs for name in names), report
        assert {REGION_OF_ORGAN[organ] for organ, _ in pairs} == {region}, report


def test_real_reports_read_by_hand(shared: Path) -> None:
    texts = dict(pl.read_csv(shared / "mri" / "report_texts.csv").select("report_id", "text").iter_rows())
    assert affirmed(mentions_of(texts["mts-035"])) >= {("knee", "cruciate ligament tear"), ("knee", "sprain")}
    assert ("knee", "meniscal tear") not in affirmed(mentions_of(texts["mts-035"]))
    assert affirmed(mentions_of(texts["mts-004"])) >= {("knee", "meniscal tear"), ("knee", "effusion")}
    assert ("knee", "fracture") not in affirmed(mentions_of(texts["mts-004"]))
    assert affirmed(mentions_of(texts["mts-036"])) >= {("spine", "disc herniation"), ("spine", "disc degeneration")}
    assert affirmed(mentions_of(texts["mts-028"])) >= {("spine", "disc herniation"), ("spine", "stenosis")}


@given(st.text(max_size=300))
@settings(deadline=None)
def test_any_text_is_read(text: str) -> None:
    for mention in mentions_of(text):
        assert mention.finding in FINDINGS and mention.organ in {"", *REGION_OF_ORGAN}
        assert mention.side in ("", "left", "right", "both") and mention.section in ("findings", "impression")
