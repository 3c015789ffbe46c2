"""What is asked in words of vectors and patches: classes by their prompts, series by a text, the place of a lesion.

Decisions
- Scores of a text by several encoders are comparable only once each is standardised over all series; of a single encoder
  that changes no order.
- One row of labels may be about several series (echoes): of what there is to find it counts once.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from boxes import Boxes
from measured import Arm, Measured, Witness, judged_rows, means
from questions import POINTED, QUERIES, Choice

from index.spread import unit_length
from training.metrics import Score, balanced_accuracy
from training.place import touched

LISTED = 10
"""hits of a text that count"""


def answers(arm: Arm, choice: Choice) -> np.ndarray:
    """(n,) the class whose prompt is nearest to each judged row, "" for the others."""
    names = np.array([*choice.prompts])
    said = np.full(len(arm[0].judged), "", dtype=object)
    for fold in arm:
        words = np.stack([fold.encoding.words[prompt] for prompt in choice.prompts.values()])
        said[fold.judged] = names[(fold.encoding.vectors[fold.judged] @ words.T).argmax(axis=1)]
    return said.astype(str)


def zero_shot(boxes: Boxes, arm: Arm, choice: Choice) -> Measured | None:
    truth, said = boxes.column(choice.column).astype(str), answers(arm, choice)
    rows = np.flatnonzero(judged_rows(arm) & np.isin(truth, [*choice.prompts]))
    if not len(rows):
        return None
    score = partial(balanced_accuracy, truth[rows], said[rows])
    return Measured(boxes.people[rows], score, 1 / len(np.unique(truth[rows])))


@dataclass(frozen=True)
class Listed:
    """What a text finds: of the rows in order, best first, which are relevant (n,), and how much of a label row each is."""

    order: np.ndarray
    relevant: np.ndarray
    share: np.ndarray

    def precision(self, weights: np.ndarray | None) -> np.ndarray:
        """(tries,) share of the first ten, or of as many as are relevant, that are; NaN without any. weights (tries, n)."""
        w = (np.ones((1, len(self.order))) if weights is None else weights)[:, self.order]
        k = np.minimum(LISTED, np.rint(w @ (self.relevant * self.share)))[:, None]
        taken = np.clip(k - (np.cumsum(w, axis=1) - w), 0, w)
        with np.errstate(invalid="ignore"):
            return taken @ self.relevant / k[:, 0]

    @property
    def counted(self) -> int:
        """How many hits precision is of."""
        return min(LISTED, round(float(self.relevant @ self.share)))

    @property
    def chance(self) -> float:
        return float(self.relevant @ self.share / self.share.sum())


def listed(boxes: Boxes, arm: Arm) -> dict[str, Listed]:
    """What each query finds among the judged rows, for those with something to find."""
    rows = np.flatnonzero(judged_rows(arm))
    labels = [boxes.labels[row] for row in rows]
    paths, member = np.unique([label["path"] for label in labels], return_inverse=True)
    share = (1 / np.bincount(member, minlength=len(paths)))[member]
    found = {}
    for query, holds in QUERIES.items():
        relevant = np.array([holds(label) for label in labels], dtype=float)
        order = np.argsort(-_standard_scores(arm, query)[rows], kind="stable")
        if relevant.any():
            found[query] = Listed(order, relevant[order], share[order])
    return found


def _standard_scores(arm: Arm, query: str) -> np.ndarray:
    """(n,) of each judged row the cosine with a text, in deviations over all rows of its encoder."""
    found = np.full(len(arm[0].judged), -np.inf)
    for fold in arm:
        cosine = fold.encoding.vectors.astype(np.float64) @ fold.encoding.words[query].astype(np.float64)
        found[fold.judged] = ((cosine - cosine.mean()) / cosine.std())[fold.judged]
    return found


def text_to_series(boxes: Boxes, arm: Arm) -> Measured | None:
    lists = listed(boxes, arm).values()
    if not lists:
        return None

    def score(weights: np.ndarray | None) -> Score:
        each = np.stack([one.precision(weights) for one in lists])
        known = ~np.isnan(each)
        found = np.where(known, each, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        return float(found[0]) if weights is None else found

    return Measured(boxes.people[judged_rows(arm)], score, float(np.mean([one.chance for one in lists])))


def pointing(boxes: Boxes, arm: Arm, above: bool) -> Measured | None:
    """Whether the patch most like POINTED touches the mask of disease; above: less the mask's share of the patches."""
    found = []
    for fold in arm:
        for row in np.flatnonzero(fold.judged & boxes.marked.any(axis=(1, 2, 3))):
            patches = fold.encoding.patches[row].astype(np.float64)
            valid = patches.any(axis=1)
            marked = touched(boxes.marked[row], fold.encoding.patch) & valid
            like = np.where(valid, unit_length(patches) @ fold.encoding.words[POINTED], -np.inf)
            share, hit = float(marked.sum() / valid.sum()), float(marked[like.argmax()])
            found.append(Witness(boxes.people[row], hit - above * share, (1 - above) * share, 1 - above * share))
    return means(found)
