"""How good written reports are, against the real ones: overlap of words, and agreement of what they say.

Decisions
- Words: BLEU-4 and METEOR are NLTK's, ROUGE-L is torchmetrics'; all three count the same lower-case words and numbers, so
  that marks and capitals count nowhere. A text without any has 0. Nothing is fetched when they run.
- BLEU-4 of one report is smoothed by adding one to the counts above single words (Lin and Och, 2004).
- Labels: those of findings.py. Wrong or missing findings count by (organ, finding) pair; what a report affirms anywhere it
  does not deny. Counts are kept by report, so that the bootstrap of metrics.py can draw patients.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from models.errors import DecipherError
from training.findings import Mention, affirmed, mentions_of
from training.metrics import Score

METEOR_NOTE = (
    "METEOR counts equal words and equal stems; synonyms count only where NLTK's WordNet data are installed, and they are "
    "never fetched."
)
COUNTS = (
    "true_positive", "false_positive", "false_negative", "denied_agree", "denied_total", "side_agree", "side_total",
)  # fmt: skip
_WORD = re.compile(r"[a-z0-9]+(?:\.\d+)?")


class NoSynonyms:
    """Stands in for WordNet where its data are not installed: no word has a synonym."""

    def synsets(self, word: str) -> list[str]:
        """None, as of a word that WordNet does not know."""
        return []


def text_scores(written: Sequence[str], real: Sequence[str]) -> dict[str, np.ndarray]:
    """bleu4, rouge_l (F1) and meteor, 0 to 1, each (n,), of n written reports against the n real ones.

    Papineni et al. 2002; Lin 2004; Lavie and Agarwal 2007, see METEOR_NOTE. DecipherError where the lengths differ.
    """
    _check(written, real)
    synonyms = _synonyms()
    pairs = [(_words(ours), _words(theirs)) for ours, theirs in zip(written, real, strict=True)]
    values = [_scores(ours, theirs, synonyms) if ours and theirs else (0.0, 0.0, 0.0) for ours, theirs in pairs]
    columns = np.array(values, dtype=np.float64).reshape(-1, 3).T
    return dict(zip(("bleu4", "rouge_l", "meteor"), columns, strict=True))


def label_agreement(
    written: Sequence[str], real: Sequence[str], regions: Sequence[str | None] | None = None
) -> dict[str, np.ndarray]:
    """What n written reports say against n real ones: the COUNTS, each (n,) integers, one value a report.

    true_positive, false_positive, false_negative: (organ, finding) pairs affirmed by both, the written one, the real one
    alone; denied_total: pairs that both name, denied_agree: with the same answer; side_total: affirmed by both, with a
    side in the real one, side_agree: with the same side. regions: the body region of each, where the text names none.
    """
    _check(written, real)
    regions = [None] * len(real) if regions is None else regions
    told = zip(written, real, regions, strict=True)
    rows = [_compared(mentions_of(ours, region), mentions_of(theirs, region)) for ours, theirs, region in told]
    columns = np.array(rows, dtype=np.int64).reshape(-1, len(COUNTS)).T
    return dict(zip(COUNTS, columns, strict=True))


def agreement_f1(counts: dict[str, np.ndarray], weights: np.ndarray | None = None) -> Score:
    """F1 of affirmed findings over all reports; weights (n,) or (tries, n) as in metrics.bootstrap; NaN without any."""
    right, wrong, missed = (counts[name] for name in COUNTS[:3])
    return _ratio(2 * right, 2 * right + wrong + missed, weights)


def agreement_share(counts: dict[str, np.ndarray], what: str, weights: np.ndarray | None = None) -> Score:
    """Share that agrees of what both reports name; what: "denied" (the same answer) or "side"; NaN without any."""
    return _ratio(counts[f"{what}_agree"], counts[f"{what}_total"], weights)


def has_wordnet() -> bool:
    """Whether NLTK's WordNet data are installed, so that METEOR counts synonyms."""
    import nltk

    for name in ("corpora/wordnet", "corpora/wordnet.zip"):
        try:
            nltk.data.find(name)
        except LookupError:
            continue
        return True
    return False


def _check(written: Sequence[str], real: Sequence[str]) -> None:
    if len(written) != len(real):
        raise DecipherError(
            f"{len(written)} written reports cannot be compared with {len(real)} real ones.",
            "Give one of each a study.",
        )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _synonyms() -> object:
    if not has_wordnet():
        return NoSynonyms()
    from nltk.corpus import wordnet

    return wordnet


def _scores(written: list[str], real: list[str], synonyms: object) -> tuple[float, float, float]:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from nltk.translate.meteor_score import single_meteor_score
    from torchmetrics.functional.text import rouge_score

    bleu = sentence_bleu([real], written, smoothing_function=SmoothingFunction().method2)
    rouge = rouge_score(" ".join(written), " ".join(real), rouge_keys="rougeL", normalizer=str, tokenizer=str.split)[
        "rougeL_fmeasure"
    ]
    return float(bleu), float(rouge), float(single_meteor_score(real, written, wordnet=synonyms))


def _compared(written: Iterable[Mention], real: Iterable[Mention]) -> tuple[int, ...]:
    """The COUNTS of one pair of reports."""
    ours, theirs = list(written), list(real)
    said, true = affirmed(ours), affirmed(theirs)
    both = _named(ours) & _named(theirs)
    same = sum(_is_affirmed(pair, ours) == _is_affirmed(pair, theirs) for pair in both)
    sides = [(_side(pair, ours), _side(pair, theirs)) for pair in said & true if _side(pair, theirs)]
    equal = sum(side == real_side for side, real_side in sides)
    return len(said & true), len(said - true), len(true - said), same, len(both), equal, len(sides)


def _named(mentions: list[Mention]) -> set[tuple[str, str]]:
    return {(m.organ, m.finding) for m in mentions}


def _is_affirmed(pair: tuple[str, str], mentions: list[Mention]) -> bool:
    return any((m.organ, m.finding) == pair and not m.negated for m in mentions)


def _side(pair: tuple[str, str], mentions: list[Mention]) -> str:
    """The side of an affirmed pair, both where left and right are told; '' for none."""
    sides = {m.side for m in mentions if (m.organ, m.finding) == pair and not m.negated and m.side}
    return "both" if len(sides) > 1 else next(iter(sides), "")


def _ratio(above: np.ndarray, below: np.ndarray, weights: np.ndarray | None) -> Score:
    """Weighted sum over weighted sum; a float, or (tries,) for weights (tries, n)."""
    w = np.ones((1, len(above))) if weights is None else np.atleast_2d(weights)
    with np.errstate(invalid="ignore"):
        values = (w @ above) / (w @ below)
    return values if weights is not None and weights.ndim == 2 else float(values[0])
