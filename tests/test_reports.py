"""Reports cut by rules: headings, sentences, regions and negations by table; nothing of a text is lost."""

import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.sequence import REGIONS
from training.negation import is_negated
from training.reports import (
    ANATOMY,
    parse_report,
    parts_of,
    regions_of,
    split_sentences,
    text_views,
)

REPORT = """EXAM: MRI RIGHT KNEE WITHOUT CONTRAST

CLINICAL HISTORY: 40-year-old man, seen by Dr. B. Smith.

TECHNIQUE:
Sagittal PD and T2.

FINDINGS: There is a tear of the medial meniscus, measuring 3.5 mm (e.g. series 4, image 12).
The cruciate ligaments are intact.
MRI of the patella: No fracture.

IMPRESSION:
1. Meniscal tear.
2. No fracture."""


def test_a_report_as_it_is_written() -> None:
    found = parse_report(REPORT)
    assert found.technique == "MRI RIGHT KNEE WITHOUT CONTRAST\nSagittal PD and T2."
    assert found.other == "40-year-old man, seen by Dr. B. Smith."
    assert found.impression == "1. Meniscal tear. 2. No fracture."
    assert [s.text for s in found.sentences if s.section == "findings"] == [
        "There is a tear of the medial meniscus, measuring 3.5 mm (e.g. series 4, image 12).",
        "The cruciate ligaments are intact.",
        "MRI of the patella: No fracture.",
    ]
    assert [s.negated for s in found.sentences] == [False, False, False, False, True, True, False, True]
    assert [s.regions for s in found.sentences][-4:] == [("knee",), ("knee",), ("knee",), ()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS:\nA cyst.", [("findings", "A cyst.")]),
        ("Findings - A cyst.", [("findings", "A cyst.")]),
        ("findings: a cyst.", [("findings", "a cyst.")]),
        ("**Findings:** A cyst.", [("findings", "A cyst.")]),
        ("## Conclusion\nA cyst.", [("impression", "A cyst.")]),
        ("1. TECHNIQUE: T2.\n2. FINDINGS: A cyst.", [("technique", "T2."), ("findings", "A cyst.")]),
        ("Protocol: T2. Findings: A cyst. Impression: Cyst.",
         [("technique", "T2."), ("findings", "A cyst."), ("impression", "Cyst.")]),
        ("MRI BRAIN WITHOUT CONTRAST FINDINGS: A cyst. IMPRESSION: Cyst.",
         [("other", "MRI BRAIN WITHOUT CONTRAST"), ("findings", "A cyst."), ("impression", "Cyst.")]),
        ("CC: Headache. HX: Two weeks. He fell. MRI Brain: A mass.",
         [("other", "Headache."), ("other", "Two weeks."), ("other", "He fell."), ("findings", "A mass.")]),
        ("FINDINGS: MRI neck: A cyst.", [("findings", "MRI neck: A cyst.")]),
        ("EXAM: MRI knee.\nCOMPARISON: None.\nINDICATION: Pain.",
         [("technique", "MRI knee."), ("other", "None."), ("other", "Pain.")]),
        ("EXAM: BP 120/80.\nIMPRESSION: Migraine.", [("other", "BP 120/80."), ("impression", "Migraine.")]),
        ("FINDINGS (knee): A cyst.\nLIGAMENTS: Intact.", [("findings", "A cyst."), ("findings", "LIGAMENTS: Intact.")]),
        ("FINAL IMPRESSION AND PLAN: Cyst.", [("impression", "Cyst.")]),
        ("REASON FOR THIS EXAM: Pain.\nA cyst.", [("other", "Pain."), ("other", "A cyst.")]),
        ("A cyst. Findings consistent with a cyst.",
         [("findings", "A cyst."), ("findings", "Findings consistent with a cyst.")]),
        ("Technique: sagittal T2. A cyst. Impression: cyst. Stable.",
         [("technique", "sagittal T2."), ("findings", "A cyst."), ("impression", "cyst."), ("impression", "Stable.")]),
        ("A cyst.\nIMPRESSION:\nCyst.", [("findings", "A cyst."), ("impression", "Cyst.")]),
        ("A 40-year-old.\nFINDINGS:\nA cyst.", [("other", "A 40-year-old."), ("findings", "A cyst.")]),
        ("FINDINGS:\r\nA cyst.\r\nIMPRESSION:\r\nCyst.", [("findings", "A cyst."), ("impression", "Cyst.")]),
        ("", []),
        ("FINDINGS:", []),
    ],
)  # fmt: skip
def test_headings(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(s.section, s.text) for s in parse_report(text).sentences] == expected


@pytest.mark.parametrize(
    "sentences",
    [
        ["Seen by Dr. Smith.", "No mass."],
        ["Seen by Dr. J. Smith.", "No mass."],
        ["Hyperintense on T2.", "No mass."],
        ["Seen on T2. weighted images."],
        ["A lesion of 3.5 mm.", "A cyst of 5 x 3.2 x 4.1 cm."],
        ["Cysts, e.g. Baker cysts.", "Normal."],
        ["CBGD vs. Pick's disease.", "Normal."],
        ["See No. 5 and Fig. 3.", "Normal."],
        ["Is it a mass?", "No.", "It is a cyst."],
        ["1. Normal.", "2. No mass.", "3) A cyst."],
        ["A mass (see above.)", "(It enhances.)"],
        ['He "knew what to say."', "He could not."],
        ["Measuring approx. 3 cm.", "3 lesions."],
        ["Seen at 8 a.m. by the resident."],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


def test_lines() -> None:
    assert split_sentences("1. Mass\n2. Cyst\n- Tear") == ["1. Mass", "2. Cyst", "- Tear"]
    assert split_sentences("There is a mass in the\nleft lobe. It\nenhances.") == [
        "There is a mass in the left lobe.",
        "It enhances.",
    ]
    assert split_sentences("Normal brain\nNormal orbits") == ["Normal brain", "Normal orbits"]
    wrapped = "There is a large mass in the frontal lobe with extension into the\nRolandic area."
    assert split_sentences(wrapped) == [wrapped.replace("\n", " ")]
    assert split_sentences("Mass\n\nCyst") == ["Mass", "Cyst"]
    assert split_sentences("an infarct or\n\na vessel.") == ["an infarct or a vessel."]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("No midline shift.", True),
        ("There is no evidence of fracture.", True),
        ("Without focal lesion.", True),
        ("The mass is not seen.", True),
        ("Lesions are not identified.", True),
        ("A lesion is no longer seen.", True),
        ("The cord is not compressed.", True),
        ("Negative for hemorrhage.", True),
        ("Absence of edema.", True),
        ("He denies pain.", True),
        ("Unremarkable examination.", True),
        ("Normal medial meniscus without a tear.", True),
        ("The menisci are normal, but the effusion is not seen.", True),
        ("I don't see a tear.", True),
        ("None of the masses enhances.", True),
        ("There is a mass.", False),
        ("No mass but an effusion.", False),
        ("No mass; however, there is edema.", False),
        ("Normal except for a cyst.", False),
        ("A tear without displacement.", False),
        ("Normal alignment, with a disc herniation.", False),
        ("There is edema and the fracture is not displaced.", False),
        ("No change in the lesion.", False),
        ("No significant interval change.", False),
        ("No increase in size.", False),
        ("Not only a mass, edema too.", False),
        ("A tear cannot be excluded.", False),
        ("The ventricle is not normal.", False),
        ("MRI of the knee without contrast.", False),
        ("T1 with and without gadolinium.", False),
        ("No contrast enhancement.", True),
        ("Series No. 5 shows a mass.", False),
        ("Abnormal signal.", False),
    ],
)
def test_negations(sentence: str, expected: bool) -> None:
    assert is_negated(sentence) is expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Tear of the medial meniscus.", ("knee",)),
        ("The liver, and a lumbar disc.", ("abdomen", "spine")),
        ("The frontal lobe of the brain.", ("brain",)),
        ("Changes at the tibial spine.", ()),
        ("On the other hand, ANCA was negative.", ()),
        ("Fracture of the femoral neck.", ("hip",)),
        ("A mass.", ()),
    ],
)
def test_regions(sentence: str, expected: tuple[str, ...]) -> None:
    assert regions_of(sentence) == expected


def test_regions_are_those_of_the_index() -> None:
    assert set(ANATOMY.values()) <= set(REGIONS)


def letters(text: str) -> str:
    return "".join(text.split())


WORDS = st.sampled_from(
    ["mass", "No", "T2.", "3.5", "mm", "Dr.", "1.", "2)", "-", "FINDINGS:", "Impression:", "MRI", "brain:", "\n", "\n\n",
     "\r\n", "EXAM", "Technique -", "(e.g.", ".", "?!", "but", "C4-5:", "“cyst”", "é", "脳", "\t", "*", "IMPRESSION"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.lists(WORDS, max_size=25).map(" ".join), st.text(max_size=120)))
def test_nothing_is_lost(text: str) -> None:
    parts = parts_of(text)
    assert "".join(part.heading + part.body for part in parts) == text.replace("\r\n", "\n").replace("\r", "\n")
    found = parse_report(text)
    assert "".join(letters(s.text) for s in found.sentences) == "".join(letters(part.body) for part in parts)
    for section in ("technique", "findings", "impression", "other"):
        mine = "".join(letters(s.text) for s in found.sentences if s.section == section)
        assert mine == letters(getattr(found, section))
    views = text_views(text)
    assert len(set(views)) == len(views) and all(len(view.split()) > 1 for view in views)


def test_views_are_the_whole_the_sections_and_the_sentences() -> None:
    assert text_views("FINDINGS: A cyst. A cyst. Normal.\nIMPRESSION:\n1. Baker cyst.") == [
        "FINDINGS: A cyst. A cyst. Normal. IMPRESSION: 1. Baker cyst.",
        "A cyst. A cyst. Normal.",
        "1. Baker cyst.",
        "A cyst.",
        "Baker cyst.",
    ]
    assert text_views("Normal.") == []


@pytest.mark.parametrize(
    "text",
    ["There is no mass (e.g. a cyst). ", "no mass but ", "MRI: ", "FINDINGS: ", "Dr. ", "1. ", "\n", "a", "MRI a/"],
)
def test_a_long_report_takes_no_long_time(text: str) -> None:
    began = time.process_time()
    found = parse_report(text * (100_000 // len(text)))
    assert time.process_time() - began < 5
    assert len(found.sentences) == 3125 or not text.startswith("There")


def test_phantom_reports_are_read_as_they_were_meant(phantom_archive: Path) -> None:
    labels = pl.read_csv(phantom_archive / "labels.csv", infer_schema=False)
    rows = labels.join(pl.read_csv(phantom_archive / "reports.csv", infer_schema=False), on="path")
    assert rows.height > 10
    for row in rows.iter_rows(named=True):
        found = parse_report(row["report"])
        assert row["body_region"] in {region for s in found.sentences for region in s.regions}
        told = [s for s in found.sentences if s.section in ("findings", "impression")]
        assert told
        if row["lesion"] == "no":
            assert any(s.negated for s in told)


def test_transcribed_reports(shared: Path) -> None:
    """MTSamples, as transcribed: headed findings are found, and the region of most joints' findings."""
    rows = pl.read_csv(shared / "mri" / "report_texts.csv")
    headed = [r for r in rows.iter_rows(named=True) if "FINDINGS:" in r["text"] and "IMPRESSION:" in r["text"]]
    assert len(headed) > 8
    for row in headed:
        found = parse_report(row["text"])
        assert found.findings and found.impression and len(found.findings) > len(found.impression) / 2
    for row in rows.filter(pl.col("region").is_in(["knee", "shoulder"])).iter_rows(named=True):
        named = [region for s in parse_report(row["text"]).sentences for region in s.regions]
        assert not named or max(set(named), key=named.count) == row["region"] or "CC:" in row["text"]
