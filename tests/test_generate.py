"""Writing: greedy, by beams and by chance, each against a search that is written out plainly."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch

from models.errors import DecipherError
from models.generate import generate
from models.report import BEGIN, END, PADDING, SPECIAL, Source, Writer, WriterConfig
from models.vision import VisionFeatures


@cache
def writer(longest: int = 12) -> Writer:
    torch.manual_seed(3)
    made = Writer(WriterConfig(tuple(range(1000, 1009)), width=32, depth=2, heads=4, longest=longest), 16).eval()
    with torch.no_grad():
        made.embedding.mul_(12)
        made.position.mul_(40)
    return made


def features(count: int = 6) -> VisionFeatures:
    made = torch.Generator().manual_seed(2)
    patches = torch.randn(count, 5, 16, generator=made)
    valid = torch.rand(count, 5, generator=made) < 0.7
    volume = torch.randn(count, 16, generator=made)
    return VisionFeatures(volume, patches, valid, torch.zeros(count, 5, 3), volume[:, None])


def only(seen: VisionFeatures, row: int) -> VisionFeatures:
    return VisionFeatures(*(getattr(seen, name)[row : row + 1] for name in VisionFeatures.__dataclass_fields__))


def log_probability(model: Writer, seen: VisionFeatures, tokens: list[int]) -> float:
    """Of the tokens after begin, summed from whole passes through the writer."""
    with torch.no_grad():
        logits = model(seen, torch.tensor([[BEGIN, *tokens]]))[0, :-1].double()
    step = logits - logits.logsumexp(dim=-1, keepdim=True)
    return float(step[range(len(tokens)), tokens].sum())


def test_greedy_takes_the_best_next_token_each_time() -> None:
    lengths = []
    found = generate(writer(), features())
    for row, written in enumerate(found):
        tokens: list[int] = []
        while len(tokens) < 11 and END not in tokens:
            with torch.no_grad():
                logits = writer()(only(features(), row), torch.tensor([[BEGIN, *tokens]]))
            tokens.append(int(logits[0, -1].argmax()))
        assert written.tokens == tokens
        assert written.log_probability == pytest.approx(
            log_probability(writer(), only(features(), row), tokens), abs=1e-4
        )
        lengths.append(len(tokens))
    assert len({tuple(w.tokens) for w in found}) > 1, "volumes differ in what is written of them"
    assert min(lengths) < 11 == max(lengths), "some say end, some are cut"


def plain_beam(model: Writer, seen: VisionFeatures, beams: int) -> tuple[list[int], float]:
    """The same search in lists: texts ranked by mean log-probability, those that ended among them."""
    beam: list[tuple[list[int], float]] = [([], 0.0)]
    while not all(t and t[-1] == END for t, _ in beam) and max(len(t) for t, _ in beam) < model.config.longest - 1:
        candidates = []
        for tokens, total in beam:
            if tokens and tokens[-1] == END:
                candidates.append((tokens, total))
                continue
            for token in range(END, SPECIAL + len(model.config.pieces)):
                new = [*tokens, token]
                candidates.append((new, log_probability(model, seen, new)))
        beam = sorted(candidates, key=lambda c: -c[1] / len(c[0]))[:beams]
    return beam[0]


@pytest.mark.parametrize("beams", [2, 4])
def test_beam_search_is_the_plain_one(beams: int) -> None:
    found = generate(writer(7), features(3), beams=beams)
    for row, written in enumerate(found):
        tokens, total = plain_beam(writer(7), only(features(3), row), beams)
        assert written.tokens == tokens
        assert written.log_probability == pytest.approx(total, abs=1e-4)
        assert PADDING not in written.tokens and BEGIN not in written.tokens


class Fork(Writer):
    """Says what a table says: a greedy start that leads to nothing good, and a second best one that does."""

    TABLE = {(): {3: 0.55, 4: 0.45}, (3,): {5: 0.3, 6: 0.3, 7: 0.4}, (4,): {8: 0.95, 2: 0.05}}  # noqa: RUF012

    def source(self, features: VisionFeatures) -> Source:
        return Source((), torch.ones(len(features.volume), 1, 1, 1, dtype=torch.bool))

    def follow(self, source, tokens, past=()):  # type: ignore[no-untyped-def]
        """The past is the tokens so far, which beams must carry along as they would keys."""
        before = past[0][0][:, 0] if past else torch.zeros(len(tokens), 0, 1)
        so_far = torch.cat([before, tokens[..., None].float()], dim=1)
        logits = torch.full((len(tokens), 1, 12), -torch.inf)
        for row, said in enumerate(so_far[:, 1:, 0].long().tolist()):
            for token, share in self.TABLE.get(tuple(said), {END: 1.0}).items():
                logits[row, 0, token] = math.log(share)
        return logits, [(so_far[:, None], so_far[:, None])]


def test_beams_find_the_better_text_that_greed_misses() -> None:
    fork = Fork(WriterConfig(tuple(range(9)), width=8, depth=1, heads=1), 16)
    greedy, beam = (generate(fork, features(2), beams=k) for k in (1, 2))
    assert [w.tokens for w in greedy] == [[3, 7, END]] * 2 and [w.tokens for w in beam] == [[4, 8, END]] * 2
    assert greedy[0].log_probability == pytest.approx(math.log(0.55 * 0.4))
    assert beam[0].log_probability == pytest.approx(math.log(0.45 * 0.95)) and beam[0] == beam[1]


def test_a_wide_enough_beam_is_a_search_of_all_texts() -> None:
    """Three tokens at most over ten choices: a beam of a thousand drops none."""
    model, seen = writer(4), only(features(), 1)
    choices = range(END, SPECIAL + 9)
    texts = [[END], *([a, END] for a in choices if a != END)]
    texts += [[a, b, c] for a, b, c in itertools.product(choices, repeat=3) if END not in (a, b)]
    means = [log_probability(model, seen, t) / len(t) for t in texts]
    (found,) = generate(model, seen, beams=1000)
    assert found.tokens == texts[int(np.argmax(means))]


def test_chance_follows_the_seed_and_leaves_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn = [generate(writer(), features(), temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert drawn[0] == drawn[1] and drawn[0] != drawn[2]
    for row in (0, 3):
        (alone,) = generate(writer(), only(features(), row), temperature=1.0, seed=0)
        assert alone.tokens == drawn[0][row].tokens, "whatever else is in the batch"
        assert alone.log_probability == pytest.approx(
            log_probability(writer(), only(features(), row), alone.tokens), abs=1e-4
        )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_chance_has_the_probabilities_of_the_writer(temperature: float) -> None:
    seen = only(features(), 0)
    firsts = [generate(writer(2), seen, temperature=temperature, seed=s)[0].tokens[0] for s in range(600)]
    with torch.no_grad():
        logits = writer(2)(seen, torch.tensor([[BEGIN]]))[0, 0].double()
    expected = torch.softmax(logits / temperature, dim=-1).numpy()
    counted = np.bincount(firsts, minlength=len(expected)) / len(firsts)
    assert counted == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 600))
    assert counted[:END].sum() == 0


def test_almost_no_temperature_is_greedy() -> None:
    cold = generate(writer(), features(), temperature=1e-9)
    assert [w.tokens for w in cold] == [w.tokens for w in generate(writer(), features())]


@pytest.mark.parametrize("options", [{}, {"beams": 3}, {"temperature": 0.7}])
def test_writing_ends_at_end_or_at_the_longest(options: dict) -> None:
    never, at_once = (Writer(writer().config, 16) for _ in range(2))
    for model, logit in ((never, -50.0), (at_once, 50.0)):
        torch.nn.init.constant_(model.norm.bias, 1.0)
        torch.nn.init.constant_(model.norm.weight, 0.01)
        with torch.no_grad():
            model.embedding[END] = logit / 32
    for written in generate(never, features(), **options):
        assert len(written.tokens) == 11 and END not in written.tokens
    for written in generate(at_once, features(), **options):
        assert written.tokens == [END] and written.log_probability == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "options", [{"beams": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"beams": 2, "temperature": 1.0}]
)
def test_meaningless_options_are_told(options: dict) -> None:
    with pytest.raises(DecipherError) as told:
        generate(writer(), features(), **options)
    assert told.value.hint
