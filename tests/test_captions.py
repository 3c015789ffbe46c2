"""Captions say what they claim to say, and pairs are judged by what is known."""

import numpy as np
import pytest

from index.caption import caption
from training.captions import ATTRIBUTES, RELATION, SAID, VALUES, attributes_of, match, without_pathology
from training.phrasing import draw_mention, make_captions, make_wordings, write_caption
from training.wordings import DENIED, GROUPS, NEITHER, WORDS

BRAIN_T2 = {"sequence": "T2", "body_region": "brain", "plane": "axial", "lesion": "unknown", "age_years": 70.0}


def mention(**said: str) -> np.ndarray:
    return np.array([SAID[a].index(said[a]) if a in said else -1 for a in ATTRIBUTES], dtype=np.int16)


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


def test_an_attribute_that_follows_from_another_is_known() -> None:
    found = dict(zip(ATTRIBUTES, attributes_of({**BRAIN_T2, "sequence": "T1C", "diagnosis": "healthy"}), strict=True))
    assert VALUES["contrast"][found["contrast"]] == "yes" and VALUES["fluid"][found["fluid"]] == "dark"
    assert judged({**BRAIN_T2, "sequence": "STIR"}, fat_suppressed="no") == (False, True)
    assert judged({**BRAIN_T2, "diagnosis": "ms"}, signal="bright") == (True, False)
    assert judged({**BRAIN_T2, "sequence": "T1", "diagnosis": "ms"}, signal="bright") == (False, False)


def test_sex_shows_in_the_pelvis_alone_and_a_skull_in_the_head() -> None:
    woman = {"sex": "F", "skull_stripped": "no"}
    assert judged(woman | {"body_region": "pelvis"}, sex="M") == (False, True)
    assert judged(woman | {"body_region": "brain"}, sex="M") == (False, False)
    assert judged(woman | {"body_region": "brain"}, skull_stripped="no") == (True, False)
    assert judged(woman | {"body_region": "knee"}, skull_stripped="no") == (False, False)


@pytest.mark.parametrize(
    ("report", "part"),
    [("Sagittal T2 MRI of the spine. A herniation at L4/5.", "lumbar"), ("C-spine, C5/6.", "cervical"), (None, None),
     ("MRI of the spine.", None), ("Cervical and lumbar spine.", None)],
)  # fmt: skip
def test_a_part_of_the_spine_is_what_the_report_alone_names(report: str | None, part: str | None) -> None:
    found = attributes_of({"body_region": "spine", "report": report})[ATTRIBUTES.index("part")]
    assert (VALUES["part"][found] if found >= 0 else None) == part


def test_another_sequence_of_the_same_anatomy_forgets_what_may_not_show() -> None:
    record = {
        **BRAIN_T2,
        "sequence": "T1",
        "lesion": "yes",
        "diagnosis": "ms",
        "contrast": "no",
        "skull_stripped": "yes",
    }
    found = dict(zip(ATTRIBUTES, without_pathology(attributes_of(record), "FLAIR"), strict=True))
    assert found["lesion"] == found["finding"] == found["signal"] == found["fat_suppressed"] == -1
    assert VALUES["sequence"][found["sequence"]] == "FLAIR" and VALUES["fluid"][found["fluid"]] == "dark"
    assert VALUES["contrast"][found["contrast"]] == "no" and VALUES["skull_stripped"][found["skull_stripped"]] == "yes"


@pytest.mark.parametrize(
    ("record", "said", "expected"),
    [
        ({"sequence": "DWI"}, {"sequence": "any diffusion"}, (True, False)),
        ({"sequence": "ADC"}, {"sequence": "DWI"}, (False, True)),
        ({"sequence": "STIR"}, {"sequence": "any fluid-sensitive"}, (True, False)),
        ({"sequence": "FLAIR"}, {"sequence": "any fluid-sensitive"}, (False, False)),
        ({"sequence": "FLAIR"}, {"sequence": "T2"}, (False, True)),
        ({"sequence": "SWI"}, {"sequence": "T2STAR"}, (False, False)),
        ({"plane": "3d"}, {"plane": "axial"}, (False, False)),
        ({"plane": "axial"}, {"plane": "3d"}, (False, True)),
        ({"body_region": "heart"}, {"body_region": "chest"}, (False, False)),
        ({"age_years": 70.0}, {"age": "any adult"}, (True, False)),
        ({"diagnosis": "ms"}, {"finding": "any white matter"}, (True, False)),
        ({"diagnosis": "wmh"}, {"finding": "multiple sclerosis"}, (False, False)),
        ({"diagnosis": "healthy"}, {"finding": "not stroke"}, (True, False)),
        ({"diagnosis": "stroke"}, {"finding": "not stroke"}, (False, True)),
        ({"diagnosis": "ms"}, {"finding": "not stroke"}, (False, False)),
        ({"diagnosis": "glioma"}, {"finding": "not any tumour"}, (False, True)),
        ({"lesion": "no"}, {"finding": "none"}, (True, False)),
    ],
)
def test_what_is_wider_or_denied_is_judged_by_what_it_says(record: dict, said: dict, expected: tuple) -> None:
    assert judged(record, **said) == expected


def test_the_tables_name_only_values_that_there_are() -> None:
    for name, groups in GROUPS.items():
        for _, true, perhaps in groups.values():
            assert true <= set(VALUES[name]) and perhaps <= set(VALUES[name]) and not true & perhaps
    for name, wide in NEITHER.items():
        assert all(value in VALUES[name] and others <= set(VALUES[name]) for value, others in wide.items())
    for name in ATTRIBUTES:
        assert RELATION[name].shape == (len(SAID[name]), len(VALUES[name]))
        assert (np.diag(RELATION[name][: len(VALUES[name])]) == 1).all()


def test_a_word_stands_for_one_value_of_its_attribute() -> None:
    for name, values in WORDS.items():
        words = [word.lower() for said in values.values() for word in said]
        words += [word.lower() for said, _, _ in GROUPS.get(name, {}).values() for word in said]
        assert len(words) == len(set(words)), sorted({w for w in words if words.count(w) > 1})


def test_contrast_is_said_in_one_word_or_apart() -> None:
    rng = np.random.default_rng(0)
    texts = [write_caption(mention(sequence="T1C", body_region="brain", contrast="yes"), rng) for _ in range(200)]
    assert any("mprage of" in t.lower() or "t1w " in t.lower() for t in texts)
    after = ("contrast", "gad", "c+", "+c", "dye", "enhanced", "t1ce", "t1 gd", "gd t1")
    assert all(any(word in text.lower() for word in after) for text in texts)


def test_a_denial_is_denied_in_words() -> None:
    rng = np.random.default_rng(0)
    signs = [form.replace("{}", "").strip() for form in DENIED]
    texts = [write_caption(mention(finding="not stroke"), rng).lower() for _ in range(100)]
    assert all(any(sign in text for sign in signs) for text in texts)
    assert len({sign for sign in signs for text in texts if text.startswith(sign)}) > 4


def test_half_of_the_captions_are_true_of_the_series_that_they_are_for() -> None:
    known = np.stack(
        [attributes_of(BRAIN_T2), attributes_of({"sequence": "PD", "body_region": "knee", "plane": "sagittal"})]
    )
    found = make_captions(600, 0, known)
    positive, _ = match(known, found.mentions)
    assert 0.4 < positive.any(axis=0).mean() < 0.8
    told = [ATTRIBUTES[a] for a in np.flatnonzero((found.mentions >= 0).any(axis=0))]
    assert not {"lesion", "finding", "sex", "part", "skull_stripped"} & set(told), "of which nothing is known"


def test_mentions_do_not_contradict_themselves() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        drawn = draw_mention(rng, np.ones(len(ATTRIBUTES), dtype=bool))
        said = {name: SAID[name][v] for name, v in zip(ATTRIBUTES, drawn, strict=True) if v >= 0}
        assert "part" not in said or said["body_region"] == "spine"
        assert "sex" not in said or said["body_region"] == "pelvis"
        assert (said.get("sequence"), said.get("contrast")) not in [("T1", "yes"), ("T1C", "no"), ("DCE", "no")]


def test_wordings_come_in_groups_of_one_mention() -> None:
    texts, mentions = make_wordings(20, 3)
    assert len(texts) == len(mentions) == 60 and all(len(set(texts[i : i + 3])) == 3 for i in range(0, 60, 3))
    assert len(np.unique(mentions, axis=0)) == 20 and all(
        (mentions[i : i + 3] == mentions[i]).all() for i in range(0, 60, 3)
    )
    assert make_wordings(20, 3)[0] == texts


def test_captions_are_many_different_and_reproducible() -> None:
    first, again, other = make_captions(300, 0), make_captions(300, 0), make_captions(300, 1)
    assert len(set(first.texts)) == 300
    assert first.texts == again.texts and first.texts != other.texts
    assert np.array_equal(first.mentions, again.mentions)


def test_a_caption_holds_the_words_of_what_it_mentions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = write_caption(mention(body_region="knee", sequence="PD"), rng).lower()
        assert any(word.lower() in text for word in WORDS["body_region"]["knee"])
        assert any(word.lower() in text for word in [*WORDS["sequence"]["PD"], "proton density weighted"])


def test_every_value_is_mentioned_about_equally_often() -> None:
    mentions = make_captions(6000, 0).mentions
    regions = mentions[:, ATTRIBUTES.index("body_region")]
    usual = [SAID["body_region"].index(name) for name in VALUES["body_region"] if name not in ("spine", "pelvis")]
    counts = np.bincount(regions[regions >= 0], minlength=len(SAID["body_region"]))
    assert counts[usual].min() > 0.6 * counts[usual].mean(), "spine and pelvis come with their parts too"


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
