"""Sixty paraphrases rank volumes alike and twenty negations do not: the measure by hand, and the shipped model on phantoms."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from models.decipher import Decipher, load
from training.phantom.series import make_patient
from training.phrasing import make_captions
from training.rankings import agreement, found_by, read_queries, wording_figures

LISTS = Path(__file__).parent / "wordings"
PARAPHRASES_AGREE = 0.8
"""share of the paraphrases that the shipped model must rank alike; by chance 0.05"""
NEGATIONS_DISAGREE = 0.3
"""share of the negations that it must not"""
VISITS = {
    "brain": (("healthy", ("T1", "T1C", "T2", "FLAIR", "DWI")), ("multiple sclerosis", ("T1", "T2", "FLAIR", "T2STAR")),
              ("brain tumour", ("T1C", "T2", "FLAIR", "ADC"))),
    "knee": (("healthy", ("T1", "PD", "STIR")), ("joint effusion", ("T2", "PD", "STIR"))),
    "abdomen": (("healthy", ("T1", "T1C", "T2")), ("renal cyst", ("T2", "DWI", "ADC"))),
    "spine": (("healthy", ("T1", "T2", "STIR")), ("disc herniation", ("T1C", "T2"))),
    "pelvis": (("healthy", ("T1", "T2", "DWI")), ("healthy", ("T2", "ADC", "T1C"))),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Decipher:
    return load()


@pytest.fixture(scope="module")
def volumes(model: Decipher) -> np.ndarray:
    """Unit vectors (36, E) of phantom series of five regions and nine sequences."""
    visits = [(region, *visit) for region, of in VISITS.items() for visit in of]
    series = [
        one.volume
        for seed, (region, diagnosis, sequences) in enumerate(visits)
        for one in make_patient(900 + seed, region, sequences, diagnosis=diagnosis, voxel_mm=2.5, max_voxels=64)
    ]
    return np.concatenate([model.encode_volumes(series[i : i + 8]).numpy() for i in range(0, len(series), 8)])


def queries(name: str) -> dict[str, list[str]]:
    return read_queries(LISTS / f"{name}.csv")


def test_the_lists_are_sixty_paraphrases_and_twenty_negations() -> None:
    for name, count in (("paraphrases", 60), ("negations", 20)):
        found = queries(name)
        pairs = list(zip(found["first"], found["second"], strict=True))
        assert len(set(pairs)) == count
        assert all(a.lower() != b.lower() for a, b in pairs)


def test_no_query_is_a_caption_that_may_be_trained_on() -> None:
    captions = {text.lower() for seed in range(2) for text in make_captions(8000, seed).texts}
    asked = [
        text for name in ("paraphrases", "negations") for side in ("first", "second") for text in queries(name)[side]
    ]
    assert not [text for text in asked if text.lower() in captions]


def test_agreement_is_spearmans_correlation(rng: np.random.Generator) -> None:
    first, second = rng.normal(size=(6, 20)), rng.normal(size=(6, 20))
    second[0] = np.exp(first[0])
    second[1] = -first[1]
    second[3, :7] = 1.0
    found = agreement(first, second)
    expected = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert found.each == pytest.approx(expected)
    assert found.agrees[0] and not found.agrees[1]
    unrelated = [spearmanr(first[i], second[j]).statistic for i in range(6) for j in range(6) if i != j]
    assert found.chance == pytest.approx(np.mean(unrelated))


def test_a_negation_is_judged_among_what_the_shared_words_find() -> None:
    common = np.array([np.r_[np.ones(10), np.zeros(20)]])
    assert found_by(common)[0].tolist() == [True] * 10 + [False] * 20
    affirmed = np.tile(np.r_[np.linspace(5, 6, 10), np.linspace(0, 1, 20)], (2, 1))
    denied = np.tile(np.r_[np.linspace(6, 5, 10), np.linspace(0, 1, 20)], (2, 1))
    assert agreement(affirmed, denied).each[0] > 0.8
    assert agreement(affirmed, denied, np.repeat(found_by(common), 2, axis=0)).each == pytest.approx(-1)


def test_a_model_that_knows_words_reaches_all_and_one_that_does_not_reaches_chance(rng: np.random.Generator) -> None:
    volumes = np.linalg.qr(rng.normal(size=(48, 48)))[0]
    paraphrases = {side: [f"{side} {i}" for i in range(40)] for side in ("first", "second")}
    negations = {side: [f"{side} {i}" for i in range(20)] for side in ("first", "second", "common")}
    of = {i: rng.normal(size=48) for i in range(40)}

    def knows(texts: list[str]) -> np.ndarray:
        return np.stack([of[int(t.split()[1])] for t in texts])

    def denies(texts: list[str]) -> np.ndarray:
        return np.stack([of[int(t.split()[1])] * (-1 if t.startswith("second") else 1) for t in texts])

    def guesses(texts: list[str]) -> np.ndarray:
        return rng.normal(size=(len(texts), 48))

    assert wording_figures(knows, volumes, paraphrases, negations)["paraphrases agree"]["value"] == 1
    assert wording_figures(knows, volumes, paraphrases, negations)["negations disagree"]["value"] == 0
    assert wording_figures(denies, volumes, paraphrases, negations)["negations disagree"]["value"] == 1
    blind = wording_figures(guesses, volumes, paraphrases, negations)["paraphrases agree"]
    assert blind["value"] < 0.25 and abs(blind["correlation"] - blind["chance"]) < 0.1


def test_the_shipped_model_ranks_paraphrases_alike_and_negations_not(model: Decipher, volumes: np.ndarray) -> None:
    found = wording_figures(
        lambda texts: model.encode_texts(texts).numpy(), volumes, queries("paraphrases"), queries("negations")
    )
    assert found["paraphrases agree"]["value"] >= PARAPHRASES_AGREE, found
    assert found["paraphrases agree"]["correlation"] > found["paraphrases agree"]["chance"] + 0.3, found
    assert found["negations disagree"]["value"] >= NEGATIONS_DISAGREE, found
