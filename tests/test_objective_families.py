"""The asymmetric contrast of sequence families against plain NumPy, and what is hidden from the encoder."""

import numpy as np
import pytest
import torch

from training.objectives.align import many_positive_contrast
from training.objectives.families import asymmetric_contrast


def one_way_by_hand(logits: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """Mean over rows, and over the positives of each, of -log(e^p / (e^p + sum over negatives of e))."""
    rows = []
    for scores, yes, no in zip(logits, positive, negative, strict=True):
        if yes.any() and no.any():
            rows.append(np.mean([-np.log(np.exp(s) / (np.exp(s) + np.exp(scores[no]).sum())) for s in scores[yes]]))
    return float(np.mean(rows)) if rows else 0.0


def test_the_loss_by_hand(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(8, 10)) * 2
    positive = rng.random((8, 10)) < 0.3
    negative = ~positive & (rng.random((8, 10)) < 0.7)
    family = np.array([0, 0, 0, 2, 2, -1, -1, 2])
    back = sum(
        (family == f).mean() * one_way_by_hand(logits[family == f].T, positive[family == f].T, negative[family == f].T)
        for f in (-1, 0, 2)
    )
    expected = 0.6 * one_way_by_hand(logits, positive, negative) + 0.4 * back
    tensors = [torch.from_numpy(a) for a in (logits, positive, negative, family)]
    assert float(asymmetric_contrast(*tensors, volume_to_text=0.6)) == pytest.approx(expected, rel=1e-9)


def test_one_family_and_even_weights_are_the_symmetric_contrast(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(size=(5, 7)))
    positive = torch.from_numpy(rng.random((5, 7)) < 0.4)
    same = asymmetric_contrast(logits, positive, ~positive, torch.zeros(5, dtype=torch.long), 0.5)
    assert float(same) == pytest.approx(float(many_positive_contrast(logits, positive, ~positive)), rel=1e-12)


def test_volumes_of_another_family_are_no_rivals_of_a_text(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(size=(4, 3))).requires_grad_(True)
    positive = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool)
    family = torch.tensor([0, 0, 1, 1])
    asymmetric_contrast(logits, positive, ~positive, family, 0.0).backward()
    alone = logits.detach().clone()[:2].requires_grad_(True)
    (0.5 * asymmetric_contrast(alone, positive[:2], ~positive[:2], family[:2], 0.0)).backward()
    assert logits.grad is not None and alone.grad is not None
    torch.testing.assert_close(logits.grad[:2], alone.grad)
