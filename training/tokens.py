"""Batches for stage text: views of reports as tokens, some of them hidden.

Decisions:
- A report is drawn first, each as often as any other, and then one of its views (training.reports), by its length: whole,
  sections and sentences share the tokens of a batch. Parsing waits until a report is drawn, however many there are.
- A tenth of the chosen tokens stays and a tenth becomes another piece, as in BERT (Devlin et al., 2019). Marks like [SEP] and
  unknown pieces are never chosen.
- Every process draws the whole batch, pads it to its longest text and takes its share.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from index.labels import read_table
from models.decipher import Decipher
from models.errors import DecipherError
from training.compute import Compute
from training.config import TrainConfig
from training.data import TrainingSet, generators, rng_of
from training.reports import text_views

STAGE = "text"
IGNORED = -100
"""target of a token that is not to be guessed"""
HIDDEN, SWAPPED = 0.8, 0.1
"""shares of the chosen tokens that become [MASK], or another piece"""
LETTERS_PER_TOKEN = 5
COLUMNS = ("report", "text")


@dataclass(frozen=True)
class TokenBatch:
    """ids (B, N) int64 as the encoder sees them; valid (B, N) bool; targets (B, N) int64, IGNORED where nothing is hidden;
    names: which report each text is of."""

    ids: torch.Tensor
    valid: torch.Tensor
    targets: torch.Tensor
    names: list[str]

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("ids", "valid", "targets")}
        return replace(self, **moved)


class TokenBatches:
    """Batches of config.batch_size texts, each a pure function of seed and number."""

    def __init__(self, data: TrainingSet, model: Decipher, config: TrainConfig) -> None:
        """Errors: DecipherError when there is no report, or text_tokens does not fit the text base."""
        self.config = config
        self.reports = reports_of(data, config)
        self.tokenizer = _cut(model, config.text_tokens)
        self.mask = self.tokenizer.token_to_id("[MASK]")
        if self.mask is None:
            raise DecipherError("The text base has no piece [MASK].", "Name another with --set text_base=FOLDER.")
        marks = [number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special]
        self.marks = torch.tensor(marks)
        pieces = torch.tensor(sorted(self.tokenizer.get_vocab().values()))
        self.pieces = pieces[~torch.isin(pieces, self.marks)]

    def batch(self, number: int, compute: Compute) -> TokenBatch:
        """This process's share of batch `number`."""
        rng = rng_of(self.config, STAGE, number)
        which = rng.integers(len(self.reports), size=self.config.batch_size)
        sources = generators(rng, len(which))
        coded = self.tokenizer.encode_batch([self._view(r, s) for r, s in zip(which, sources, strict=True)])
        ids = torch.tensor([c.ids for c in coded])
        valid = torch.tensor([c.attention_mask for c in coded], dtype=torch.bool)
        hidden = [self._hide(row, seen, s) for row, seen, s in zip(ids, valid, sources, strict=True)]
        mine = compute.share(len(which))
        return TokenBatch(
            ids=torch.stack([seen for seen, _ in hidden])[mine],
            valid=valid[mine],
            targets=torch.stack([target for _, target in hidden])[mine],
            names=[f"report {r + 1}" for r in which[mine]],
        )

    def _view(self, report: int, source: torch.Generator) -> str:
        """One view of a report, by length."""
        views = text_views(self.reports[report])
        most = LETTERS_PER_TOKEN * self.config.text_tokens
        length = torch.tensor([float(min(len(view), most)) for view in views])
        return views[int(torch.multinomial(length, 1, generator=source))]

    def _hide(
        self, ids: torch.Tensor, valid: torch.Tensor, source: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) as the encoder sees them, and targets. Padding draws nothing, so the company of a text changes nothing."""
        count = int(valid.sum())
        own = ids[:count]
        seen, target = hide(
            own, ~torch.isin(own, self.marks), self.config.masked_tokens, self.mask, self.pieces, source
        )
        whole, targets = ids.clone(), torch.full_like(ids, IGNORED)
        whole[:count], targets[:count] = seen, target
        return whole, targets


def hide(
    ids: torch.Tensor, may: torch.Tensor, share: float, mask: int, pieces: torch.Tensor, source: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (N,) with a share of those that may (N,) hidden, at least one; and targets (N,), IGNORED elsewhere.

    mask: id of [MASK]; pieces (P,): ids that a token may be swapped for.
    """
    draw = torch.rand(len(ids), generator=source).masked_fill(~may, 2.0)
    chosen = ((draw < share) | (draw == draw.min())) & may
    fate = torch.rand(len(ids), generator=source)
    other = pieces[torch.randint(len(pieces), (len(ids),), generator=source)]
    seen = torch.where(chosen & (fate < HIDDEN), mask, ids)
    seen = torch.where(chosen & (fate >= HIDDEN) & (fate < HIDDEN + SWAPPED), other, seen)
    return seen, torch.where(chosen, ids, IGNORED)


def reports_of(data: TrainingSet, config: TrainConfig) -> list[str]:
    """Different reports of two words and more: of the rows that are drawn, then of the table config.texts.

    Errors: DecipherError when there is none, or the table cannot be read.
    """
    drawn = data.rows["report"].filter(pl.Series(data.weights > 0)).to_list()
    texts = [*drawn, *(table_texts(Path(config.texts)) if config.texts else [])]
    found = list(dict.fromkeys(text for text in texts if text and len(text.split()) > 1))
    if not found:
        raise DecipherError("There is no report to learn from.", "Add --reports CSV, or --set texts=FILE.")
    return found


def table_texts(path: Path) -> list[str]:
    """The texts of a table's column report or text."""
    frame = read_table(path)
    column = next((name for name in COLUMNS if name in frame.columns), None)
    if column is None:
        raise DecipherError(f"{path} has no column report or text.", "Name the column of the texts `report`.")
    return frame[column].cast(pl.String).to_list()


def _cut(model: Decipher, tokens: int) -> Any:
    """The model's tokenizer on its own, with texts cut at `tokens`.

    Errors: DecipherError when the text base has fewer positions, or no word is left.
    """
    from tokenizers import Tokenizer

    positions = model.text.base.config["max_position_embeddings"]
    if not 2 < tokens <= positions:
        raise DecipherError(
            f"Texts cannot be cut at {tokens} tokens.", f"Take 3 to {positions}: --set {STAGE}.text_tokens=128"
        )
    tokenizer = Tokenizer.from_str(model.text.tokenizer.to_str())
    tokenizer.enable_truncation(tokens)
    return tokenizer
