"""Losses against plain NumPy, and what may receive a gradient."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.prepare import Prepared
from training.captions import VALUES
from training.config import TrainConfig
from training.data import Batch
from training.objectives.align import Align, many_positive_contrast, view_contrast
from training.objectives.vision import Vision, cross_entropy, sinkhorn

TINY = ModelConfig(prepare=PrepareConfig(box=32), vision=VisionConfig(width=48, depth=1, heads=3, registers=1))


def contrast_by_hand(logits: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """Mean over rows, and over the positives of each, of -log(e^p / (e^p + sum over negatives of e))."""
    rows = []
    for scores, yes, no in zip(logits, positive, negative, strict=True):
        if yes.any() and no.any():
            against = np.exp(scores[no]).sum()
            rows.append(np.mean([-np.log(np.exp(s) / (np.exp(s) + against)) for s in scores[yes]]))
    return float(np.mean(rows))


def test_many_positive_contrast_by_hand(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(6, 9)) * 3
    positive = rng.random((6, 9)) < 0.3
    negative = ~positive & (rng.random((6, 9)) < 0.6)
    expected = (contrast_by_hand(logits, positive, negative) + contrast_by_hand(logits.T, positive.T, negative.T)) / 2
    found = many_positive_contrast(torch.from_numpy(logits), torch.from_numpy(positive), torch.from_numpy(negative))
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_with_one_positive_each_it_is_the_loss_of_clip(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(size=(7, 7)))
    own = torch.eye(7, dtype=torch.bool)
    targets = torch.arange(7)
    clip = (
        torch.nn.functional.cross_entropy(logits, targets) + torch.nn.functional.cross_entropy(logits.T, targets)
    ) / 2
    assert float(many_positive_contrast(logits, own, ~own)) == pytest.approx(float(clip), rel=1e-9)


def test_ignored_pairs_change_nothing(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(size=(4, 5)))
    positive = torch.eye(4, 5, dtype=torch.bool)
    negative = ~positive
    negative[0, 2] = False
    other = logits.clone()
    other[0, 2] += 100
    first = many_positive_contrast(logits, positive, negative)
    assert float(first) == pytest.approx(float(many_positive_contrast(other, positive, negative)), rel=1e-9)


def test_without_any_pair_the_loss_is_zero_with_a_gradient() -> None:
    logits = torch.zeros(3, 4, requires_grad=True)
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    loss = many_positive_contrast(logits, nothing, nothing)
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None


def test_view_contrast_by_hand(rng: np.random.Generator) -> None:
    first, second = (torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(5, 8))), dim=1) for _ in range(2))
    same = torch.eye(5, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    logits = (first @ second.T / 0.1).numpy()
    own, no = np.eye(5, dtype=bool), ~same.numpy()
    expected = (contrast_by_hand(logits, own, no) + contrast_by_hand(logits.T, own, no.T)) / 2
    assert float(view_contrast(first, second, same)) == pytest.approx(expected, rel=1e-6)


def test_sinkhorn_rows_and_columns(rng: np.random.Generator) -> None:
    share = sinkhorn(torch.from_numpy(rng.normal(size=(32, 8)) * 3), rounds=60)
    assert share.sum(dim=1).numpy() == pytest.approx(np.ones(32), rel=1e-6)
    assert share.sum(dim=0).numpy() == pytest.approx(np.full(8, 4.0), rel=1e-3)


def test_distillation_cross_entropy_by_hand(rng: np.random.Generator) -> None:
    student, target = rng.normal(size=(4, 6)), rng.dirichlet(np.ones(6), size=4)
    scaled = student / 0.1
    log_share = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    expected = -(target * log_share).sum(axis=1).mean()
    assert float(cross_entropy(torch.from_numpy(student), torch.from_numpy(target))) == pytest.approx(expected)


def batch(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    content = torch.tensor([[[0, 32]] * 3]).expand(count, 3, 2)
    views = [
        Prepared(torch.rand(count, 1, 32, 32, 32, generator=generator), content, torch.ones(count, 7), torch.eye(4))
        for _ in range(2)
    ]
    own = torch.eye(count, dtype=torch.bool)
    sentences = torch.nn.functional.normalize(torch.randn(count, 384, generator=generator), dim=1)
    known = torch.ones(count, dtype=torch.bool)
    attributes = torch.full((count, len(VALUES)), -1)
    return Batch(views, sentences, own, ~own, attributes, own, known, generator)


def test_no_gradient_reaches_the_teacher_and_it_follows_the_student() -> None:
    torch.manual_seed(0)
    objective = Vision(Decipher(TINY), TrainConfig(prototypes=16, teacher_momentum=0.9))
    loss = objective(batch(), contextlib.nullcontext)["loss"]
    loss.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert objective.model.vision.stem.weight.grad.abs().sum() > 0
    before = objective.teacher[0].stem.weight.clone()
    with torch.no_grad():
        objective.model.vision.stem.weight += 1.0
    objective.after_step(0, 10)
    assert torch.allclose(objective.teacher[0].stem.weight, before + 0.1, atol=1e-5)


def test_a_tiny_model_learns_which_text_belongs_to_which_volume() -> None:
    """Overfits eight pairs to recall@1 of 1 in both directions."""
    torch.manual_seed(0)
    objective = Align(Decipher(TINY), TrainConfig())
    pairs = batch(8)
    pairs = replace(pairs, views=pairs.views[:1])
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(60):
        loss = objective(pairs, contextlib.nullcontext)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    volumes = objective.model.eval().encode_prepared(pairs.views[0]).volume
    with torch.no_grad():
        texts = torch.nn.functional.normalize(objective.model.text(pairs.sentences), dim=1)
    similarity = volumes @ texts.T
    assert similarity.argmax(dim=1).tolist() == list(range(8))
    assert similarity.argmax(dim=0).tolist() == list(range(8))


def test_attribute_heads_are_cross_entropy_over_what_is_known(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    objective = Align(Decipher(TINY), TrainConfig(heads_weight=1.0))
    volumes = torch.from_numpy(rng.normal(size=(3, 384))).float()
    attributes = torch.full((3, len(VALUES)), -1)
    attributes[0, 0], attributes[2, 0], attributes[1, 2] = 1, 4, 0
    expected = []
    for a, rows in ((0, [0, 2]), (2, [1])):
        scores = objective.heads[a](volumes).detach().double().numpy()
        terms = [np.log(np.exp(scores[r]).sum()) - scores[r, int(attributes[r, a])] for r in rows]
        expected.append(np.mean(terms))
    assert float(objective._name(volumes, attributes).detach()) == pytest.approx(np.mean(expected), rel=1e-5)
