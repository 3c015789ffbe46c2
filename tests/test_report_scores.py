"""Scores of written reports against values worked out by hand or by other code."""

import math
import socket
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DecipherError
from training.metrics import bootstrap
from training.report_scores import (
    COUNTS,
    METEOR_NOTE,
    agreement_f1,
    agreement_share,
    has_wordnet,
    label_agreement,
    text_scores,
)

WRITTEN = "There is a small cyst in the left kidney. No hydronephrosis."
REAL = "A cyst of 2.4 cm is seen in the left kidney. No free fluid."
WORDS = st.lists(
    st.sampled_from(["a", "the", "cyst", "kidney", "liver", "no", "mass", "left", "of"]), min_size=1, max_size=12
)


def bleu(written: list[str], real: list[str]) -> float:
    """BLEU-4 with one added above and below from pairs of words on."""
    logs = []
    for n in range(1, 5):
        ours, theirs = (Counter(zip(*(w[i:] for i in range(n)), strict=False)) for w in (written, real))
        hits, total = (ours & theirs).total(), max(1, ours.total())
        if n == 1 and not hits:
            return 0.0
        logs.append(math.log(hits / total if n == 1 else (hits + 1) / (total + 1)))
    return math.exp(min(0, 1 - len(real) / len(written)) + sum(logs) / 4)


def rouge_l(written: list[str], real: list[str]) -> float:
    """F1 of the longest common subsequence, by its table."""
    table = np.zeros((len(written) + 1, len(real) + 1), int)
    for i, ours in enumerate(written):
        for j, theirs in enumerate(real):
            table[i + 1, j + 1] = table[i, j] + 1 if ours == theirs else max(table[i, j + 1], table[i + 1, j])
    return 2 * int(table[-1, -1]) / (len(written) + len(real))


def test_a_known_pair() -> None:
    ours = ["there", "is", "a", "small", "cyst", "in", "the", "left", "kidney", "no", "hydronephrosis"]
    theirs = ["a", "cyst", "of", "2.4", "cm", "is", "seen", "in", "the", "left", "kidney", "no", "free", "fluid"]
    scores = text_scores([WRITTEN], [REAL])
    assert scores["bleu4"][0] == pytest.approx(bleu(ours, theirs), rel=1e-6)
    assert scores["rouge_l"][0] == pytest.approx(2 * 7 / 25, rel=1e-6)  # a cyst in the left kidney no
    assert rouge_l(ours, theirs) == pytest.approx(2 * 7 / 25)


def test_meteor_by_hand() -> None:
    """Lavie and Agarwal 2007: recall counts nine times precision; a penalty of half the cubed share of chunks."""
    scores = text_scores(["cysts of the left kidney"], ["cyst in the left kidney"])["meteor"]
    mean = 0.8 * 0.8 / (0.9 * 0.8 + 0.1 * 0.8)  # four of five match: cyst by its stem, the left kidney as they are
    assert scores[0] == pytest.approx(mean * (1 - 0.5 * (2 / 4) ** 3))


def test_identical_and_foreign_reports() -> None:
    scores = text_scores([REAL, REAL, "", "x"], [REAL, "Haemangioma", REAL, ""])
    assert scores["bleu4"].tolist() == pytest.approx([1, 0, 0, 0]) and scores["rouge_l"].tolist() == [1, 0, 0, 0]
    assert scores["meteor"][0] == pytest.approx(1 - 0.5 / 14**3) and scores["meteor"][1:].tolist() == [0, 0, 0]
    assert {name: values.shape for name, values in text_scores([], []).items()} == dict.fromkeys(scores, (0,))


def test_marks_and_capitals_count_nowhere() -> None:
    scores = text_scores(["NO CYST, (left) kidney!"], ["no cyst left kidney"])
    assert scores["bleu4"][0] == 1 and scores["rouge_l"][0] == 1


@given(WORDS, WORDS)
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_plain_code(ours: list[str], theirs: list[str]) -> None:
    scores = text_scores([" ".join(ours)], [" ".join(theirs)])
    assert scores["bleu4"][0] == pytest.approx(bleu(ours, theirs), rel=1e-6, abs=1e-12)
    assert scores["rouge_l"][0] == pytest.approx(rouge_l(ours, theirs), rel=1e-6, abs=1e-12)
    assert 0 <= scores["meteor"][0] <= 1


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert text_scores([WRITTEN], [REAL])["meteor"][0] > 0
    assert "never fetched" in METEOR_NOTE and has_wordnet() in (True, False)


def test_counts_by_hand() -> None:
    written = [
        "Cyst of the left kidney. No metastases of the liver.",
        "Cyst of the left kidney. Splenic infarct.",
        "No fracture of the knee.",
    ]
    real = [
        "Cyst of the right kidney. Liver metastases.",
        "Cyst of the left kidney. Haemangioma of the liver.",
        "Knee: no fracture. Effusion of the knee.",
    ]
    counts = label_agreement(written, real)
    assert {name: counts[name].tolist() for name in COUNTS} == {
        "true_positive": [1, 1, 0],  # the cyst; the cyst
        "false_positive": [0, 1, 0],  # the infarct
        "false_negative": [1, 1, 1],  # metastases; haemangioma; effusion
        "denied_agree": [1, 1, 1],  # the cyst; the cyst; the fracture
        "denied_total": [2, 1, 1],  # metastases are denied where they are affirmed
        "side_agree": [0, 1, 0],
        "side_total": [1, 1, 0],
    }
    assert agreement_f1(counts) == pytest.approx(2 * 2 / (2 * 2 + 1 + 3))
    assert agreement_share(counts, "denied") == 0.75 and agreement_share(counts, "side") == 0.5


def test_the_region_places_both_reports() -> None:
    assert label_agreement(["Small effusion."], ["Effusion of the knee."])["true_positive"].tolist() == [0]
    assert label_agreement(["Small effusion."], ["Effusion of the knee."], ["knee"])["true_positive"].tolist() == [1]


def test_weights_repeat_reports() -> None:
    counts = label_agreement(
        ["Liver cyst.", "Liver cyst.", "Normal study."], ["Liver cyst.", "Renal cyst.", "Renal cyst."]
    )
    assert agreement_f1(counts) == pytest.approx(2 / (2 + 1 + 2))
    weights = np.array([[1, 1, 1], [2, 0, 1], [0, 0, 1], [0, 0, 0]], float)
    values = agreement_f1(counts, weights)
    assert values[:3].tolist() == pytest.approx([2 / 5, 4 / 5, 0]) and np.isnan(values[3])
    assert agreement_f1(counts, weights[1]) == pytest.approx(4 / 5)
    low, high = bootstrap(["a", "b", "c"], lambda w: agreement_f1(counts, w), tries=200)
    assert 0 == low < agreement_f1(counts) < high == 1


def test_nothing_to_agree_on_is_no_number() -> None:
    counts = label_agreement(["Normal study."], ["Unremarkable examination."])
    assert math.isnan(agreement_f1(counts)) and math.isnan(agreement_share(counts, "side"))
    assert agreement_share(counts, "denied") == 1


def test_reports_must_come_in_pairs() -> None:
    for score in (text_scores, label_agreement):
        with pytest.raises(DecipherError, match="1 written reports cannot be compared with 2 real ones"):
            score(["a"], ["a", "b"])
