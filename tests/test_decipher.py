"""The encoder as a whole: save, load, passport, and vectors that do not depend on how they were batched."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher, load
from models.errors import DecipherError
from models.folder import WEIGHTS, lasting_name, model_folder, passport
from models.fusion import Detector, DetectorConfig, StudyFeatures, Target
from models.report import Writer, writer_config
from models.vision import VisionFeatures
from models.volume import Volume

CONFIG = ModelConfig(
    name="test", prepare=PrepareConfig(box=(32, 32, 32)), vision=VisionConfig(width=48, depth=1, heads=3, registers=1)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("model")
    Decipher(CONFIG).save(place, "# card\n")
    return place


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose text base was trained: its weights are no longer the package's, and it knows a new word."""
    torch.manual_seed(0)
    model = Decipher(CONFIG)
    model.text.add_words(["gadolinium"])
    model.text.own = True
    with torch.no_grad():
        for p in model.text.base.parameters():
            p.mul_(1.01)
    place = tmp_path_factory.mktemp("own") / "model"
    model.save(place)
    return place


def volumes(count: int) -> list[Volume]:
    rng = np.random.default_rng(0)
    sides = [(20 + 3 * i, 30, 12 + i) for i in range(count)]
    return [Volume(rng.gamma(2, 50, (1, *side)).astype(np.float32), np.diag([2, 2, 3, 1.0])) for side in sides]


def test_saved_and_loaded_is_the_same(folder: Path, tmp_path: Path) -> None:
    model = load(str(folder))
    model.save(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    again = load(str(tmp_path))
    assert torch.equal(again.encode_volumes(volumes(2)), model.encode_volumes(volumes(2)))


def test_frozen_base_is_not_saved(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, "pt") as stored:
        assert not [name for name in stored.keys() if name.startswith("text.base.")]  # noqa: SIM118
        assert "text.adapter.1.weight" in stored.keys()  # noqa: SIM118


def test_vectors_have_unit_length_and_do_not_depend_on_the_batch(folder: Path) -> None:
    model = load(str(folder))
    together = model.encode_volumes(volumes(5))
    assert torch.allclose(together.norm(dim=1), torch.ones(5), atol=1e-6)
    alone = torch.cat([model.encode_volumes([v]) for v in volumes(5)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(model.encode_texts(["knee", "brain"]).norm(dim=1), torch.ones(2), atol=1e-6)


def test_the_passport_follows_weights_and_preparation(folder: Path, tmp_path: Path) -> None:
    first = passport(str(folder))
    assert first["name"] == "test" and first["dim"] == 384 and len(first["hash"]) == 32
    model = load(str(folder))
    with torch.no_grad():
        model.vision.to_volume[0].bias[0] += 0.01
    model.save(tmp_path / "other")
    other = passport(str(tmp_path / "other"))
    assert other["hash"] != first["hash"] and other["prepare"] == first["prepare"]
    config = json.loads((folder / "config.json").read_text())
    config["prepare"]["version"] += 1
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    assert passport(str(tmp_path / "other"))["prepare"] != first["prepare"]


def test_a_model_for_another_version_of_the_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    """Weights mean something for the input that they were trained on alone."""
    load(str(folder)).save(tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    config = json.loads(path.read_text())
    assert config["vision"].pop("version") == 3
    config["vision"]["conv_blocks"] = [1, 2]  # of a time when there was such a thing
    path.write_text(json.dumps(config))
    with pytest.raises(DecipherError, match=r"version 1 of the encoder, and this is version 3") as told:
        load(str(tmp_path / "old"))
    assert "Train it again" in told.value.hint


def test_a_missing_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(DecipherError, match="No model"):
        model_folder(str(tmp_path))


def test_weights_that_do_not_fit_are_told(folder: Path, tmp_path: Path) -> None:
    model = load(str(folder))
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision"]["width"] = 96
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DecipherError):
        load(str(tmp_path))
    (tmp_path / WEIGHTS).write_bytes(b"\x00" * 40)
    with pytest.raises(DecipherError):
        load(str(tmp_path))


def test_lasting_name_finds_the_model_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert lasting_name(folder.name) == str(folder)


def test_loading_leaves_torch_as_it_was(folder: Path) -> None:
    load(str(folder))
    torch.manual_seed(0)
    first = torch.nn.Linear(8, 8).weight
    torch.manual_seed(0)
    assert torch.equal(first, torch.nn.Linear(8, 8).weight) and 0 < float(first.detach().std()) < 1


TEXTS = ["Axial FLAIR after gadolinium.", "knee"]


def test_a_trained_text_base_travels_with_the_model(own: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(own / WEIGHTS, "pt") as stored:
        assert not [name for name in stored.keys() if name.startswith("text.base.")]  # noqa: SIM118
    assert json.loads((own / "config.json").read_text())["text"]["base"] == "own"
    moved = tmp_path / "moved"
    shutil.copytree(own, moved)
    model = load(str(moved))
    assert model.text.own and any(name.startswith("text.base.") for name in model.trained_state())
    assert torch.equal(model.encode_texts(TEXTS), load(str(own)).encode_texts(TEXTS))
    assert not torch.allclose(model.encode_texts(TEXTS), Decipher(CONFIG).encode_texts(TEXTS), atol=1e-4)
    model.save(tmp_path / "again")
    for name in (WEIGHTS, "config.json", "text/model.safetensors", "text/tokenizer.json", "text/config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (own / name).read_bytes(), name


def test_transformers_reads_the_text_base(own: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    text = load(str(own)).text
    theirs = AutoModel.from_pretrained(own / "text", dtype=torch.float32, local_files_only=True).eval()
    coded = AutoTokenizer.from_pretrained(own / "text")(TEXTS, padding=True, return_tensors="pt")
    assert text.tokenizer.token_to_id("gadolinium") in coded["input_ids"][0]
    with torch.no_grad():
        hidden = theirs(**coded).last_hidden_state
        mine = text.base(coded["input_ids"], coded["attention_mask"].bool())
    valid = coded["attention_mask"].bool()
    assert torch.allclose(mine[valid], hidden[valid], atol=1e-4)
    mean = torch.stack([h[v].mean(0) for h, v in zip(hidden, valid, strict=True)])
    assert torch.allclose(text.sentences(TEXTS), torch.nn.functional.normalize(mean, dim=1), atol=1e-5)


def test_the_passport_follows_the_text_base(own: Path, tmp_path: Path) -> None:
    first = passport(str(own))["hash"]
    for name in ("model.safetensors", "tokenizer.json"):
        place = tmp_path / name
        shutil.copytree(own, place)
        assert passport(str(place))["hash"] == first
        with (place / "text" / name).open("ab") as out:
            out.write(b" ")
        assert passport(str(place))["hash"] != first


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_without_its_text_base_is_told(own: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(own, tmp_path / "model")
    (tmp_path / "model" / "text" / name).unlink()
    for read in (load, passport):
        with pytest.raises(DecipherError, match=f"{name}"):
            read(str(tmp_path / "model"))


SMALL = {"width": 32, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def equipped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `folder` with a writer and a detector."""
    torch.manual_seed(1)
    model = load(str(folder))
    model.writer = Writer(writer_config(TEXTS, model.text.tokenizer, **SMALL, longest=12), 384)
    model.detector = Detector(DetectorConfig((Target("tear", "knee"), Target("mass", "brain")), **SMALL), 384)
    place = tmp_path_factory.mktemp("equipped") / "model"
    model.save(place)
    return place


def seen() -> VisionFeatures:
    whole, three = torch.ones(2, 384), torch.ones(2, 3, 384)
    return VisionFeatures(whole, three, torch.ones(2, 3).bool(), torch.zeros(2, 3, 3), three / 3)


def study() -> StudyFeatures:
    whole = torch.ones(2, 3, dtype=torch.bool)
    return StudyFeatures(
        torch.ones(2, 3, 384), torch.ones(2, 3, 2, 384), whole[..., None].expand(2, 3, 2), whole.long(), whole
    )


def test_writer_and_detector_are_saved_beside_the_encoder_and_read_when_asked_for(equipped: Path, folder: Path) -> None:
    assert passport(str(equipped)) == passport(str(folder)), "they are no part of who the encoder is"
    assert (equipped / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    plain, whole = load(str(equipped)), load(str(equipped), heads=True)
    assert plain.writer is None and plain.detector is None and whole.writer and whole.detector
    assert plain.state_dict().keys() == {k for k in whole.state_dict() if not k.startswith(("writer.", "detector."))}
    assert whole.trained_state().keys() == plain.trained_state().keys()
    assert not whole.training and not whole.writer.training
    assert {p.data_ptr() for p in whole.detector.parameters()} <= {p.data_ptr() for p in whole.parameters()}
    assert load(str(folder), heads=True).writer is None


def test_saved_heads_say_the_same(equipped: Path, tmp_path: Path) -> None:
    first = load(str(equipped), heads=True)
    first.save(tmp_path / "again")
    again = load(str(tmp_path / "again"), heads=True)
    tokens = first.writer.tokens(TEXTS, first.text.tokenizer)
    assert torch.equal(first.writer(seen(), tokens), again.writer(seen(), tokens))
    assert torch.equal(first.detector(study()), again.detector(study()))
    for part in ("writer", "detector"):
        for name in ("config.json", WEIGHTS):
            assert (tmp_path / "again" / part / name).read_bytes() == (equipped / part / name).read_bytes()
    assert again.detector.config.targets == (Target("tear", "knee"), Target("mass", "brain"))
    again.writer = None
    again.save(tmp_path / "again")
    assert not (tmp_path / "again" / "writer").exists() and (tmp_path / "again" / "detector").is_dir()


@pytest.mark.parametrize("part", ["writer", "detector"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (WEIGHTS, None),
        (WEIGHTS, b"\x00" * 40),
        ("config.json", None),
        ("config.json", b"{}"),
        ("config.json", b"[1]"),
        ("config.json", b"\xff"),
        ("config.json", 64),
    ],
)
def test_a_damaged_head_is_told(
    equipped: Path, tmp_path: Path, part: str, name: str, content: bytes | int | None
) -> None:
    shutil.copytree(equipped, tmp_path / "model")
    path = tmp_path / "model" / part / name
    if content is None:
        path.unlink()
    elif isinstance(content, int):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"width": content}))
    else:
        path.write_bytes(content)
    with pytest.raises(DecipherError, match=f"The {part} in") as told:
        load(str(tmp_path / "model"), heads=True)
    assert part in told.value.hint and "\n" not in str(told.value)
    assert load(str(tmp_path / "model")).writer is None
