"""What a stage adds to the model beside its encoders: a writer of reports, a detector of findings.

Decisions
- What a head must know of the data (the pieces of reports, the findings that can be learnt) follows from the training set
  alone, so that a resumed run makes the same heads before their weights are read.
- A head is trained in its own stage, and stays as it is in others; but one of them that trains the vision encoder takes it
  away, since it was made for the encoder as it was.
- What is missing for one is told before the first stage, not hours later.
"""

from collections.abc import Sequence

import torch

from models.decipher import Decipher
from models.errors import DecipherError
from models.fusion import Detector, DetectorConfig, Target
from models.report import Writer, writer_config
from training.config import TrainConfig
from training.data import TrainingSet
from training.shards import kept_as
from training.study_labels import study_findings, targets_of

Stages = Sequence[str]


def equip(model: Decipher, data: TrainingSet, config: TrainConfig, stages: Stages) -> None:
    """Give the model the heads of `stages`, the run's up to the present one; only the last one's is trained.

    Errors: DecipherError where the data hold nothing to make one from.
    """
    lasting = _lasting(config, stages)
    writes = "colipri" in lasting and config.stage("colipri").report_weight
    detects = "detect" in lasting
    model.writer = (model.writer or _writer(model, data, config.stage("colipri"))) if writes else None
    model.detector = (model.detector or _detector(model, data, config.stage("detect"))) if detects else None
    for head, stage in ((model.writer, "colipri"), (model.detector, "detect")):
        if head is not None:
            head.requires_grad_(stages[-1] == stage)


def _lasting(config: TrainConfig, stages: Stages) -> Stages:
    """The last of the stages that trains the vision encoder, and what comes after it."""
    changing = [place for place, name in enumerate(stages) if "vision" not in config.stage(name).freeze]
    return stages[changing[-1] if changing else 0 :]


def check_heads(data: TrainingSet, config: TrainConfig) -> None:
    """DecipherError where the data hold nothing to make the head of some stage from."""
    for name in config.stages:
        if name == "colipri" and config.stage(name).report_weight:
            _reports(data)
        if name == "detect":
            _targets(data, config.stage(name))


def _writer(model: Decipher, data: TrainingSet, config: TrainConfig) -> Writer:
    torch.manual_seed(config.seed)
    made = writer_config(
        _reports(data),
        model.text.tokenizer,
        width=config.head_width,
        depth=config.head_depth,
        longest=config.report_tokens,
    )
    return Writer(made, model.config.dim)


def _reports(data: TrainingSet) -> list[str]:
    found = data.rows.filter(data.weights > 0)["report"].drop_nulls().unique().sort().to_list()
    if not found:
        raise DecipherError(
            "There is no report to learn to write.", "Bring reports with --reports CSV, or --set report_weight=0."
        )
    return found


def _targets(data: TrainingSet, config: TrainConfig) -> tuple[Target, ...]:
    drawn = data.rows.filter(data.weights > 0)
    return targets_of(study_findings(drawn, kept_as(config.findings)).values(), config.fewest_positive)


def _detector(model: Decipher, data: TrainingSet, config: TrainConfig) -> Detector:
    targets = _targets(data, config)
    torch.manual_seed(config.seed)
    made = DetectorConfig(targets, width=config.head_width, depth=config.head_depth, column=config.findings)
    detector = Detector(made, model.config.dim)
    detector.start(model.encode_texts([prompt_of(target) for target in targets]))
    return detector


def prompt_of(target: Target) -> str:
    """A finding in words, as its query is begun."""
    return f"{target.name} of the {target.organ}" if target.organ else target.name
