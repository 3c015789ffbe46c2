"""Losses on text alone, that keep real language in an adapter which is otherwise trained on captions.

Decisions:
- Preservation is relational (Park et al., "Relational knowledge distillation", CVPR 2019): not where a text lies must stay,
  but which texts are near it, so that all may move to where the volumes are. Each row of cosines is a distribution over the
  other texts, as in SEED (Fang et al., ICLR 2021), which an offset common to all does not change.
- Two wordings of one mention are each other's positives; texts that no series could both be true of are their negatives; all
  others are left out, as in the contrast with volumes.
- Real text is only held to its neighbours, never to volumes: a report says more than any label, so that what is known of it
  would not make it true of a volume.
- A frozen base's sentence vectors are computed once, hence all texts are used at each step, and no state is kept.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.decipher import Decipher
from training.captions import ATTRIBUTES, RELATION
from training.config import TrainConfig
from training.phrasing import make_wordings
from training.reports import text_views
from training.sentences import radiology_sentences
from training.tokens import table_texts
from training.views import text_vectors

SHARPNESS = 0.05
"""temperature of both losses"""
SENTENCES, REAL = 300, 500
"""texts whose neighbours must stay: made ones, and at most so many views of real reports"""
MENTIONS, WORDINGS = 160, 4
"""what is said, and in how many ways each"""
LANGUAGE, AGREEMENT = "language", "wordings"
"""names of the losses: neighbours that stay, and wordings that agree"""


class Language(nn.Module):
    """Texts of both losses, and what is known of them: vectors by name, (N, W) of the text base as it was; same and apart
    (M, M) bool of the wordings."""

    same: torch.Tensor
    apart: torch.Tensor

    def __init__(self, model: Decipher, config: TrainConfig) -> None:
        """Errors: DecipherError when the table config.texts cannot be read."""
        super().__init__()
        wordings, mentions = make_wordings(MENTIONS, WORDINGS, config.seed)
        weights = {LANGUAGE: config.language_weight, AGREEMENT: config.wordings_weight}
        self.texts = {LANGUAGE: kept_texts(config), AGREEMENT: wordings}
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.frozen = model.text.frozen
        for name in self.weights:
            self._keep(name, text_vectors(self.texts[name], model.text.sentences, model.text.base.width))
        same = (mentions[:, None] == mentions[None]).all(axis=-1) & ~np.eye(len(mentions), dtype=bool)
        self._keep("same", torch.from_numpy(same))
        self._keep("apart", torch.from_numpy(contradictory(mentions)))

    def _keep(self, name: str, value: torch.Tensor) -> None:
        """It moves with the model, and is made anew rather than saved."""
        self.register_buffer(name, value, persistent=False)

    def sentences(self, name: str) -> torch.Tensor | list[str]:
        """Sentence vectors (N, W) of one of the losses, or its texts where the base is trained too."""
        return self.before(name) if self.frozen else self.texts[name]

    def before(self, name: str) -> torch.Tensor:
        """Sentence vectors (N, W) of one of the losses as they were when training began."""
        return self.get_buffer(name)


def kept_texts(config: TrainConfig) -> list[str]:
    """What must stay apart and together as it was: sentences of many organs, and views of the reports in config.texts."""
    return radiology_sentences(SENTENCES, config.seed) + (
        _real(Path(config.texts), config.seed) if config.texts else []
    )


def _real(path: Path, seed: int) -> list[str]:
    """Different views of a table's reports, at most REAL, by the seed."""
    reports = list(dict.fromkeys(text for text in table_texts(path) if text))
    order = np.random.default_rng([seed, 19]).permutation(len(reports))
    views: dict[str, None] = {}
    for place in order:
        views.update(dict.fromkeys(text_views(reports[place])))
        if len(views) >= REAL:
            break
    return list(views)[:REAL]


def preservation(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Mean over texts of KL(before || now) of the softmax over the others' cosines: now (N, E), before (N, W)."""
    own = torch.eye(len(now), dtype=torch.bool, device=now.device)
    logits = [(v @ v.T / SHARPNESS).masked_fill(own, -1e4) for v in (F.normalize(now), F.normalize(before))]
    return F.kl_div(logits[0].log_softmax(dim=1), logits[1].log_softmax(dim=1), reduction="batchmean", log_target=True)


def contradictory(mentions: np.ndarray) -> np.ndarray:
    """(N, N) bool: pairs of mentions (N, A) that no series could both be true of."""
    apart = np.zeros((len(mentions), len(mentions)), dtype=bool)
    for a, name in enumerate(ATTRIBUTES):
        true = (RELATION[name] > 0).astype(np.int16)
        never = (true @ true.T == 0)[mentions[:, a][:, None], mentions[:, a][None]]
        said = mentions[:, a] >= 0
        apart |= never & said[:, None] & said[None]
    return apart
