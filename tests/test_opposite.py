"""Sentences and their opposites, by hand and over phantom and real reports; the loss against NumPy."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_findings import phantom_reports

from training.findings import Mention, mentions_in
from training.negation import is_negated
from training.opposite import finding_sentences, opposite_of, opposite_sentence_loss
from training.reports import parse_report

MEASURE = re.compile(r"\d\s*(?:mm|cm)\b|\d+ x \d+")


def sentences_of(reports: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(s.text for report in reports for s in parse_report(report).sentences))


@pytest.mark.parametrize(
    ("sentence", "opposite"),
    [
        ("There is a cyst in the left kidney, measuring 12 mm.", "There is no cyst in the left kidney."),
        ("There is an acute infarct in the right parietal lobe, measuring 3.6 cm.",
         "There is no acute infarct in the right parietal lobe."),
        ("There are several masses.", "There are no masses."),
        ("Solid mass of the left kidney (2.9 cm).", "No solid mass of the left kidney."),
        ("8 white matter lesions in the periventricular white matter, the largest 1.3 cm.",
         "No white matter lesions in the periventricular white matter."),
        ("Findings: large joint effusion, suprapatellar recess of the left knee, 18 mm.",
         "Findings: no joint effusion in the suprapatellar recess of the left knee."),
        ("Degenerative disc with loss of signal, C4/C5 level.", "No degenerative disc at the C4/C5 level."),
        ("There is a mass with surrounding oedema in the left frontal lobe, measuring 35 mm.",
         "There is no mass in the left frontal lobe."),
        ("Multiple marrow-replacing lesions in the T12, L1, L2 vertebral bodies, the largest 2.5 cm.",
         "No marrow-replacing lesions in the T12, L1, L2 vertebral bodies."),
        ("Arthrosis, joint effusion and synovial hypertrophy.", "No arthrosis, joint effusion or synovial hypertrophy."),
        ("A small effusion is noted within the sheath.", "No effusion is noted within the sheath."),
        ("The images reveal a sizable joint effusion.", "The images do not reveal a joint effusion."),
        ("It enhances after contrast.", "It does not enhance after contrast."),
        ("Avid enhancement.", "No enhancement."),
        ("Restricted diffusion.", "No restricted diffusion."),
        ("The ADC is raised.", "The ADC is not raised."),
        ("Hyperintense on T2.", "Not hyperintense on T2."),
        ("Impression: multiple sclerosis.", "Impression: no multiple sclerosis."),
        ("Consistent with brain tumour.", "No evidence of brain tumour."),
        ("2. Mild degenerative changes of the thoracic spine.", "No degenerative changes of the thoracic spine."),
        ("No joint effusion.", "Joint effusion."),
        ("There is no SLAP tear.", "There is a SLAP tear."),
        ("There is no canal stenosis.", "There is canal stenosis."),
        ("There are no fractures.", "There are fractures."),
        ("No evidence of acute infarction.", "Acute infarction."),
        ("No tear is seen.", "Tear is seen."),
        ("It does not enhance after contrast.", "It enhances after contrast."),
        ("The ADC is not raised.", "The ADC is raised."),
        ("Impression: no stroke.", "Impression: stroke."),
        ("Normal study.", "Abnormal study."),
    ],
)  # fmt: skip
def test_rules(sentence: str, opposite: str) -> None:
    assert opposite_of(sentence) == opposite


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "The menisci are intact.",
        "MRI of the brain without contrast.",
        "Woman aged 64.",
        "There may be a small tear.",
        "Possible metastasis.",
        "Metastases cannot be excluded.",
        "There is a cyst, but no mass.",
        "Effusion without a fracture.",
        "There is a cyst. There is a mass.",
        "The mass arises from the lip and extends into the fossa.",
        "Is there a mass?",
    ],
)
def test_no_opposite_where_none_is_sure(sentence: str) -> None:
    assert opposite_of(sentence) is None


def test_phantom_sentences_have_sound_opposites() -> None:
    sentences = sentences_of(report for _, _, report in phantom_reports())
    findings = [s for s in sentences if mentions_in(s)]
    made = {s: opposite for s in sentences if (opposite := opposite_of(s))}
    sound(made)
    assert len(made) > 150
    without = {s for s in findings if s not in made}
    assert without <= {s for s in findings if re.search("unremarkable|intact|continuous", s)}


def test_real_sentences_have_sound_opposites(shared: Path) -> None:
    reports = pl.read_csv(shared / "mri" / "report_texts.csv")["text"].to_list()
    made = {s: opposite for s in sentences_of(reports) if (opposite := opposite_of(s))}
    sound(made)
    assert len(made) > 120


def sound(made: dict[str, str]) -> None:
    """The opposite denies exactly where the sentence does not, names no size, names no finding that was not named."""
    for sentence, opposite in made.items():
        assert is_negated(opposite) != is_negated(sentence), sentence
        assert is_negated(opposite) or is_negated(sentence), sentence
        assert not MEASURE.search(opposite) and not re.search(r"\b(?:small|large|severe)\b", opposite[:20]), opposite
        assert opposite.endswith(".") and not re.search(
            r"  |,\.|\.\.| ,|\b(?:no|the|an?) (?:no|the|an?)\b|\b(?:in|of) no\b|\b(\w+) \1\b", opposite[:-1]
        )
        kinds = [{m.finding for m in mentions_in(text)} for text in (sentence, opposite)]
        assert kinds[1] <= kinds[0] | {"lesion"}, (sentence, opposite)


def test_the_opposite_of_a_denial_comes_back() -> None:
    for denial in ("There is no cyst in the left kidney.", "No joint effusion.", "It does not enhance after contrast."):
        assert opposite_of(str(opposite_of(denial))) == denial


def test_finding_sentences_of_a_report() -> None:
    report = (
        "TECHNIQUE: MRI of the right knee.\nHISTORY: Meniscal tear.\nFINDINGS: There is a large joint effusion, "
        "measuring 11 mm. The menisci are intact. No fracture.\nIMPRESSION:\n1. effusion."
    )
    found = finding_sentences(report)
    assert [(f.text, f.opposite, f.section, f.negated) for f in found] == [
        ("There is a large joint effusion, measuring 11 mm.", "There is no joint effusion.", "findings", False),
        ("Fracture.", "No fracture.", "findings", True),
        ("Effusion.", "No effusion.", "impression", False),
    ]
    assert [f.mentions for f in found] == [
        (Mention("effusion", "knee", "", False, "findings"),),
        (Mention("fracture", "knee", "", True, "findings"),),
        (Mention("effusion", "knee", "", False, "impression"),),
    ]
    assert finding_sentences("MRI of the brain. Woman aged 60.") == []


def test_affirmed_forms_affirm_and_opposites_deny() -> None:
    found = [f for region, _, report in phantom_reports() for f in finding_sentences(report, region)]
    assert found and all(is_negated(f.opposite) and not is_negated(f.text) for f in found)
    assert {f.negated for f in found} == {False, True}
    assert all(m.negated == f.negated and m.organ for f in found for m in f.mentions)


def test_the_loss_is_a_two_way_cross_entropy(rng: np.random.Generator) -> None:
    cosines, scale = rng.uniform(-1, 1, (4, 3, 2)), 7.5
    present = np.array([[1, 0, -1], [-1, -1, -1], [0, 0, 1], [1, -1, 0]])
    losses = []
    for cosine, truth in zip(cosines.reshape(-1, 2), present.ravel(), strict=True):
        if truth >= 0:
            affirmed = np.exp(scale * cosine[0]) / np.exp(scale * cosine).sum()
            losses.append(-np.log(affirmed if truth else 1 - affirmed))
    loss = opposite_sentence_loss(torch.tensor(cosines), torch.tensor(present), torch.tensor(scale))
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_absent_pairs_teach_nothing() -> None:
    cosines = torch.rand(2, 3, 2, requires_grad=True)
    scale = torch.tensor(10.0, requires_grad=True)
    loss = opposite_sentence_loss(cosines, torch.full((2, 3), -1), scale)
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(cosines.grad, torch.zeros(2, 3, 2)) and float(scale.grad) == 0
    one = torch.full((2, 3), -1)
    one[1, 2] = 1
    cosines.grad = None
    opposite_sentence_loss(cosines, one, scale).backward()
    assert cosines.grad.abs().sum(-1).gt(0).nonzero().tolist() == [[1, 2]]
    assert float(cosines.grad[1, 2, 0]) < 0 < float(cosines.grad[1, 2, 1])


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text_has_a_sound_opposite_or_none(text: str) -> None:
    opposite = opposite_of(text)
    assert opposite is None or opposite.endswith(".")
