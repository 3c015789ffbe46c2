"""The texts that stand for a volume in training: its report, whole or in parts, and captions of what its tags say.

Decisions:
- A view of a report is the whole, one section or one sentence (reports.py). A view is true of every volume whose report
  holds it, so that `No acute infarct.` in two reports makes them no negatives of each other.
- A view is false of a volume only where something known of that volume differs from its owner, or too little is known to
  say that they agree.
- Sentence vectors of a frozen text base are computed once, each by itself when it is first drawn: a batch of them is padded to
  its longest, which changes the last bits, and a resumed run would draw others together.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from models.text import TextEncoder
from training.captions import Captions, match
from training.config import TrainConfig
from training.data import TrainingSet
from training.phrasing import make_captions
from training.reports import text_views

ENOUGH_KNOWN = 2
"""attributes known of both sides that must agree for two reports to be taken as alike"""
AT_ONCE = 64


@dataclass(frozen=True)
class Views:
    """texts (V) of all views; parts: of each distinct report its views, the whole first; report_of (n,) the report of each
    row, -1 without; owner (R,) a row of each report."""

    texts: list[str]
    parts: list[list[int]]
    report_of: np.ndarray
    owner: np.ndarray

    def draw(self, reports: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One view of each distinct report of a batch: the whole as often as all its parts together."""
        found = []
        for report in np.unique(reports[reports >= 0]):
            parts = self.parts[report]
            found.append(parts[0] if len(parts) == 1 or rng.random() < 0.5 else int(rng.choice(parts[1:])))
        return np.unique(np.array(found, dtype=int))

    def holds(self, reports: np.ndarray, views: np.ndarray) -> np.ndarray:
        """(B, V) bool: whether the report of each volume, -1 without, has each of the views."""
        held = np.zeros((len(reports), len(views)), dtype=bool)
        for place, report in enumerate(reports):
            if report >= 0:
                held[place] = np.isin(views, self.parts[report])
        return held


def report_views(data: TrainingSet) -> Views:
    """The views of all reports in the rows that may be drawn."""
    told = [text if weight > 0 else None for text, weight in zip(data.rows["report"], data.weights, strict=True)]
    places: dict[str, int] = {}
    report_of = np.array([places.setdefault(t, len(places)) if t else -1 for t in told], dtype=int)
    texts: dict[str, int] = {}
    parts = [
        [texts.setdefault(view, len(texts)) for view in dict.fromkeys([report, *text_views(report)])]
        for report in places
    ]
    owner = np.zeros(len(places), dtype=int)
    owner[report_of[report_of >= 0][::-1]] = np.flatnonzero(report_of >= 0)[::-1]
    return Views(list(texts), parts, report_of, owner)


@dataclass(frozen=True)
class Texts:
    """All that may be said of volumes: views of reports, captions of attributes; attributes (V, A) of each view's owner."""

    views: Views
    captions: Captions
    attributes: np.ndarray

    def draw(
        self, attributes: np.ndarray, reports: np.ndarray, count: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Texts of a batch with attributes (B, A) and reports (B,): their numbers (T,), positive and negative (B, T).

        A caption true of each volume, `count` captions of any kind, and a view of each report.
        """
        true, _ = match(attributes, self.captions.mentions)
        own = [int(rng.choice(np.flatnonzero(t))) if t.any() else int(rng.integers(len(t))) for t in true]
        captions = np.concatenate([own, rng.choice(len(self.captions.texts), count)])
        views = self.views.draw(reports, rng)
        positive, negative = match(attributes, self.captions.mentions[captions])
        held = self.views.holds(reports, views)
        apart = self._apart(attributes, views) & ~held
        numbers = np.concatenate([captions + len(self.views.texts), views])
        return numbers, np.hstack([positive, held]), np.hstack([negative, apart])

    def _apart(self, attributes: np.ndarray, views: np.ndarray) -> np.ndarray:
        """(B, V): true unless all attributes known of the volume and of a view's owner agree, and enough are."""
        image, text = attributes[:, None], self.attributes[views][None]
        both = (image >= 0) & (text >= 0)
        return (both & (image != text)).any(-1) | (both.sum(-1) < ENOUGH_KNOWN)

    def words(self, number: int) -> str:
        """The text behind a number."""
        views = self.views.texts
        return views[number] if number < len(views) else self.captions.texts[number - len(views)]


def texts_of(data: TrainingSet, config: TrainConfig) -> Texts:
    """Views and captions ready to draw from."""
    views, captions = report_views(data), make_captions(config.captions, config.seed, data.attributes[data.weights > 0])
    owners = np.zeros(len(views.texts), dtype=int)
    for report, parts in enumerate(views.parts):
        owners[parts] = views.owner[report]
    return Texts(views, captions, data.attributes[owners])


class Spoken:
    """Texts as training takes them: sentence vectors of a frozen text base, or the words where the base is trained too.

    The base is a copy of its own, since training may shard the model's over processes or move it to a GPU."""

    def __init__(self, text: TextEncoder) -> None:
        self.frozen = text.frozen
        self.text = copy.deepcopy(text) if self.frozen else text
        self.known: dict[str, torch.Tensor] = {}

    def __call__(self, texts: list[str]) -> torch.Tensor | list[str]:
        """(T, W), each row computed once; or the texts."""
        if not self.frozen:
            return texts
        return torch.stack([self._vector(text) for text in texts]) if texts else torch.zeros(0, self.text.base.width)

    def _vector(self, text: str) -> torch.Tensor:
        if text not in self.known:
            self.known[text] = self.text.sentences([text])[0].float().cpu()
        return self.known[text]


def text_vectors(texts: list[str], encode: Callable[[list[str]], torch.Tensor], width: int) -> torch.Tensor:
    """What `encode` makes of all texts (T, width), on the CPU; in blocks of similar length, since a block is padded to its
    longest."""
    found = torch.zeros(len(texts), width)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), AT_ONCE):
        block = order[start : start + AT_ONCE]
        found[block] = encode([texts[i] for i in block]).float().cpu()
    return found
