"""Stage 1: each loss against plain NumPy, what the teacher does, several processes as one, and that it learns."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.prepare import Prepared, collate
from models.vision import token_places
from training.compute import Compute
from training.config import TrainConfig
from training.crops import CropBatch, blocks, crop
from training.objectives.vision import (
    PrototypeHead,
    Vision,
    cross_entropy,
    dino_loss,
    joined,
    koleo_loss,
    momentum_at,
    sinkhorn,
    token_weights,
)

ONE = Compute()
PATCH = VisionConfig(width=48, depth=1, heads=3, registers=1)
CONV = VisionConfig(stem="conv", patch=(8, 8, 8), conv_widths=(16, 16), conv_pool=2, width=48, depth=1, heads=3)
SMALL: dict[str, Any] = {"prototypes": 32, "head_hidden": 32, "head_bottleneck": 16, "local_crops": 2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower with two, and the more so the busier the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def objective(vision: VisionConfig = PATCH, **settings: Any) -> Vision:
    torch.manual_seed(0)
    model = Decipher(ModelConfig(prepare=PrepareConfig(box=(32, 32, 32)), vision=vision, dim=32))
    return Vision(model, TrainConfig(**{**SMALL, **settings}))


def volume(number: int) -> Prepared:
    """Each number has its own texture and proportions, within padding."""
    source = torch.Generator().manual_seed(number)
    coarse = torch.rand(1, 1, 4, 4, 4, generator=source)
    pixels = torch.zeros(1, 32, 32, 32)
    width = 16 + 2 * number
    pixels[:, :, 2:30, :width] = torch.nn.functional.interpolate(coarse, size=32, mode="trilinear")[0][
        :, :, 2:30, :width
    ]
    geometry = torch.log(torch.tensor([1.0, 1.0, 4.0, 150.0, 150.0, 90.0, 4.0]))
    return Prepared(pixels, torch.tensor([[0, 32], [2, 30], [0, width]]), geometry, torch.eye(4))


def batch(seed: int = 0, count: int = 8, locals_: int = 2) -> CropBatch:
    """Crops of `count` volumes; of all but two of the first crops and none of the second, patches are hidden."""
    source = torch.Generator().manual_seed(seed)
    volumes = [volume(n) for n in range(count)]

    def cut(low: float, high: float, edge: int) -> Prepared:
        share = low + (high - low) * torch.rand(2, generator=source)
        return collate([crop(v, float(share[0]), float(share[1]), (edge,) * 3, source) for v in volumes])

    wide = [cut(0.5, 1.0, 32) for _ in range(2)]
    valid = token_places(wide[0], (8, 8, 8))[1]
    shares = [0.0, 0.0, *np.linspace(0.2, 0.75, count - 2)]
    hidden = torch.stack([blocks(v, (4, 4, 4), s, source) for v, s in zip(valid, shares, strict=True)])
    known = torch.rand(count, generator=source) < 0.7
    names = [str(n) for n in range(count)]
    return CropBatch(
        wide, [cut(0.2, 0.5, 16) for _ in range(locals_)], [hidden, torch.zeros_like(hidden)], known, names
    )


def part(whole: CropBatch, rows: slice) -> CropBatch:
    """The volumes of one process."""

    def of(crops: Prepared) -> Prepared:
        return Prepared(*(getattr(crops, f)[rows] for f in Prepared.__dataclass_fields__))

    return CropBatch(
        [of(c) for c in whole.globals],
        [of(c) for c in whole.locals],
        [h[rows] for h in whole.hidden],
        whole.geometry_known[rows],
        whole.names[rows],
    )


def side_by_side(work: Callable[[Compute], Any], world: int = 2) -> list[Any]:
    """work(compute) of every process, as threads that meet wherever processes would."""
    meeting = threading.Barrier(world, timeout=60)
    table: dict[int, torch.Tensor] = {}
    found: dict[int, Any] = {}

    def exchange(rank: int, value: torch.Tensor) -> list[torch.Tensor]:
        table[rank] = value
        meeting.wait()
        everyone = [table[r] for r in range(world)]
        meeting.wait()
        return everyone

    def run(rank: int) -> None:
        found[rank] = work(
            Compute(
                rank=rank,
                world=world,
                gather=lambda value: torch.cat(exchange(rank, value)),
                total=lambda value: torch.stack(exchange(rank, value)).sum(dim=0),
            )
        )

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(world)]


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


def test_dino_by_hand(rng: np.random.Generator) -> None:
    """Five crops of the student, two of the teacher: all eight pairs of different crops."""
    student, targets = rng.normal(size=(5, 3, 7)), rng.dirichlet(np.ones(7), size=(2, 3))
    terms = []
    for t in range(2):
        for s in range(5):
            if s != t:
                for b in range(3):
                    terms.append(-(targets[t, b] * log_softmax(student[s, b] / 0.1)).sum())
    assert len(terms) == 24
    found = dino_loss(torch.from_numpy(student), torch.from_numpy(targets), 0.1)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-9)


def test_ibot_by_hand(rng: np.random.Generator) -> None:
    """Mean over hidden patches within a crop, then over the crops that hide any: 1, 0, 3 and 2 patches of five."""
    hidden = np.zeros((4, 5), dtype=bool)
    hidden[0, 2], hidden[2, 1:4], hidden[3, [0, 4]] = True, True, True
    student, target = rng.normal(size=(4, 5, 6)), rng.dirichlet(np.ones(6), size=(4, 5))
    each = -(target * log_softmax(student / 0.1)).sum(axis=-1)
    expected = np.mean([each[b][hidden[b]].mean() for b in (0, 2, 3)])
    weights = token_weights(torch.from_numpy(hidden), ONE)
    found = weights @ cross_entropy(torch.from_numpy(student), torch.from_numpy(target), 0.1).flatten().float()
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert float(token_weights(torch.zeros(2, 5, dtype=torch.bool), ONE).sum()) == 0


def test_koleo_by_hand(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(6, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = [min(np.linalg.norm(unit[i] - unit[j]) for j in range(6) if j != i) for i in range(6)]
    assert float(koleo_loss(torch.from_numpy(vectors))) == pytest.approx(-np.log(nearest).mean(), rel=1e-6)
    alone = torch.ones(1, 5, requires_grad=True)
    koleo_loss(alone).backward()
    assert alone.grad is not None and float(alone.grad.abs().sum()) == 0


def test_koleo_pushes_neighbours_apart() -> None:
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]], requires_grad=True)
    koleo_loss(vectors).backward()
    assert vectors.grad is not None
    assert float(vectors.grad[0, 1]) > 0 > float(vectors.grad[1, 1])


def sinkhorn_by_hand(scores: np.ndarray, rounds: int) -> np.ndarray:
    """SwAV's listing: prototypes by samples, rows and columns made even in turn."""
    q = np.exp(scores).T
    q /= q.sum()
    for _ in range(rounds):
        for row in q:
            row /= row.sum() * len(q)
        for column in q.T:
            column /= column.sum() * q.shape[1]
    return (q * q.shape[1]).T


def test_sinkhorn_by_hand(rng: np.random.Generator) -> None:
    scores = rng.uniform(-1, 1, size=(12, 5)) / 0.05
    found = sinkhorn(torch.from_numpy(scores), ONE).numpy()
    assert found == pytest.approx(sinkhorn_by_hand(scores, 3), rel=1e-9)


def test_sinkhorn_rows_and_columns(rng: np.random.Generator) -> None:
    share = sinkhorn(torch.from_numpy(rng.normal(size=(32, 8)) * 3), ONE, rounds=80)
    assert share.sum(dim=1).numpy() == pytest.approx(np.ones(32), rel=1e-9)
    assert share.sum(dim=0).numpy() == pytest.approx(np.full(8, 4.0), rel=1e-3)


@pytest.mark.parametrize("first", [6, 2, 0])
def test_sinkhorn_over_two_processes_is_that_of_one(rng: np.random.Generator, first: int) -> None:
    """However many rows each process has."""
    scores = torch.from_numpy(rng.uniform(-1, 1, size=(12, 5)) / 0.05)
    rows = [scores[:first], scores[first:]]
    found = side_by_side(lambda compute: sinkhorn(rows[compute.rank], compute))
    assert torch.allclose(torch.cat(found), sinkhorn(scores, ONE), rtol=1e-10)


@pytest.mark.parametrize("vision", [PATCH, CONV], ids=["patch", "conv"])
def test_two_processes_are_one(vision: VisionConfig) -> None:
    """Losses and gradients, averaged over processes that hide different numbers of patches in different numbers of crops."""
    whole, alone, shared = batch(), objective(vision), objective(vision)
    expected = alone(whole, ONE)
    expected["loss"].backward()
    assert float(whole.hidden[0][:4].any(dim=1).sum()) != float(whole.hidden[0][4:].any(dim=1).sum())
    found = side_by_side(lambda compute: shared(part(whole, compute.share(8)), compute))
    for key, value in expected.items():
        assert float(sum(f[key] for f in found).detach()) / 2 == pytest.approx(float(value.detach()), rel=1e-5)
    ((found[0]["loss"] + found[1]["loss"]) / 2).backward()
    for (name, one), other in zip(alone.named_parameters(), shared.parameters(), strict=True):
        if one.grad is not None:
            assert other.grad is not None and torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5), name


def test_the_loss_is_the_weighted_sum_and_each_part_by_hand() -> None:
    """The whole forward pass, put together again from the encoders' outputs with NumPy."""
    crops = batch()
    stage = objective(dino_weight=0.7, ibot_weight=1.3, koleo_weight=0.2)
    found = {key: float(value.detach()) for key, value in stage(crops, ONE).items()}
    assert found["loss"] == pytest.approx(0.7 * found["dino"] + 1.3 * found["ibot"] + 0.2 * found["koleo"], rel=1e-5)
    with torch.no_grad():
        hidden = torch.cat(crops.hidden)
        volumes, patches = stage._seen(crops, hidden, ONE)
        taught = stage.teacher[0](joined(crops.globals), crops.geometry_known.repeat(2))
        heads = [scores_by_hand(stage.volume_head, v) for v in (volumes.flatten(0, 1), taught.volume)]
        where = hidden.flatten()
        tokens = [scores_by_hand(stage.patch_head, p.flatten(0, -2)[where]) for p in (patches, taught.patches)]
    student = log_softmax(heads[0] / 0.1).reshape(4, 8, -1)
    target = sinkhorn_by_hand(heads[1] / 0.04, 3).reshape(2, 8, -1)
    pairs = [-(target[t] * student[s]).sum(-1).mean() for t in range(2) for s in range(4) if s != t]
    assert found["dino"] == pytest.approx(np.mean(pairs), rel=1e-4)
    each = -(sinkhorn_by_hand(tokens[1] / 0.04, 3) * log_softmax(tokens[0] / 0.1)).sum(-1)
    row = np.nonzero(hidden.numpy())[0]
    assert found["ibot"] == pytest.approx(np.mean([each[row == r].mean() for r in np.unique(row)]), rel=1e-4)
    assert found["koleo"] == pytest.approx(np.mean([float(koleo_loss(v)) for v in volumes[:2]]), rel=1e-5)


def scores_by_hand(head: PrototypeHead, x: torch.Tensor) -> np.ndarray:
    """Cosines of the perceptron's output with the prototypes."""
    narrow = head.mlp(x).double().numpy()
    prototypes = head.prototypes.double().numpy()
    cosines = narrow @ prototypes.T
    return cosines / np.linalg.norm(narrow, axis=1)[:, None] / np.linalg.norm(prototypes, axis=1)[None]


def test_no_gradient_reaches_the_teacher_and_all_of_the_student_gets_one() -> None:
    stage = objective(frozen_prototypes=0.0)
    stage(batch(), ONE)["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in stage.teacher.parameters())
    for part_of_it in (stage.model.vision, stage.volume_head, stage.patch_head):
        for name, p in part_of_it.named_parameters():
            assert p.grad is not None and float(p.grad.abs().sum()) > 0, name
    assert stage.hidden_token.grad is not None and float(stage.hidden_token.grad.abs().sum()) > 0


def test_without_hidden_patches_every_parameter_still_has_a_gradient() -> None:
    """As data parallelism demands of a process that happens to hide none."""
    crops = batch()
    stage = objective()
    bare = CropBatch(
        crops.globals, crops.locals, [torch.zeros_like(h) for h in crops.hidden], crops.geometry_known, crops.names
    )
    found = stage(bare, ONE)
    found["loss"].backward()
    assert float(found["ibot"].detach()) == 0
    trained = [stage.hidden_token, *stage.model.vision.parameters(), *stage.patch_head.parameters()]
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in trained)


def test_the_teacher_is_the_moving_average_of_the_student() -> None:
    stage = objective(teacher_momentum=0.9)
    optimiser = torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=0.1)
    expected = [p.detach().double().numpy().copy() for p in stage._followed()]
    for step in range(1, 4):
        optimiser.zero_grad()
        stage(batch(step), ONE)["loss"].backward()
        optimiser.step()
        stage.after_step(step, 10)
        momentum = 1 - 0.1 * (np.cos(np.pi * (step - 1) / 10) + 1) / 2
        new = [p.detach().double().numpy() for p in stage._followed()]
        expected = [momentum * old + (1 - momentum) * n for old, n in zip(expected, new, strict=True)]
    for found, wanted in zip(stage.teacher.parameters(), expected, strict=True):
        assert found.numpy() == pytest.approx(wanted, abs=1e-5)


def test_schedules() -> None:
    assert momentum_at(0.992, 1, 100) == pytest.approx(0.992)
    assert momentum_at(0.992, 51, 100) == pytest.approx(0.996)
    assert 0.9999 < momentum_at(0.992, 100, 100) <= 1
    stage = objective(teacher_temperature=(0.04, 0.07))
    told = [float(stage.temperature)]
    for step in (15, 30, 100):
        stage.after_step(step, 100)
        told.append(float(stage.temperature))
    assert told == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_prototypes_rest_at_first() -> None:
    stage = objective(frozen_prototypes=0.1)
    for done, still in ((0, True), (9, True), (10, False)):
        if done:
            stage.after_step(done, 100)
        stage.zero_grad()
        stage(batch(), ONE)["loss"].backward()
        for head in (stage.volume_head, stage.patch_head):
            assert head.prototypes.grad is not None
            assert (float(head.prototypes.grad.abs().sum()) == 0) is still


def test_a_resumed_stage_is_the_same_to_the_last_bit() -> None:
    stage = objective()
    optimiser = torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=0.05)
    for step in range(1, 4):
        optimiser.zero_grad()
        stage(batch(step), ONE)["loss"].backward()
        optimiser.step()
        stage.after_step(step, 20)
    kept = {key: value.clone() for key, value in stage.state_dict().items()}
    assert int(kept["done"]) == 3 and int(kept["steps"]) == 20
    torch.manual_seed(99)
    resumed = objective()
    resumed.load_state_dict(kept)
    found, expected = resumed(batch(9), ONE), stage(batch(9), ONE)
    assert all(float(found[key].detach()) == float(expected[key].detach()) for key in expected)


def test_the_stage_ends_with_the_teachers_weights() -> None:
    stage = objective()
    with torch.no_grad():
        for p in stage.teacher.parameters():
            p += 0.1
    stage.finish()
    first = [p.clone() for p in stage.model.vision.parameters()]
    stage.finish()
    for p, once, theirs in zip(stage.model.vision.parameters(), first, stage.teacher[0].parameters(), strict=True):
        assert torch.equal(p, once) and torch.equal(p, theirs) and p.data_ptr() != theirs.data_ptr()
    assert all(p.requires_grad for p in stage.model.vision.parameters())


def test_losses_are_computed_in_full_precision() -> None:
    crops, stage = batch(), objective()
    half = Compute(autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        found = stage(crops, half)
    expected = stage(crops, ONE)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert float(found["dino"].detach()) == pytest.approx(float(expected["dino"].detach()), rel=0.05)


def test_the_teacher_sees_all_and_drops_no_paths() -> None:
    stage = objective(VisionConfig(width=48, depth=2, heads=3, registers=1, drop_path=0.9)).train()
    assert stage.training and stage.model.vision.training and not stage.teacher[0].training
    crops = batch()
    where = torch.cat(crops.hidden).flatten().nonzero()[:, 0]
    first, again = stage._taught(crops, where, ONE), stage._taught(crops, where, ONE)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    shown = CropBatch(crops.globals, crops.locals, crops.hidden[::-1], crops.geometry_known, crops.names)
    assert torch.equal(stage._taught(shown, where, ONE)[0], first[0])


@pytest.mark.parametrize("vision", [PATCH, CONV], ids=["patch", "conv"])
def test_it_learns_without_collapse(vision: VisionConfig) -> None:
    """Eight volumes, fifty steps: the losses fall, and unseen crops of one volume come nearer than those of others."""
    stage, steps = objective(vision, teacher_momentum=0.9, frozen_prototypes=0.0), 50
    optimiser = torch.optim.AdamW([p for p in stage.parameters() if p.requires_grad], lr=4e-3)
    made, new = [batch(seed) for seed in range(10)], [batch(1000 + n) for n in range(3)]
    before, _ = told_apart(stage.model, new)
    losses = []
    for step in range(steps):
        found = stage(made[step % 10], ONE)
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        stage.after_step(step + 1, steps)
        losses.append([float(found[key].detach()) for key in ("loss", "dino", "ibot", "koleo")])
    first, last = np.mean(losses[:5], axis=0), np.mean(losses[-5:], axis=0)
    assert (last < 0.9 * first).all()
    stage.finish()
    margin, rank = told_apart(stage.model, new)
    assert margin > before + 0.1
    assert rank > 3


def told_apart(model: Decipher, batches: list[CropBatch]) -> tuple[float, float]:
    """How much nearer two crops of a volume are than crops of two, as cosines around the mean vector, since all cosines of
    an untrained encoder are near 1; and the effective rank of eight vectors. Both as means over batches."""
    margins, ranks = [], []
    for crops in batches:
        both = np.stack([model.encode_prepared(c).volume.numpy() for c in crops.globals])
        centred = both - both.mean(axis=(0, 1))
        one, other = centred / np.linalg.norm(centred, axis=-1, keepdims=True)
        alike = one @ other.T
        margins.append(np.diag(alike).mean() - alike[~np.eye(8, dtype=bool)].mean())
        spread = np.linalg.svd(both[0] - both[0].mean(axis=0), compute_uv=False)
        share = spread / spread.sum()
        ranks.append(np.exp(-(share * np.log(share + 1e-12)).sum()))
    return float(np.mean(margins)), float(np.mean(ranks))
