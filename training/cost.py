"""What a step costs before it is run: parameters, floating-point operations, memory.

Decisions:
- The encoders' operations are counted by torch on the meta device, where nothing is computed; a backward pass counts
  twice a forward one, and recomputing blocks once more. What is small beside the encoders is left out: norms, losses, pools.
- A volume passes through one encoder, also where each family of sequences has its own.
- Memory is weights, gradients, both moments of Adam, the teacher, and what autograd keeps of the forward pass.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.bert import Bert
from models.config import Edges, ModelConfig
from models.decipher import Decipher
from models.families import make_vision
from models.prepare import GEOMETRY, Prepared
from training.config import TrainConfig
from training.crops import local_edges

TRAINED = 3
"""a forward and a backward pass, in forward passes"""
ADAM = 4
"""copies of a trained weight: itself, its gradient, two moments"""
HALVED = 0.6
"""share of the kept bytes that is left where matrix products are done in bf16"""


@dataclass(frozen=True)
class Cost:
    """Of one stage. flops and memory_gb are of one step over all processes, before accumulation."""

    parameters: int
    trained: int
    flops: float
    memory_gb: float


Forward = tuple[float, int]
"""FLOPs of a forward pass, and the bytes in 32 bits that autograd keeps of it"""


@cache
def vision_cost(config: ModelConfig, box: Edges) -> Forward:
    """Of one volume's forward pass."""
    vision = replace(config.vision, families="") if config.vision.families == "encoders" else config.vision
    with torch.device("meta"):
        encoder = make_vision(vision, config.dim)
        content = torch.zeros(1, 3, 2, dtype=torch.long)
        volume = Prepared(torch.zeros(1, 1, *box), content, torch.zeros(1, GEOMETRY), torch.zeros(1, 4, 4))
        return _counted(encoder, volume)


def text_cost(base: Bert, tokens: int) -> Forward:
    """Of one text's forward pass through the text base."""
    with torch.device("meta"):
        empty = Bert(base.config).requires_grad_(True)
        ids = torch.zeros(1, tokens, dtype=torch.long)
        return _counted(empty, ids, torch.ones(1, tokens, dtype=torch.bool))


def _counted(module: nn.Module, *inputs: Any) -> Forward:
    """What a module takes for inputs on the meta device; fused attention keeps no square of the tokens."""
    kept = 0

    def keep(value: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        square = value.ndim > 2 and value.shape[-1] == value.shape[-2]
        kept += 0 if square else value.numel() * value.element_size()
        return value

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v):
        module(*inputs)
    weights = sum(p.numel() for p in module.parameters()) * 4
    return float(counter.get_total_flops()), max(0, kept - weights)


def step_flops(stage: str, model: Decipher, config: TrainConfig) -> float:
    """FLOPs of one batch of a stage, forward and backward."""
    return {"vision": _vision_flops, "text": _text_flops}.get(stage, _align_flops)(model, config)


def _vision_flops(model: Decipher, config: TrainConfig) -> float:
    """Student on all crops, teacher on the global ones, and the heads of both."""
    shape = model.config
    whole, _ = vision_cost(shape, shape.prepare.box)
    local, _ = vision_cost(shape, local_edges(shape))
    student = config.global_crops * whole + config.local_crops * local
    tokens = math.prod(shape.prepare.box) / math.prod(shape.vision.patch)
    hidden = tokens * config.masked_volumes * sum(config.masked_patches) / 2
    crops = config.global_crops + config.local_crops
    vectors = TRAINED * (crops + config.global_crops * hidden) + config.global_crops * (1 + hidden)
    each = _times(config) * student + config.global_crops * whole + vectors * _head_flops(shape.dim, config)
    return config.batch_size * each


def _align_flops(model: Decipher, config: TrainConfig) -> float:
    """The views of all volumes, and the texts where their base is trained."""
    whole, _ = vision_cost(model.config, model.config.prepare.box)
    views = 2 if config.views_weight > 0 else 1
    trained = not model.text.frozen
    texts = (config.batch_size + config.texts_per_step) * trained
    volumes = config.batch_size * views * _times(config) * whole
    return volumes + TRAINED * texts * text_cost(model.text.base, config.text_tokens)[0]


def _text_flops(model: Decipher, config: TrainConfig) -> float:
    """The base on all tokens, and the scores of all pieces for the hidden ones."""
    pieces, width = model.text.base.embeddings.word_embeddings.weight.shape
    scores = 2.0 * width * (width + pieces) * config.masked_tokens * config.text_tokens
    return TRAINED * config.batch_size * (text_cost(model.text.base, config.text_tokens)[0] + scores)


def _head_flops(dim: int, config: TrainConfig) -> float:
    """Of one vector through a prototype head."""
    hidden, bottleneck = config.head_hidden, config.head_bottleneck
    return 2.0 * (dim * hidden + hidden * hidden + hidden * bottleneck + bottleneck * config.prototypes)


def _times(config: TrainConfig) -> int:
    """Forward passes that training one volume costs."""
    return TRAINED + int(config.recompute)


def stage_cost(stage: str, model: Decipher, config: TrainConfig, world: int) -> Cost:
    """What one stage of a run on `world` processes takes; memory is that of one process."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if stage == "text":
        trained = {name for name in sizes if name.startswith("text.base.")}
    count = sum(sizes[name] for name in trained)
    teacher = sum(n for name, n in sizes.items() if name.startswith("vision.")) if stage == "vision" else 0
    weights = 4 * (sum(sizes.values()) + (ADAM - 1) * count + teacher)
    flops = step_flops(stage, model, config) * config.accumulate
    memory = weights + config.batch_size / world * _kept_bytes(stage, model, config)
    return Cost(sum(sizes.values()), count, flops, memory / 1e9)


def _kept_bytes(stage: str, model: Decipher, config: TrainConfig) -> float:
    """What autograd keeps of one volume, or of one text."""
    halved = 1.0 if config.precision == "32" else HALVED
    if stage == "text":
        return halved * text_cost(model.text.base, config.text_tokens)[1]
    shape = model.config
    _, whole = vision_cost(shape, shape.prepare.box)
    _, local = vision_cost(shape, local_edges(shape))
    views = 2 if config.views_weight > 0 else 1
    kept = config.global_crops * whole + config.local_crops * local if stage == "vision" else views * whole
    return halved * kept / (shape.vision.depth if config.recompute else 1)
