"""Captions say what they claim to say, and pairs are judged by what is known."""

import numpy as np
import pytest

from index.caption import caption
from training.captions import ATTRIBUTES, VALUES, WORDS, attributes_of, make_captions, match, write_caption

BRAIN_T2 = {"sequence": "T2", "body_region": "brain", "plane": "axial", "lesion": "unknown", "age_years": 70.0}


def mention(**said: str) -> np.ndarray:
    return np.array([VALUES[a].index(said[a]) if a in said else -1 for a in ATTRIBUTES], dtype=np.int16)


def judged(record: dict, **said: str) -> tuple[bool, bool]:
    positive, negative = match(attributes_of(record)[None], mention(**said)[None])
    return bool(positive[0, 0]), bool(negative[0, 0])


def test_attributes_of_a_record() -> None:
    found = dict(zip(ATTRIBUTES, attributes_of(BRAIN_T2), strict=True))
    assert VALUES["sequence"][found["sequence"]] == "T2"
    assert VALUES["age"][found["age"]] == "old"
    assert found["contrast"] == found["lesion"] == found["finding"] == -1


def test_what_is_known_and_equal_is_positive() -> None:
    assert judged(BRAIN_T2, sequence="T2", body_region="brain") == (True, False)


def test_what_is_known_and_differs_is_negative() -> None:
    assert judged(BRAIN_T2, sequence="T2", body_region="knee") == (False, True)


def test_what_is_unknown_is_ignored_unless_something_else_differs() -> None:
    assert judged(BRAIN_T2, sequence="T2", lesion="yes") == (False, False)
    assert judged(BRAIN_T2, sequence="T1", lesion="yes") == (False, True)


def test_a_more_general_name_is_neither_taught_nor_punished() -> None:
    enhanced = {**BRAIN_T2, "sequence": "T1C"}
    assert judged(enhanced, sequence="T1") == (False, False)
    assert judged({**BRAIN_T2, "sequence": "T1"}, sequence="T1C") == (False, True)


def test_captions_are_many_different_and_reproducible() -> None:
    first, again, other = make_captions(300, 0), make_captions(300, 0), make_captions(300, 1)
    assert len(set(first.texts)) == 300
    assert first.texts == again.texts and first.texts != other.texts
    assert np.array_equal(first.mentions, again.mentions)


def test_a_caption_holds_the_words_of_what_it_mentions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = write_caption(mention(body_region="knee", sequence="PD"), rng).lower()
        assert "knee" in text
        assert any(word.lower() in text for word in [*WORDS["sequence"]["PD"], "proton density weighted"])


def test_every_value_is_mentioned_about_equally_often() -> None:
    mentions = make_captions(3000, 0).mentions
    regions = mentions[:, ATTRIBUTES.index("body_region")]
    counts = np.bincount(regions[regions >= 0], minlength=len(VALUES["body_region"]))
    assert counts.min() > 0.6 * counts.mean()


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (BRAIN_T2, "Axial T2-weighted MRI of the brain of a 70-year-old patient."),
        ({"sequence": "ADC", "sex": "F"}, "Apparent diffusion coefficient map MRI of a female patient."),
        ({}, "MRI."),
        (
            {"plane": "3d", "sequence": "T1", "contrast": "yes"},
            "Three-dimensional T1-weighted MRI with contrast agent.",
        ),
    ],
)
def test_caption_of_a_record(record: dict, expected: str) -> None:
    assert caption(record) == expected
