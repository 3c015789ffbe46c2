"""The detector and its loss: what is missing changes nothing, order changes nothing, and both streams learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.config import FAMILIES
from models.errors import DecipherError
from models.fusion import Detector, DetectorConfig, StudyFeatures, Target, focal_loss

TARGETS = (Target("mass", "brain"), Target("infarct", "brain"), Target("protrusion", "spine"))
CONFIG = DetectorConfig(TARGETS, width=32, depth=2, heads=4)
FIELDS = tuple(StudyFeatures.__dataclass_fields__)


def detector() -> Detector:
    torch.manual_seed(0)
    made = Detector(CONFIG, 16).eval()
    with torch.no_grad():
        made.weight.mul_(50)
        made.family.mul_(50)
    return made


def study(seed: int = 1) -> StudyFeatures:
    """Two studies of four places: the first lacks two sequences, the second none."""
    made = torch.Generator().manual_seed(seed)
    valid = torch.rand(2, 4, 5, generator=made) < 0.7
    valid[:, :, 0] = True
    return StudyFeatures(
        volumes=torch.randn(2, 4, 16, generator=made),
        patches=torch.randn(2, 4, 5, 16, generator=made),
        valid=valid,
        family=torch.tensor([[0, 3, 1, 2], [2, -1, 7, 0]]),
        present=torch.tensor([[True, True, False, False], [True] * 4]),
    )


def test_a_logit_for_each_target_and_settings_survive_json() -> None:
    assert detector()(study()).shape == (2, 3)
    assert DetectorConfig.from_json(CONFIG.to_json()) == CONFIG
    assert detector().family.shape == (len(FAMILIES) + 1, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert detector()(study()).dtype == torch.float32
    for wrong in ({"targets": ()}, {"width": 30}, {"depth": 0}, {"heads": 0}):
        with pytest.raises(DecipherError):
            replace(CONFIG, **wrong)


@pytest.mark.parametrize("value", [0.0, 7.0, float("nan"), float("inf")])
def test_a_missing_sequence_and_padding_change_nothing(value: float) -> None:
    clean, model = study(), detector()
    missing = ~clean.present
    dirty = replace(
        clean,
        volumes=torch.where(missing[..., None], torch.tensor(value), clean.volumes),
        patches=torch.where((missing[..., None] | ~clean.valid)[..., None], torch.tensor(value), clean.patches),
        family=torch.where(missing, torch.tensor(99), clean.family),
        valid=clean.valid ^ missing[..., None],
    )
    assert torch.equal(model(clean), model(dirty))
    gradients = []
    for given in (clean, dirty):
        model.zero_grad()
        model(given).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters())), "every weight takes part"
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_what_is_present_changes_something() -> None:
    clean, model = study(), detector()
    before = model(clean).detach()
    flipped = clean.patches.clone()
    flipped[1, 2, 0] *= -1
    for other in (
        replace(clean, volumes=-clean.volumes),
        replace(clean, patches=flipped),
        replace(clean, family=clean.family.roll(1, dims=1)),
        replace(clean, present=clean.present.logical_and(torch.tensor([False, True, True, True]))),
    ):
        assert float((model(other) - before).abs().max().detach()) > 1e-2
    assert torch.allclose(model(replace(clean, volumes=3 * clean.volumes)), before, atol=1e-5)


def streams(given: StudyFeatures) -> dict[str, torch.Tensor]:
    """What each part of a detector of one layer puts out."""
    torch.manual_seed(0)
    model = Detector(replace(CONFIG, depth=1), 16).eval()
    parts = {"semantic": model.semantic, "detail": model.detail}
    parts |= {"semantic asks": model.across[0], "detail asks": model.across[1]}
    found = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda part, given, out, name=name: found.update({name: out.detach()}))
    model(given)
    return found


@pytest.mark.parametrize(
    ("field", "reached"),
    [
        ("volumes", {"semantic", "semantic asks", "detail asks"}),
        ("patches", {"detail", "semantic asks", "detail asks"}),
        ("family", {"semantic", "detail", "semantic asks", "detail asks"}),
    ],
)
def test_streams_read_their_own_then_each_other(field: str, reached: set[str]) -> None:
    clean = study()
    changed = {"volumes": -clean.volumes, "patches": -clean.patches, "family": 6 - clean.family}
    before, after = streams(clean), streams(replace(clean, **{field: changed[field]}))
    assert {name for name in before if not torch.equal(before[name], after[name])} == reached


def test_every_family_is_told_apart() -> None:
    clean, model = study(), detector()
    families = [replace(clean, family=torch.full((2, 4), number)) for number in range(-1, len(FAMILIES))]
    logits = torch.stack([model(given) for given in families]).detach()
    for a in range(len(families)):
        for b in range(a):
            assert not torch.allclose(logits[a], logits[b], atol=1e-3)


def test_sequences_have_no_order() -> None:
    clean, model = study(), detector()
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        moved = StudyFeatures(*(getattr(clean, name)[:, order] for name in FIELDS))
        assert torch.allclose(model(moved), model(clean), atol=1e-5)


def test_neither_more_places_nor_other_studies_matter() -> None:
    clean, model = study(), detector()
    first = StudyFeatures(*(getattr(clean, name)[:1] for name in FIELDS))
    tight = StudyFeatures(*(getattr(first, name)[:, :2] for name in FIELDS))
    together = model(clean)
    assert torch.allclose(model(first), together[:1], atol=1e-5)
    assert torch.allclose(model(tight), together[:1], atol=1e-5)


def test_queries_start_as_the_vectors_of_the_prompts() -> None:
    model = detector()
    vectors = torch.randn(3, 16)
    model.start(vectors)
    assert torch.allclose(model.queries.detach(), vectors / vectors.norm(dim=1, keepdim=True))
    assert model.queries.requires_grad
    logits = model(study()).detach()
    with torch.no_grad():
        model.weight.copy_(model.weight[[0, 0, 2]])
    model.start(vectors[[0, 0, 2]])
    same = model(study()).detach()
    assert torch.allclose(same[:, 0], same[:, 1], atol=1e-6) and not torch.allclose(same[:, 1], logits[:, 1], atol=1e-3)
    with pytest.raises(ValueError):
        model.start(vectors[:1])


def plain_focal(logits: np.ndarray, labels: np.ndarray, known: np.ndarray, gamma: float, alpha: float | None) -> float:
    losses = []
    for logit, label, there in zip(logits.flat, labels.flat, known.flat, strict=True):
        if there:
            probability = 1 / (1 + np.exp(-logit))
            right = probability if label else 1 - probability
            weight = 1.0 if alpha is None else alpha if label else 1 - alpha
            losses.append(-weight * (1 - right) ** gamma * np.log(right))
    return float(np.mean(losses))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, None), (0.5, 0.9), (3.0, None)])
def test_focal_loss_is_that_of_plain_numpy(rng: np.random.Generator, gamma: float, alpha: float | None) -> None:
    logits, labels = rng.normal(0, 3, (6, 4)), rng.integers(0, 2, (6, 4))
    known = rng.random((6, 4)) < 0.6
    said = torch.tensor(np.where(known, logits, np.nan), requires_grad=True)
    loss = focal_loss(said, torch.tensor(np.where(known, labels, 9)), torch.tensor(known), gamma, alpha)
    assert float(loss.detach()) == pytest.approx(plain_focal(logits, labels, known, gamma, alpha), rel=1e-5)
    loss.backward()
    assert torch.isfinite(said.grad).all() and torch.equal(said.grad != 0, torch.tensor(known))


def test_focal_loss_is_cross_entropy_without_its_settings_and_monais_with_them(rng: np.random.Generator) -> None:
    from monai.losses import FocalLoss

    logits, labels = torch.tensor(rng.normal(0, 3, (5, 3))), torch.tensor(rng.integers(0, 2, (5, 3))).double()
    known = torch.ones(5, 3, dtype=torch.bool)
    plain = F.binary_cross_entropy_with_logits(logits, labels)
    assert float(focal_loss(logits, labels, known, gamma=0.0, alpha=None)) == pytest.approx(float(plain), rel=1e-5)
    theirs = FocalLoss(gamma=2.0, alpha=0.25)(logits, labels)
    assert float(focal_loss(logits, labels, known)) == pytest.approx(float(theirs), rel=1e-5)


def test_focal_loss_is_finite_for_the_surest_and_zero_where_nothing_is_known() -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    known = torch.ones(1, 3, dtype=torch.bool)
    loss = focal_loss(logits, torch.tensor([[1, 1, 0]]), known, gamma=0.5, alpha=None)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((200 + 0.5**0.5 * np.log(2)) / 3, rel=1e-5)
    assert torch.isfinite(logits.grad).all()
    nothing = torch.zeros(1, 3, requires_grad=True)
    empty = focal_loss(nothing, torch.zeros(1, 3), ~known)
    empty.backward()
    assert float(empty.detach()) == 0 and torch.equal(nothing.grad, torch.zeros(1, 3))


def learned(signs: torch.Tensor, patches: torch.Tensor, volumes: torch.Tensor) -> float:
    """Accuracy on the second half of studies after learning from the first."""
    torch.manual_seed(0)
    model = Detector(replace(CONFIG, depth=1), 16)
    count = len(signs)
    family = torch.tensor([[0, 3, 1]]).expand(count, 3)
    whole = StudyFeatures(volumes, patches, torch.ones(count, 3, 5).bool(), family, torch.ones(count, 3).bool())
    train, test = (
        StudyFeatures(*(getattr(whole, name)[half] for name in FIELDS)) for half in (slice(0, 256), slice(256, None))
    )
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(80):
        optimiser.zero_grad()
        focal_loss(model(train), signs[:256], torch.ones(256, 3).bool(), alpha=None).backward()
        optimiser.step()
    return float(((model(test) > 0) == (signs[256:] > 0)).float().mean())


@pytest.mark.parametrize("stream", ["semantic", "detail"])
def test_each_stream_learns_alone(stream: str) -> None:
    """Each finding is a direction, seen in the volume vector of any sequence, or in any one of fifteen patches."""
    made = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (384, 3), generator=made)
    directions = torch.eye(16)[:3] * 6
    volumes, patches = torch.randn(384, 3, 16, generator=made), torch.randn(384, 15, 16, generator=made)
    where = torch.rand(384, 15, generator=made).argsort(dim=1)[:, :3]
    for finding in range(3):
        added = signs[:, finding, None] * directions[finding]
        if stream == "semantic":
            volumes[torch.arange(384), where[:, finding] % 3] += added
        else:
            patches[torch.arange(384), where[:, finding]] += added
    assert learned(signs, patches.reshape(384, 3, 5, 16), volumes) > 0.85
