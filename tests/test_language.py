"""Losses on text alone against plain NumPy, which texts contradict each other, and what the losses do to an adapter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.errors import DecipherError
from training.captions import ATTRIBUTES, SAID
from training.compute import Compute
from training.config import TrainConfig
from training.language import AGREEMENT, LANGUAGE, REAL, SENTENCES, SHARPNESS, contradictory, kept_texts, preservation
from training.objectives.align import Align, agreement_contrast
from training.sentences import radiology_sentences

TINY = ModelConfig(
    prepare=PrepareConfig(box=(16, 16, 16)), vision=VisionConfig(width=24, depth=1, heads=2, registers=1)
)
CONFIG = TrainConfig(image_weight=0.0, language_weight=1.0, wordings_weight=0.5)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def neighbours_by_hand(vectors: np.ndarray, row: int) -> np.ndarray:
    """Softmax over the cosines of one text with all others."""
    cosines = np.delete(unit(vectors) @ unit(vectors)[row], row)
    return np.exp(cosines / SHARPNESS) / np.exp(cosines / SHARPNESS).sum()


def test_preservation_is_the_divergence_of_neighbours_by_hand(rng: np.random.Generator) -> None:
    now, before = rng.normal(size=(5, 7)), rng.normal(size=(5, 3))
    terms = []
    for row in range(5):
        p, q = neighbours_by_hand(before, row), neighbours_by_hand(now, row)
        terms.append((p * np.log(p / q)).sum())
    found = preservation(torch.from_numpy(now), torch.from_numpy(before))
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-9)


def test_turning_and_stretching_all_texts_costs_nothing(rng: np.random.Generator) -> None:
    before = torch.from_numpy(rng.normal(size=(6, 8)))
    turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(8, 8))))[0]
    assert float(preservation(3 * before @ turn, before)) == pytest.approx(0, abs=1e-9)
    assert float(preservation(before.flip(0), before)) > 0.1


def test_agreement_by_hand(rng: np.random.Generator) -> None:
    texts = rng.normal(size=(6, 9))
    same = np.kron(np.eye(3, dtype=int), np.ones((2, 2), int)).astype(bool) & ~np.eye(6, dtype=bool)
    apart = np.zeros((6, 6), dtype=bool)
    apart[:2, 2:4] = apart[2:4, :2] = True
    logits = unit(texts) @ unit(texts).T / SHARPNESS
    terms = []
    for row in range(4):  # the last two contradict nothing, and are left out
        mate = np.exp(logits[row][same[row]])[0]
        terms.append(-np.log(mate / (mate + np.exp(logits[row][apart[row]]).sum())))
    found = agreement_contrast(torch.from_numpy(texts), torch.from_numpy(same), torch.from_numpy(apart))
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-9)


def mention(**said: str) -> np.ndarray:
    return np.array([SAID[a].index(said[a]) if a in said else -1 for a in ATTRIBUTES], dtype=np.int16)


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ({"body_region": "knee"}, {"body_region": "brain", "sequence": "T1"}, True),
        ({"body_region": "knee"}, {"sequence": "T1"}, False),
        ({"finding": "stroke"}, {"finding": "not stroke"}, True),
        ({"finding": "not stroke"}, {"finding": "not haemorrhage"}, False),
        ({"sequence": "any diffusion"}, {"sequence": "ADC"}, False),
        ({"contrast": "yes"}, {"contrast": "no"}, True),
    ],
)
def test_texts_contradict_where_no_series_could_have_both(first: dict, second: dict, apart: bool) -> None:
    found = contradictory(np.stack([mention(**first), mention(**second)]))
    assert found.tolist() == [[False, apart], [apart, False]]


def test_sentences_are_many_different_and_reproducible() -> None:
    first = radiology_sentences(SENTENCES)
    assert len(set(first)) == SENTENCES and first == radiology_sentences(SENTENCES)
    assert first != radiology_sentences(SENTENCES, 1)
    assert not any("{" in text for text in first)


def test_real_texts_are_kept_too_where_a_table_brings_them(tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text(
        "region,text\nknee,A torn meniscus. No effusion seen.\nhead,\nknee,A torn meniscus. No effusion seen.\n"
    )
    made, found = kept_texts(CONFIG), kept_texts(replace(CONFIG, texts=str(table)))
    assert len(made) == SENTENCES
    assert found[SENTENCES:] == ["A torn meniscus. No effusion seen.", "A torn meniscus.", "No effusion seen."]
    many = "".join(f"Report {n} says one thing. Report {n} says another.\n" for n in range(REAL))
    table.write_text("report\n" + many)
    assert len(kept_texts(replace(CONFIG, texts=str(table)))) == SENTENCES + REAL
    table.write_text("region\nknee\n")
    with pytest.raises(DecipherError, match="no column report or text"):
        kept_texts(replace(CONFIG, texts=str(table)))


@pytest.fixture(scope="module")
def objective() -> Align:
    torch.manual_seed(0)
    model = Decipher(TINY)
    model.text.base.requires_grad_(False)
    return Align(model, CONFIG)


def test_an_untrained_adapter_keeps_everything_and_agrees_on_little(objective: Align) -> None:
    assert objective.language is not None
    losses = objective._spoken(objective.language, Compute())
    assert set(losses) == {LANGUAGE, AGREEMENT}
    assert float(losses[LANGUAGE].detach()) == pytest.approx(0, abs=1e-4)
    assert float(losses[AGREEMENT].detach()) > 0.3
    assert objective.weights[LANGUAGE] == 1.0 and objective.weights[AGREEMENT] == 0.5


def test_texts_are_no_part_of_what_is_saved(objective: Align) -> None:
    assert not [name for name in objective.state_dict() if name.startswith("language")]
    silent = Align(objective.model, replace(CONFIG, language_weight=0.0, wordings_weight=0.0))
    assert silent.language is None and set(silent.state_dict()) == set(objective.state_dict())


def test_wordings_come_to_agree_and_real_text_stays_where_it_is_asked_to(objective: Align) -> None:
    assert objective.language is not None
    start = {name: value.clone() for name, value in objective.model.text.adapter.state_dict().items()}
    found = {}
    for kept in (0.0, 1.0):
        objective.model.text.adapter.load_state_dict(start)
        optimiser = torch.optim.AdamW(objective.model.text.adapter.parameters(), lr=1e-3)
        for _ in range(25):
            losses = objective._spoken(objective.language, Compute())
            optimiser.zero_grad()
            (losses[AGREEMENT] + kept * losses[LANGUAGE]).backward()
            optimiser.step()
        found[kept] = {name: float(value.detach()) for name, value in losses.items()}
    objective.model.text.adapter.load_state_dict(start)
    assert found[0.0][AGREEMENT] < 0.2 and found[1.0][AGREEMENT] < 0.3
    assert found[1.0][LANGUAGE] < 0.5 * found[0.0][LANGUAGE]
