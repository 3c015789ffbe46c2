"""What a step costs, against what torch counts while the step is run."""

import numpy as np
import pytest
import torch
from test_pairs import data_of, rows_of, study
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.config import SIZES, ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from training.compute import Compute
from training.config import TrainConfig
from training.cost import step_flops, vision_cost
from training.loop import OBJECTIVES

TINY = ModelConfig(
    prepare=PrepareConfig(box=(16, 16, 16)), vision=VisionConfig(width=48, depth=2, heads=2, patch=(4, 4, 4))
)


@pytest.mark.parametrize("stage", ["vision", "align", "text"])
def test_the_count_is_that_of_a_step(stage: str) -> None:
    """To 7 %: norms, losses and adapters are left out of the estimate, and hidden patches and texts vary."""
    torch.manual_seed(0)
    config = TrainConfig(
        batch_size=8, captions=60, texts_per_step=4, prototypes=64, head_hidden=32, head_bottleneck=16, holdout=0.0
    )
    model = Decipher(TINY)
    make_objective, make_batches = OBJECTIVES[stage]
    batches = make_batches(data_of(rows_of(*(study(n) for n in range(6))), config), model, config)
    objective = make_objective(model, config)
    batch = batches.batch(0, Compute())
    if stage == "text":
        config = TrainConfig(batch_size=8, text_tokens=batch.ids.shape[1])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(batch, Compute())["loss"].backward()
    assert step_flops(stage, model, config) == pytest.approx(counter.get_total_flops(), rel=0.07)


def test_the_paper_s_size_at_96_cubed() -> None:
    """2 FLOP a weight and token, and 4 tokens² width a block for attention: a count by hand."""
    base = ModelConfig(prepare=PrepareConfig(box=(96, 96, 96)), vision=SIZES["base"])
    flops, kept = vision_cost(base, base.prepare.box)
    tokens = 12**3 + base.vision.registers + 2
    by_hand = 12 * (2 * tokens * 12 * 768**2 + 4 * tokens**2 * 768)
    assert flops == pytest.approx(by_hand, rel=0.01)
    assert kept < 4 * tokens * 768 * 12 * 40, "fused attention keeps no square of the tokens"


def test_twice_the_volume_is_twice_the_work() -> None:
    long = ModelConfig(prepare=PrepareConfig(box=(16, 16, 32)), vision=TINY.vision)
    ratio = vision_cost(long, long.prepare.box)[0] / vision_cost(TINY, TINY.prepare.box)[0]
    assert 2 < ratio < 2.3 and np.isfinite(ratio)
