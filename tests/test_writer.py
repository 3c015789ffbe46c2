"""The writer: its vocabulary, its spelling, what it may see, and that it learns."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from models.config import TextConfig
from models.errors import DecipherError
from models.generate import generate
from models.report import BEGIN, END, SPECIAL, Writer, WriterConfig, report_loss, spelled, writer_config
from models.text import TextEncoder
from models.vision import VisionFeatures

TEXTS = [
    "T2-weighted FLAIR of the brain. There is a 1.5 cm mass in the left frontal lobe.",
    "No acute infarct on DWI; the ventricles are normal.",
    "Disc protrusion at L4-5 (mild). No cord compression.",
    "Unremarkable MRI of the knee.",
]
SMALL = {"width": 32, "depth": 2, "heads": 4, "longest": 40}


@cache
def tokenizer() -> Any:
    return TextEncoder(TextConfig(), 384).tokenizer


@cache
def writer() -> Writer:
    torch.manual_seed(0)
    made = Writer(writer_config(TEXTS, tokenizer(), **SMALL), 24).eval()
    with torch.no_grad():
        made.embedding.mul_(20)
    return made


def features(count: int = 4, patches: int = 6, dim: int = 24) -> VisionFeatures:
    made = torch.Generator().manual_seed(1)
    valid = torch.ones(count, patches, dtype=torch.bool)
    valid[:, patches - 2 :] = False
    volume = torch.randn(count, dim, generator=made)
    seen = torch.randn(count, patches, dim, generator=made)
    return VisionFeatures(volume, seen, valid, torch.zeros(count, patches, 3), volume[:, None])


def test_the_vocabulary_is_the_pieces_of_the_texts() -> None:
    expected = {i for t in TEXTS for i in tokenizer().encode(t, add_special_tokens=False).ids}
    config = writer_config([*TEXTS, "☃"], tokenizer())
    assert config.pieces == tuple(sorted(expected)), "neither padding nor the unknown piece is one"
    assert WriterConfig.from_json(config.to_json()) == config
    with pytest.raises(DecipherError, match="no text"):
        writer_config(["", "☃"], tokenizer())
    with pytest.raises(DecipherError, match="width 30"):
        WriterConfig((5,), width=30)


def test_texts_become_tokens_and_texts_again() -> None:
    tokens = writer().tokens(TEXTS, tokenizer())
    assert tokens.shape == (4, max((tokens > 0).sum(dim=1))) and tokens.dtype == torch.int64
    assert (tokens[:, 0] == BEGIN).all() and ((tokens == END).sum(dim=1) == 1).all()
    for row, text in zip(tokens, TEXTS, strict=True):
        assert writer().text(row.tolist(), tokenizer()) == text
        assert writer().text([*row.tolist(), *tokens[0].tolist()], tokenizer()) == text, (
            "what follows the end is not read"
        )


def test_unknown_pieces_are_left_out_and_long_texts_have_no_end() -> None:
    known, unknown = writer().tokens(["normal knee", "normal zebra knee"], tokenizer()).tolist()
    assert known == unknown == [BEGIN, *known[1:3], END]
    cut = writer().tokens([" ".join(TEXTS)], tokenizer())
    assert cut.shape == (1, 40) and END not in cut and bool((cut[0, 1:] >= SPECIAL).all())


@pytest.mark.parametrize(
    ("raw", "better"),
    [
        ("the t1 - weighted mri , 1. 5 cm . no edema", "The T1-weighted MRI, 1.5 cm. No edema"),
        ("l5 - s1 isn ' t seen ( mild ) . 50 % / 60 % .", "L5-S1 isn't seen (mild). 50% / 60%."),
        ("stir : is it normal ? adc is low", "STIR: is it normal? ADC is low"),
        ("mrsa of t cells", "Mrsa of t cells"),
    ],
)
def test_spelling(raw: str, better: str) -> None:
    assert spelled(raw) == better


def test_the_loss_is_that_of_plain_numpy(rng: np.random.Generator) -> None:
    logits = rng.normal(0, 2, (3, 5, 7))
    tokens = np.array([[1, 3, 4, 2, 0], [1, 5, 2, 0, 0], [1, 6, 6, 3, 2]])
    losses = []
    for row, text in zip(logits, tokens, strict=True):
        for t in range(1, 5):
            if text[t]:
                losses.append(np.log(np.exp(row[t - 1]).sum()) - row[t - 1, text[t]])
    assert len(losses) == 9
    summed, count = report_loss(torch.tensor(logits), torch.tensor(tokens))
    assert float(summed) == pytest.approx(np.sum(losses), rel=1e-5) and int(count) == 9
    nothing = torch.tensor(logits, requires_grad=True)
    loss, count = report_loss(nothing, torch.zeros(3, 5, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0 and int(count) == 0 and float(nothing.grad.abs().sum()) == 0


def test_logits_are_of_the_stated_shape_and_never_of_padding_or_begin() -> None:
    tokens = writer().tokens(TEXTS, tokenizer())
    logits = writer()(features(), tokens)
    assert logits.shape == (*tokens.shape, SPECIAL + len(writer().config.pieces)) and logits.dtype == torch.float32
    assert torch.isinf(logits[..., :END]).all() and torch.isfinite(logits[..., END:]).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert writer()(features(), tokens).dtype == torch.float32


@pytest.mark.parametrize("place", [1, 4, 9])
def test_a_later_token_changes_nothing_before_it(place: int) -> None:
    tokens = writer().tokens(TEXTS[:2], tokenizer())
    changed = tokens.clone()
    changed[:, place] = SPECIAL + (tokens[:, place] + 7) % len(writer().config.pieces)
    one, other = (writer()(features(2), t)[..., END:] for t in (tokens, changed))
    assert torch.equal(one[:, :place], other[:, :place])
    assert not torch.allclose(one[:, place], other[:, place], atol=1e-3)


def test_no_gradient_reaches_a_later_token(monkeypatch: pytest.MonkeyPatch) -> None:
    import models.report as report

    seen = torch.randn(1, 8, 32, requires_grad=True)
    monkeypatch.setattr(report.F, "embedding", lambda tokens, table: seen)
    logits = writer()(features(1), torch.zeros(1, 8, dtype=torch.int64))
    for t in range(8):
        (gradient,) = torch.autograd.grad(logits[0, t, END:].square().sum(), seen, retain_graph=True)
        assert torch.equal(gradient[0, t + 1 :], torch.zeros(7 - t, 32))
        assert (gradient[0, : t + 1].abs().amax(dim=-1) > 0).all()


def test_the_past_may_be_handed_in() -> None:
    tokens = writer().tokens(TEXTS, tokenizer())
    whole = writer()(features(), tokens)[..., END:]
    source = writer().source(features())
    past: list = []
    for first, last in ((0, 1), (1, 5), (5, tokens.shape[1])):
        part, past = writer().follow(source, tokens[:, first:last], past)
        assert torch.allclose(part[..., END:], whole[:, first:last], atol=1e-4)


def test_padding_patches_change_nothing_and_the_others_do() -> None:
    tokens, clean = writer().tokens(TEXTS, tokenizer()), features()
    dirty = torch.where(clean.valid[..., None], clean.patches, torch.tensor(float("nan")))
    assert torch.equal(writer()(clean, tokens), writer()(replace(clean, patches=dirty), tokens))
    fewer = replace(clean, patches=clean.patches[:, :4], valid=clean.valid[:, :4])
    assert torch.allclose(writer()(clean, tokens), writer()(fewer, tokens), atol=1e-4)
    for other in (
        replace(clean, patches=clean.patches * torch.tensor([1, -1, 1, 1, 1, 1.0])[:, None]),
        replace(clean, volume=-clean.volume),
    ):
        found = (writer()(c, tokens)[..., END:].detach() for c in (clean, other))
        assert float(torch.subtract(*found).abs().max()) > 1e-3
    assert torch.allclose(writer()(clean, tokens), writer()(replace(clean, volume=5 * clean.volume), tokens), atol=1e-4)


def mean_loss(learner: Writer, seen: VisionFeatures, tokens: torch.Tensor) -> torch.Tensor:
    summed, count = report_loss(learner(seen, tokens), tokens)
    return summed / count


def test_it_learns_what_is_said_of_which_volume() -> None:
    torch.manual_seed(0)
    learner = Writer(writer_config(TEXTS, tokenizer(), width=64, depth=2, heads=4), 24)
    tokens, seen = learner.tokens(TEXTS, tokenizer()), features()
    optimiser = torch.optim.AdamW(learner.parameters(), 3e-3)
    first = mean_loss(learner, seen, tokens).item()
    assert first == pytest.approx(np.log(len(learner.config.pieces) + 1), rel=0.05), "at first it knows nothing"
    for _ in range(120):
        optimiser.zero_grad()
        loss = mean_loss(learner, seen, tokens)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.05
    swapped = replace(seen, volume=seen.volume.flip(0), patches=seen.patches.flip(0), valid=seen.valid.flip(0))
    for looked_at, texts in ((seen, TEXTS), (swapped, TEXTS[::-1])):
        assert [learner.text(written.tokens, tokenizer()) for written in generate(learner, looked_at)] == texts
