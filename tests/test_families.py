"""Encoders that know sequence families: who takes which path, what learns from whom, and that company changes nothing."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from index.catalog import scan
from index.reading import read_volume, volume_at
from index.sequence import SEQUENCES
from models.config import FAMILIES, ModelConfig, PrepareConfig, VisionConfig, family_of
from models.decipher import Decipher, load
from models.errors import DecipherError
from models.families import FamilyAdapter, FamilyEncoders, Vision, copy_shared, from_plain, make_vision
from models.folder import passport
from models.prepare import Prepared, collate, prepare
from models.vision import Masking, VisionEncoder, VisionFeatures
from models.volume import Volume
from training.augment import quick_variation, reacquire
from training.cost import vision_cost
from training.crops import crop
from training.shards import COLUMNS, Shard

PLAIN = VisionConfig(width=48, depth=2, heads=3, registers=2)
ADAPTERS, ENCODERS = (replace(PLAIN, families=kind, adapter_width=5) for kind in ("adapters", "encoders"))
CONV = VisionConfig(stem="conv", conv_widths=(8, 16, 24), width=48, depth=2, heads=3, families="encoders")
KINDS = pytest.mark.parametrize("config", [ADAPTERS, ENCODERS], ids=["adapters", "encoders"])
MIXED = (2, -1, 0, 2, 7, 0)


def volumes(families: tuple[int, ...] = MIXED, box: int = 32) -> Prepared:
    """A batch of different volumes."""
    source, count = torch.Generator().manual_seed(3), len(families)
    pixels = torch.zeros(count, 1, box, box, box)
    pixels[:, :, 4:28, :, 9:25] = torch.rand(count, 1, 24, box, 16, generator=source)
    content = torch.tensor([[4, 28], [0, box], [9, 25]]).expand(count, 3, 2)
    geometry = torch.log(torch.tensor([1.0, 1, 5, 200, 200, 60, 3])) + torch.rand(count, 1, generator=source)
    return Prepared(pixels, content, geometry, torch.eye(4).expand(count, 4, 4), torch.tensor(families))


def taken(batch: Prepared, rows: list[int]) -> Prepared:
    return Prepared(*(getattr(batch, name)[rows] for name in Prepared.__dataclass_fields__))


def encoder(config: VisionConfig) -> Vision:
    """An encoder of which every family has weights of its own, as after training."""
    torch.manual_seed(0)
    vision = make_vision(config, 24).eval()
    with torch.no_grad():
        for name, weight in vision.named_parameters():
            if name.startswith(("adapters", "family")):
                weight.normal_(std=0.3)
    return vision


def same(one: VisionFeatures, other: VisionFeatures, atol: float = 1e-5) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in VisionFeatures.__dataclass_fields__]
    return all(torch.allclose(a.float(), b.float(), atol=atol) for a, b in pairs)


def test_the_table_of_families() -> None:
    assert [family_of(s) for s in ("T1", "DCE", "STIR", "FLAIR", "PD", "SWI", "DWI", "ADC")] == list(range(8))
    assert [family_of(s) for s in ("T1C", "T2", "T2STAR", "MRA", "OTHER", "t1", "", None)] == [
        1,
        2,
        5,
        -1,
        -1,
        -1,
        -1,
        -1,
    ]
    named = [sequence for sequences in FAMILIES.values() for sequence in sequences]
    assert len(named) == len(set(named)) and set(named) <= set(SEQUENCES)


def test_a_wrong_kind_is_told() -> None:
    with pytest.raises(DecipherError) as told:
        VisionConfig(families="both")
    assert all(word in f"{told.value} {told.value.hint}" for word in ("both", "adapters", "encoders", '""'))
    with pytest.raises(DecipherError, match="0 wide"):
        VisionConfig(adapter_width=0)


def test_a_config_from_before_there_were_families_is_read_and_written_as_it_was() -> None:
    plain = ModelConfig(vision=PLAIN)
    written = json.loads(json.dumps(plain.to_json()))
    assert not {"families", "adapter_width"} & written["vision"].keys()
    assert ModelConfig.from_json(written) == plain
    other = ModelConfig(vision=ADAPTERS)
    written = json.loads(json.dumps(other.to_json()))
    assert (written["vision"]["families"], written["vision"]["adapter_width"]) == ("adapters", 5)
    assert ModelConfig.from_json(written) == other
    written["vision"]["families"] = "many"
    with pytest.raises(DecipherError, match="many"):
        ModelConfig.from_json(written)


@KINDS
def test_a_model_with_families_is_saved_and_loaded(config: VisionConfig, tmp_path: Path) -> None:
    model = Decipher(ModelConfig(dim=24, prepare=PrepareConfig(box=(32, 32, 32)), vision=config))
    model.vision = encoder(config)
    model.save(tmp_path / "one")
    first = load(str(tmp_path / "one"))
    found = first.encode_prepared(volumes()).volume
    assert torch.allclose(found, model.eval().encode_prepared(volumes()).volume, atol=2e-3), "half precision"
    first.save(tmp_path / "two")
    assert passport(str(tmp_path / "one")) == passport(str(tmp_path / "two"))
    assert torch.equal(load(str(tmp_path / "two")).encode_prepared(volumes()).volume, found)


def test_prepared_volumes_carry_their_family() -> None:
    config, rng = PrepareConfig(box=(16, 16, 16)), np.random.default_rng(0)
    data = rng.gamma(2, 50, (1, 20, 24, 12)).astype(np.float32)
    made = [prepare(Volume(data, np.eye(4), name), config) for name in ("STIR", None, "LOCALIZER", "T1")]
    batch = collate(made).to(torch.device("cpu"))
    assert batch.family.tolist() == [2, -1, -1, 0] and batch.family.dtype == torch.int64
    assert torch.equal(made[0].pixels, made[1].pixels)
    one = Prepared(made[0].pixels, made[0].content, made[0].geometry, made[0].affine_mm)
    assert one.family.shape == () and one.family == -1
    two = Prepared(batch.pixels, batch.content, batch.geometry, batch.affine_mm, torch.tensor(3))
    assert two.family.tolist() == [3] * 4


def test_variations_keep_the_family() -> None:
    rng, source = np.random.default_rng(0), torch.Generator().manual_seed(0)
    volume = Volume(rng.gamma(2, 50, (1, 40, 40, 30)).astype(np.float32), np.eye(4), "DWI")
    varied = [reacquire(volume, rng, True) for _ in range(8)]
    assert {v.sequence for v in varied} == {"DWI"} and any(v.data.shape != volume.data.shape for v in varied)
    sample = prepare(volume, PrepareConfig(box=(32, 32, 32)))
    cut = crop(sample, 0.5, 0.5, (16, 16, 16), source)
    assert cut.family == quick_variation(cut, source, True).family == family_of("DWI") == 6


def test_a_volume_read_has_its_record_s_sequence(tmp_path: Path) -> None:
    import nibabel as nib

    path = tmp_path / "sub-01_FLAIR.nii.gz"
    noise = np.random.default_rng(0).integers(0, 900, (12, 11, 10)).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, np.diag([2, 2, 3, 1.0])), path)
    record = scan(tmp_path).records.row(0, named=True)
    assert record["sequence"] == "FLAIR" == read_volume(tmp_path, record).sequence == volume_at(path)[0].sequence
    assert read_volume(tmp_path, {**record, "sequence": None}).sequence is None
    del record["sequence"]
    assert read_volume(tmp_path, record).sequence is None


def test_a_shard_s_samples_have_their_row_s_family() -> None:
    names = ["PD", None, "SWI", "MRA"]
    rows = pl.DataFrame([dict.fromkeys(COLUMNS) | {"sequence": name} for name in names], schema=COLUMNS)
    content = np.tile(np.array([[0, 8]] * 3), (4, 1, 1))
    shard = Shard(np.zeros((4, 8, 8, 8), np.uint8), content, np.ones((4, 7), np.float32), rows)
    assert [int(shard.sample(row).family) for row in range(4)] == [4, -1, 5, -1]


def test_an_adapter_against_plain_numpy() -> None:
    torch.manual_seed(0)
    adapter, x = FamilyAdapter(12, 3), torch.randn(2, 4, 12)
    torch.nn.init.normal_(adapter.up.weight)
    torch.nn.init.normal_(adapter.up.bias)
    found = adapter(x, torch.tensor([5, -1])).detach().numpy()
    down, up = (w.detach().numpy() for w in (adapter.down.weight[15:18], adapter.up.weight[60:72]))
    tokens = x[0].double().numpy()
    normal = (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-5)
    inner = normal @ down.T + adapter.down.bias[15:18].detach().numpy()
    inner = F.gelu(torch.from_numpy(inner)).numpy()
    assert np.allclose(found[0], tokens + inner @ up.T + adapter.up.bias[60:72].detach().numpy(), atol=1e-5)
    assert np.array_equal(found[1], x[1].numpy())


@pytest.mark.parametrize("masked", [False, True])
def test_fresh_adapters_change_nothing(masked: bool) -> None:
    torch.manual_seed(0)
    plain, adapted = VisionEncoder(PLAIN, 24).eval(), make_vision(ADAPTERS, 24).eval()
    adapted.load_state_dict(from_plain(plain.state_dict(), adapted))
    masking = Masking(torch.rand(6, 64) < 0.4, torch.randn(48)) if masked else None
    assert same(plain(volumes(), None, masking), adapted(volumes(), None, masking), atol=0.0)


@pytest.mark.parametrize("config", [PLAIN, ADAPTERS, ENCODERS], ids=["plain", "adapters", "encoders"])
def test_a_plain_encoder_becomes_any_kind(config: VisionConfig) -> None:
    torch.manual_seed(0)
    plain, other = VisionEncoder(PLAIN, 24).eval(), make_vision(config, 24).eval()
    assert not same(plain(volumes()), other(volumes()))
    other.load_state_dict(from_plain(plain.state_dict(), other))
    assert same(plain(volumes()), other(volumes()))


def test_all_encoders_start_from_the_shared_one() -> None:
    torch.manual_seed(0)
    vision = make_vision(ENCODERS, 24)
    assert isinstance(vision, FamilyEncoders)
    shared = {name: weight.clone() for name, weight in vision.shared.state_dict().items()}
    copy_shared(vision)
    assert len(vision.members()) == 9
    for member in vision.members():
        assert all(torch.equal(weight, shared[name]) for name, weight in member.state_dict().items())
    with torch.no_grad():
        vision.members()[0].norm.weight.add_(1.0)
    assert torch.equal(vision.shared.norm.weight, shared["norm.weight"]), "copies, not the same memory"


@pytest.mark.parametrize("config", [ADAPTERS, ENCODERS, CONV], ids=["adapters", "encoders", "conv"])
@pytest.mark.parametrize("training", [False, True])
def test_a_volume_s_features_are_its_own(config: VisionConfig, training: bool) -> None:
    """Each row is what it is alone, rows may change places, and a family's path differs from another's."""
    vision, batch = encoder(config).train(training), volumes()
    known, masking = torch.tensor([1, 0, 1, 1, 0, 1]).bool(), Masking(torch.rand(6, 64) < 0.3, torch.randn(48))
    found = vision(batch, known, masking)

    def rows(chosen: list[int], given: Prepared = batch) -> VisionFeatures:
        return vision(taken(given, chosen), known[chosen], replace(masking, tokens=masking.tokens[chosen]))

    for row in range(6):  # a convolution sums a single volume in another order
        alone = VisionFeatures(*(getattr(found, n)[[row]] for n in found.__dataclass_fields__))
        assert same(rows([row]), alone, atol=5e-5)
    order = [4, 2, 5, 0, 1, 3]
    assert same(rows(order), VisionFeatures(*(getattr(found, n)[order] for n in found.__dataclass_fields__)))
    other = vision(replace(batch, family=torch.tensor([3, 4, 5, -1, 6, 1])), known, masking)
    assert ((other.volume - found.volume).abs().amax(dim=1) > 1e-3).all()


@KINDS
def test_an_unknown_family_takes_the_shared_path(config: VisionConfig) -> None:
    vision, unknown = encoder(config), replace(volumes(), family=torch.tensor([-1] * 6))
    plain = VisionEncoder(PLAIN, 24).eval()
    shared = vision.shared if isinstance(vision, FamilyEncoders) else vision
    plain.load_state_dict({name: shared.state_dict()[name] for name in plain.state_dict()})
    assert same(vision(unknown), plain(unknown), atol=0.0)
    mixed = vision(volumes())
    assert torch.allclose(mixed.volume[1], plain(volumes()).volume[1], atol=1e-6)
    assert not torch.allclose(mixed.volume[0], plain(volumes()).volume[0], atol=1e-3)


def moved(vision: Vision) -> set[str]:
    """Parts of an encoder with a gradient that is not zero: families by name, the rest as `shared`."""
    names = list(FAMILIES)
    found = set()
    for name, weight in vision.named_parameters():
        assert weight.grad is not None, name
        if name.startswith(("adapters", "family")):
            parts = weight.grad.flatten().chunk(len(names))
            found |= {family for family, part in zip(names, parts, strict=True) if part.abs().sum() > 0}
        elif weight.grad.abs().sum() > 0:
            found.add(name.split(".")[1] if name.startswith("encoders") else "shared")
    return found


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("config", "alone"), [(ADAPTERS, {"T2", "shared"}), (ENCODERS, {"T2"})], ids=["adapters", "encoders"]
)
def test_a_family_learns_from_its_own_volumes(config: VisionConfig, alone: set[str], recompute: bool) -> None:
    """And all other weights get a gradient, of zero."""
    vision = encoder(config).train()
    vision.recompute = recompute
    found = vision(volumes())
    found.volume[0].square().sum().backward(retain_graph=True)
    found.patches[0].square().sum().backward()
    assert moved(vision) == alone
    vision.zero_grad()
    found = vision(volumes())
    (found.volume.square().sum() + found.patches.square().sum()).backward()
    assert moved(vision) == {"T1", "T2", "ADC", "shared"}


def test_recomputed_gradients_are_the_same() -> None:
    gradients = []
    for recompute in (False, True):
        vision = encoder(ADAPTERS).train()
        vision.recompute = recompute
        vision(volumes()).volume.square().sum().backward()
        gradients.append([p.grad for p in vision.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 40
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_encoders_without_volumes_are_not_run_outside_training(monkeypatch: pytest.MonkeyPatch) -> None:
    vision, seen = encoder(ENCODERS), []
    assert isinstance(vision, FamilyEncoders)
    for number, member in enumerate(vision.members()):
        member.register_forward_hook(lambda m, given, found, n=number: seen.append((n, len(given[0].pixels))))
    vision(volumes())
    assert seen == [(0, 2), (2, 2), (7, 1), (8, 1)]
    seen.clear()
    with torch.inference_mode():
        vision(volumes((2, 2, 2)))
    assert seen == [(2, 2), (2, 2)], "pairs, the odd one with its copy"
    vision.recompute = True
    assert vision.recompute and all(member.recompute for member in vision.members())


@pytest.mark.parametrize("config", [ADAPTERS, ENCODERS, CONV], ids=["adapters", "encoders", "conv"])
def test_vectors_are_the_same_in_any_company(config: VisionConfig) -> None:
    """A batch of eight, as an index is made of: the first volume in front, elsewhere, with its family or alone of it.

    Some processors sum a batch's volumes in different orders, which the last bit shows."""
    model = Decipher(ModelConfig(dim=24, prepare=PrepareConfig(box=(32, 32, 32)), vision=config)).eval()
    model.vision = encoder(config)
    many = volumes((2, 2, 2, 0, 0, -1, 5, 7, 2, 2, 2, 2, 3, -1))
    companies = [[0] * 8, [0, 1, 2, 8, 9, 10, 11, 3], [3, 4, 5, 6, 7, 12, 13, 0], [1, 0, 2, 3, 4, 5, 6, 7]]
    for own in (0, 5, 3):
        swapped = [[own if row == 0 else 0 if row == own else row for row in rows] for rows in companies]
        vectors = [model.encode_prepared(taken(many, rows)).volume[rows.index(own)] for rows in swapped]
        assert all(torch.allclose(vectors[0], vector, rtol=0, atol=1e-6) for vector in vectors[1:])
        assert torch.allclose(vectors[0].norm(), torch.ones(()))


@pytest.mark.slow
def test_compiled_families_are_the_same() -> None:
    """Traced whole, and one trace for all members."""
    torch._dynamo.reset()
    for config in (ADAPTERS, ENCODERS):
        vision = encoder(config)
        plain = vision(volumes())
        vision.compile(backend="eager", fullgraph=True)
        assert same(vision(volumes()), plain)
    torch._dynamo.reset()


def test_parameters_and_operations_are_counted() -> None:
    def cost(config: VisionConfig) -> tuple[int, float]:
        model = ModelConfig(dim=24, prepare=PrepareConfig(box=(32, 32, 32)), vision=config)
        return sum(p.numel() for p in make_vision(config, 24).parameters()), vision_cost(model, (32, 32, 32))[0]

    (plain, flops), (adapted, more), (many, each) = cost(PLAIN), cost(ADAPTERS), cost(ENCODERS)
    assert adapted - plain == 8 * 48 + 2 * 8 * (48 * 5 + 5 + 5 * 48 + 48)
    assert more - flops == 2 * 2 * 2 * (64 + 1 + 2 + 1) * 48 * 5, "two products a block, of all tokens"
    assert many == 9 * plain and each == flops


SCRIPT = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from test_families import ENCODERS, encoder, taken, volumes
from training.launch import _sharded
from torch.distributed.device_mesh import init_device_mesh
dist.init_process_group("gloo")
alone, vision, batch = encoder(ENCODERS).train(), encoder(ENCODERS).train(), volumes((0, 0, -1, -1, 2, 2, 3, 0))
_sharded(vision, init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",)))
part = taken(batch, list(range(4 * dist.get_rank(), 4 * dist.get_rank() + 4)))
for model, given in ((alone, batch), (vision, part)):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        found = model(given)
        (found.volume.square().mean() + found.patches.square().mean()).backward()
        optimiser.step()
        optimiser.zero_grad()
for mine, wanted in zip(vision.parameters(), alone.parameters(), strict=True):
    assert torch.allclose(mine.full_tensor(), wanted, atol=1e-6)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_encoders_with_other_families_on_each_process_train_as_one(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    (tmp_path / "work.py").write_text(SCRIPT.format(tests=str(here)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "work.py")], cwd=here.parent, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(here.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
