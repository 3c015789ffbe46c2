"""Losses of stage align against plain NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.prepare import Prepared
from training.captions import ATTRIBUTES, VALUES
from training.compute import Compute
from training.config import TrainConfig
from training.objectives.align import HEADED, Align, many_positive_contrast, view_contrast
from training.pairs import PairBatch

TINY = ModelConfig(
    prepare=PrepareConfig(box=(32, 32, 32)), vision=VisionConfig(width=48, depth=1, heads=3, registers=1)
)


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


def batch(count: int = 4) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    content = torch.tensor([[[0, 32]] * 3]).expand(count, 3, 2)
    views = [
        Prepared(torch.rand(count, 1, 32, 32, 32, generator=generator), content, torch.ones(count, 7), torch.eye(4))
        for _ in range(2)
    ]
    own = torch.eye(count, dtype=torch.bool)
    return PairBatch(
        views=views,
        geometry_known=torch.ones(count, dtype=torch.bool),
        sentences=torch.nn.functional.normalize(torch.randn(count, 384, generator=generator), dim=1),
        positive=own,
        negative=~own,
        attributes=torch.full((count, len(VALUES)), -1),
        same_subject=own,
        partner=torch.full((count,), -1),
        family=torch.full((count,), -1),
        reports=torch.full((count,), -1),
        lesions=torch.zeros(count, 0, dtype=torch.bool),
        lesion_names=[],
        years=torch.full((count,), torch.nan),
        crops=None,
        image_only=0.0,
        names=[str(n) for n in range(count)],
    )


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    torch.manual_seed(0)
    objective = Align(Decipher(TINY), TrainConfig(heads_weight=0.7, views_weight=0.3, image_weight=0.0))
    pairs = batch(6)
    pairs = replace(pairs, attributes=torch.randint(0, 2, pairs.attributes.shape))
    found = {name: float(value.detach()) for name, value in objective(pairs, Compute()).items()}
    assert found["loss"] == pytest.approx(found["contrast"] + 0.7 * found["heads"] + 0.3 * found["views"], rel=1e-6)
    model = objective.model
    with torch.no_grad():
        texts = torch.nn.functional.normalize(model.text(pairs.sentences), dim=1).double().numpy()
        views = [torch.nn.functional.normalize(model.vision(v).volume, dim=1).double().numpy() for v in pairs.views]
    own = np.eye(6, dtype=bool)
    by_hand = [
        (contrast_by_hand(logits, own, ~own) + contrast_by_hand(logits.T, own, ~own)) / 2
        for logits in (views @ texts.T / 0.07 for views in views)
    ]
    assert found["contrast"] == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_each_part_of_the_volume_vector_answers_alone() -> None:
    """Contrast and heads of tokens, stem and histogram by themselves; the temperature is learned from the whole alone."""
    torch.manual_seed(0)
    objective = Align(Decipher(TINY), TrainConfig(heads_weight=0.7, parts_weight=0.4, image_weight=0.0))
    pairs = batch(6)
    pairs = replace(pairs, attributes=torch.randint(0, 2, pairs.attributes.shape))
    found = objective(pairs, Compute())
    by_name = {name: float(value.detach()) for name, value in found.items()}
    assert by_name["loss"] == pytest.approx(
        by_name["contrast"] + 0.7 * by_name["heads"] + 0.4 * by_name["parts"], rel=1e-6
    )
    model = objective.model
    with torch.no_grad():
        texts = torch.nn.functional.normalize(model.text(pairs.sentences), dim=1).double().numpy()
        parts = [part for view in pairs.views for part in model.vision(view).parts.unbind(dim=1)]
        unit = [torch.nn.functional.normalize(part, dim=1).double().numpy() for part in parts]
        named = [[-head(part).log_softmax(dim=1).double().numpy() for head in objective.heads] for part in parts]
    own = np.eye(6, dtype=bool)
    answers = [pairs.attributes[:, ATTRIBUTES.index(name)].numpy() for name in HEADED]
    expected = []
    for vectors, losses in zip(unit, named, strict=True):
        logits = vectors @ texts.T / 0.07
        contrast = (contrast_by_hand(logits, own, ~own) + contrast_by_hand(logits.T, own, ~own)) / 2
        heads = np.mean([loss[np.arange(6), said].mean() for loss, said in zip(losses, answers, strict=True)])
        expected.append(contrast + 0.7 * heads)
    assert by_name["parts"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert torch.autograd.grad(found["parts"], model.log_scale, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(found["contrast"], model.log_scale)[0].abs() > 0


def test_the_contrast_of_patients_by_hand() -> None:
    """Each series with its partner against series of others, in the space of the head; one has none and counts nothing."""
    torch.manual_seed(0)
    objective = Align(Decipher(TINY), TrainConfig(subject_weight=0.5, image_weight=0.0))
    same = torch.eye(5, dtype=torch.bool)
    for one, other in ((0, 3), (1, 4), (0, 2)):
        same[one, other] = same[other, one] = True
    pairs = replace(batch(5), partner=torch.tensor([3, 4, -1, 0, 1]), same_subject=same)
    found = {name: float(value.detach()) for name, value in objective(pairs, Compute()).items()}
    assert found["loss"] == pytest.approx(found["contrast"] + 0.5 * found["subjects"], rel=1e-6)
    head, expected = objective.subject, []
    assert head is not None
    for view in pairs.views:
        with torch.no_grad():
            unit = torch.nn.functional.normalize(head(objective.model.vision(view).volume), dim=1).double().numpy()
        logits = unit @ unit.T / 0.1
        own = [
            np.log1p(np.exp(logits[i][~same[i].numpy()] - logits[i, j]).sum())
            for i, j in ((0, 3), (1, 4), (3, 0), (4, 1))
        ]
        expected.append(np.mean(own))
    assert found["subjects"] == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_age_counts_where_it_is_known() -> None:
    """Beside no other attribute, the loss of the heads is the mean Huber loss of the age in units of 20 years from 45."""
    torch.manual_seed(0)
    objective = Align(Decipher(TINY), TrainConfig(heads_weight=1.0, image_weight=0.0))
    pairs = batch(4)
    pairs = replace(pairs, views=pairs.views[:1], years=torch.tensor([0.5, torch.nan, 45.0, 92.0]))
    with torch.no_grad():
        said = objective.age(objective.model.vision(pairs.views[0]).volume)[:, 0].double().numpy()
    off = np.abs(said - (np.array([0.5, np.nan, 45.0, 92.0]) - 45) / 20)[[0, 2, 3]]
    expected = np.where(off < 1, off**2 / 2, off - 0.5).mean()
    assert float(objective(pairs, Compute())["heads"].detach()) == pytest.approx(expected, rel=1e-4)


def test_the_contrast_of_a_lesions_patches_by_hand() -> None:
    """Each patch that a lesion touches against those of its volume that none does; a volume without a lesion counts nothing."""
    torch.manual_seed(0)
    objective = Align(Decipher(TINY), TrainConfig(pointing_weight=0.5, image_weight=0.0))
    names = torch.nn.functional.normalize(torch.randn(3, 384), dim=1)
    pairs = replace(batch(3), lesions=torch.zeros(3, 64, dtype=torch.bool), lesion_names=names)
    pairs = replace(pairs, views=pairs.views[:1])
    pairs.lesions[0, :5] = pairs.lesions[2, 60:] = True
    found = {name: float(value.detach()) for name, value in objective(pairs, Compute()).items()}
    assert found["loss"] == pytest.approx(found["contrast"] + 0.5 * found["pointing"], rel=1e-6)
    with torch.no_grad():
        patches = torch.nn.functional.normalize(objective.model.vision(pairs.views[0]).patches, dim=-1).double()
        texts = torch.nn.functional.normalize(objective.model.text(names), dim=-1).double()
    near = np.exp((patches @ texts[:, :, None])[..., 0].numpy() / 0.1)
    lesion = pairs.lesions.numpy()
    expected = [
        np.mean([-np.log(own / (own + near[i][~lesion[i]].sum())) for own in near[i][lesion[i]]]) for i in (0, 2)
    ]
    assert found["pointing"] == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_temperature_is_bounded() -> None:
    model = Decipher(TINY)
    for logarithm, scale in ((-3.0, 1.0), (2.0, np.exp(2.0)), (9.0, 100.0)):
        with torch.no_grad():
            model.log_scale.fill_(logarithm)
        assert float(model.scale.detach()) == pytest.approx(scale, rel=1e-5)


def test_a_tiny_model_learns_which_text_belongs_to_which_volume() -> None:
    """Overfits sixteen pairs to recall@1 of 1 in both directions."""
    torch.manual_seed(0)
    objective = Align(Decipher(TINY), TrainConfig(image_weight=0.0))
    pairs = batch(16)
    pairs = replace(pairs, views=pairs.views[:1])
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(60):
        loss = objective(pairs, Compute())["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    volumes = objective.model.eval().encode_prepared(pairs.views[0]).volume
    with torch.no_grad():
        texts = torch.nn.functional.normalize(objective.model.text(pairs.sentences), dim=1)
    similarity = volumes @ texts.T
    assert similarity.argmax(dim=1).tolist() == list(range(16))
    assert similarity.argmax(dim=0).tolist() == list(range(16))


def test_attribute_heads_are_cross_entropy_over_what_is_known(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    objective = Align(Decipher(TINY), TrainConfig(heads_weight=1.0, image_weight=0.0))
    volumes = torch.from_numpy(rng.normal(size=(3, 384))).float()
    attributes = torch.full((3, len(VALUES)), -1)
    attributes[0, 0], attributes[2, 0], attributes[1, 2] = 1, 4, 0
    expected = []
    for a, rows in ((0, [0, 2]), (2, [1])):
        scores = objective.heads[a](volumes).detach().double().numpy()
        terms = [np.log(np.exp(scores[r]).sum()) - scores[r, int(attributes[r, a])] for r in rows]
        expected.append(np.mean(terms))
    found = objective._name(volumes, replace(batch(3), attributes=attributes))
    assert float(found.detach()) == pytest.approx(np.mean(expected), rel=1e-5)
