"""Stage 1 of the text encoder: hidden tokens of reports are guessed from the others.

Source: masked language modelling as in BERT (Devlin et al., 2019), with transformers' BertForMaskedLM begun from the
model's text base.

Decisions:
- Only hidden tokens go through the head, whose decoder is the embedding table itself: a seventh of the work, and no weight
  has two names in a checkpoint.
- No dropout, as ALBERT found better for this loss (Lan et al., 2020); so a batch has one loss on any number of processes.
- The weights are trained beside the model, and `finish` brings them into it.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.bert import Bert
from models.decipher import Decipher
from training.compute import Compute
from training.config import TrainConfig
from training.tokens import IGNORED, TokenBatch


class Text(nn.Module):
    """loss = mean cross-entropy over the hidden tokens of the whole batch; perplexity = e to that."""

    def __init__(self, model: Decipher, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.model.text.own = True
        masked = masked_bert(model.text.base)
        self.bert = masked.bert
        self.transform = masked.cls.predictions.transform
        self.bias = nn.Parameter(masked.cls.predictions.bias.detach().clone())

    def forward(self, batch: TokenBatch, compute: Compute) -> dict[str, torch.Tensor]:
        hidden = batch.targets != IGNORED
        with compute.autocast():
            states = self.bert(input_ids=batch.ids, attention_mask=batch.valid.long()).last_hidden_state
            scores = F.linear(self.transform(states[hidden]), self.bert.embeddings.word_embeddings.weight, self.bias)
        mine = F.cross_entropy(scores.float(), batch.targets[hidden], reduction="sum")
        loss = compute.mean(mine, hidden.sum())
        return {"loss": loss, "perplexity": loss.detach().exp()}

    def after_step(self, step: int, steps: int) -> None:
        """Nothing follows a step."""

    @torch.no_grad()
    def finish(self) -> None:
        """The model's text base takes the trained weights; its adapter and the vision encoder stay as they are."""
        self.model.text.base.load_state_dict(self.bert.state_dict())
        self.model.text.own = True


def masked_bert(base: Bert) -> Any:
    """transformers' BertForMaskedLM with the weights of `base`, a fresh head tied to its embeddings, and no dropout."""
    from transformers import BertConfig, BertForMaskedLM

    config = {k: v for k, v in base.config.items() if k not in ("dtype", "torch_dtype", "transformers_version")}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "tie_word_embeddings": True}
    masked = BertForMaskedLM(BertConfig(**config | still))
    masked.bert.load_state_dict(base.state_dict())
    return masked.float()
