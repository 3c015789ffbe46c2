"""Batches of stage colipri: pairs of volumes and texts, the report that each volume is to be described by, and findings
beside their opposites.

Decisions
- A volume whose report is unknown, or whose contrast was changed, writes nothing and has no findings.
- Half of a volume's findings are those that its own report affirms or denies; the others are affirmed in the same section of
  another patient's report, and neither affirmed nor about a finding named in this one: false here, so the opposite is true.
- The vectors of a frozen text base are computed once, those of a trained one in each step.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch

from models.decipher import Decipher
from training.compute import Compute
from training.config import TrainConfig
from training.data import TrainingSet, rng_of
from training.findings import GENERAL, mentions_of
from training.opposite import FindingSentence, finding_sentences
from training.pairs import PairBatch, PairBatches


@dataclass(frozen=True)
class WrittenBatch(PairBatch):
    """A PairBatch with tokens (b, T) int64 of this process's reports, 0 where there is nothing to write; opposites: the
    distinct sentences of the pairs, as texts or sentence vectors (S, W); pairs (b, K, 2) int64, the affirmed and the denied
    form of each finding among them; present (b, K) int64, 1 where the affirmed one is true, 0 where the other, -1 for none."""

    tokens: torch.Tensor
    opposites: torch.Tensor | list[str]
    pairs: torch.Tensor
    present: torch.Tensor


@dataclass(frozen=True)
class Told:
    """What one report says: the findings that have an opposite, and the names of all that it mentions, also where they have
    none; whoever affirms a finding also says lesion and mass."""

    findings: list[FindingSentence]
    named: frozenset[str]


class WrittenBatches(PairBatches):
    """What stage colipri is fed. Errors: as PairBatches'."""

    def __init__(self, data: TrainingSet, model: Decipher, config: TrainConfig) -> None:
        super().__init__(data, model, config)
        views = self.texts.views
        self.reports = [views.texts[parts[0]] for parts in views.parts]
        regions = [data.rows["body_region"][int(row)] for row in views.owner]
        self.told = [_told(*both) for both in zip(self.reports, regions, strict=True)]
        self.by_section: dict[str, list[FindingSentence]] = defaultdict(list)
        for told in self.told:
            for finding in told.findings:
                if not finding.negated:
                    self.by_section[finding.section].append(finding)
        writer = model.writer
        self.tokens = writer.tokens(self.reports, model.text.tokenizer) if writer and self.reports else None

    def batch(self, number: int, compute: Compute) -> WrittenBatch:
        """Batch `number`, this process's share."""
        pairs = super().batch(number, compute)
        rng = rng_of(self.config, "opposites", number)
        reports = pairs.reports.numpy()
        drawn = [self._draw_findings(int(report), rng) for report in reports]
        own = compute.share(len(reports))
        forms = list(dict.fromkeys(form for found in drawn[own] for f, _ in found for form in (f.text, f.opposite)))
        index, present = self._laid_out(drawn[own], forms)
        return WrittenBatch(
            **vars(pairs),
            tokens=self._tokens(reports[own]),
            opposites=self.spoken(forms),
            pairs=index,
            present=present,
        )

    def _tokens(self, reports: np.ndarray) -> torch.Tensor:
        if self.tokens is None:
            return torch.zeros(len(reports), 1, dtype=torch.int64)
        found = self.tokens[np.maximum(reports, 0)] * torch.from_numpy(reports >= 0)[:, None]
        return found[:, : max(2, int((found > 0).sum(dim=1).max()))]

    def _draw_findings(self, report: int, rng: np.random.Generator) -> list[tuple[FindingSentence, int]]:
        """At most opposite_pairs findings of a volume, each with 1 where it is affirmed, 0 where it is denied or absent."""
        count = self.config.opposite_pairs
        if report < 0 or not count:
            return []
        told = self.told[report]
        own = [told.findings[i] for i in rng.permutation(len(told.findings))[: (count + 1) // 2]]
        found = [(f, int(not f.negated)) for f in own]
        for section in sorted({f.section for f in told.findings}):
            others = self.by_section[section]
            for i in rng.integers(len(others), size=count) if others else []:
                absent = not {m.finding for m in others[i].mentions} & told.named
                if absent and len(found) < count:
                    found.append((others[i], 0))
        return found

    def _laid_out(
        self, drawn: list[list[tuple[FindingSentence, int]]], forms: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """pairs (b, K, 2) and present (b, K)."""
        place = {form: i for i, form in enumerate(forms)}
        shape = (len(drawn), max(1, self.config.opposite_pairs))
        index, present = torch.zeros(*shape, 2, dtype=torch.int64), torch.full(shape, -1)
        for row, found in enumerate(drawn):
            for k, (finding, there) in enumerate(found):
                index[row, k] = torch.tensor([place[finding.text], place[finding.opposite]])
                present[row, k] = there
        return index, present


def _told(report: str, region: str | None) -> Told:
    mentions = mentions_of(report, region)
    general = GENERAL if any(not m.negated for m in mentions) else ()
    return Told(finding_sentences(report, region), frozenset([*(m.finding for m in mentions), *general]))
