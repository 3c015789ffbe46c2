"""Stage 2: volumes and texts into one space by a contrast with many positives.

Source: the symmetric image-text contrast of CLIP (Radford et al., 2021), its positives generalised to sets, since several
captions are true of a volume and several series share a report. Each positive is held against the negatives alone: in
the supervised contrast of Khosla et al. (2020) positives compete with each other, which keeps the temperature high.
Linear heads on the volume vector name the known attributes directly; they only train, and are not saved with the model.
Only attributes that pixels show get a head; what follows from another has none, lest it count twice.
Stage 1's losses go on for series without text, as long as their weight is not 0. Losses on text alone: language.py.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.decipher import Decipher
from models.vision import VisionFeatures
from training.captions import ATTRIBUTES, VALUES
from training.compute import Compute
from training.config import TrainConfig
from training.language import AGREEMENT, LANGUAGE, SHARPNESS, Language, preservation
from training.objectives.vision import Vision
from training.pairs import PairBatch

HEADED = ("sequence", "body_region", "plane", "contrast", "lesion", "finding", "age")
"""attributes that a head names"""
USUAL_AGE, AGE_SPREAD = 45.0, 20.0
"""years; what the age's head says is in such units"""
SUBJECT_WIDTH = 128
"""width of the space in which patients are told apart: a linear map, so that what it needs is in the volume vector"""
SUBJECT_TEMPERATURE = 0.1
POINTING_TEMPERATURE = 0.1


class Align(nn.Module):
    """loss = contrast of volumes with texts + heads_weight * attribute heads + parts_weight * both of these of each part of the
    volume vector alone + views_weight * contrast of two views
    + subject_weight * contrast of patients + pointing_weight * contrast of a lesion's patches with all others of its volume
    + image_weight * stage 1's loss + language_weight and wordings_weight * losses on text alone.

    image_only, reported: shares of the batch that come for their images, and with reports."""

    def __init__(self, model: Decipher, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.weights = {"heads": config.heads_weight, "views": config.views_weight, "images": config.image_weight}
        self.weights |= {
            "parts": config.parts_weight,
            "subjects": config.subject_weight,
            "pointing": config.pointing_weight,
        }
        self.subject = nn.Linear(model.config.dim, SUBJECT_WIDTH) if config.subject_weight > 0 else None
        self.heads = nn.ModuleList(nn.Linear(model.config.dim, len(VALUES[name])) for name in HEADED)
        self.age = nn.Linear(model.config.dim, 1)
        spoken = config.language_weight > 0 or config.wordings_weight > 0
        self.language = Language(model, config) if spoken else None
        self.weights |= self.language.weights if self.language else {}
        self.images = Vision(model, config) if config.image_weight > 0 and config.image_share > 0 else None

    def forward(self, batch: PairBatch, compute: Compute) -> dict[str, torch.Tensor]:
        with compute.autocast():
            found = [self.model.vision(view, batch.geometry_known) for view in batch.views]
        losses = self.terms(found, batch, compute)
        total = torch.stack([self.weights.get(name, 1.0) * value for name, value in losses.items()]).sum()
        reported = (batch.reports >= 0).float().mean() * (1 - batch.image_only)
        return {**losses, "loss": total, "image_only": torch.tensor(batch.image_only), "reported": reported}

    def terms(self, found: list[VisionFeatures], batch: PairBatch, compute: Compute) -> dict[str, torch.Tensor]:
        """Each loss by its name, from the features of the batch's views."""
        with compute.autocast():
            texts = self.model.text(self._sentences(batch.sentences))
        volumes = [compute.gather(f.volume.float()) for f in found]
        unit = [F.normalize(v, dim=-1) for v in volumes]
        words = F.normalize(compute.gather(texts.float()), dim=-1)
        losses = {"contrast": torch.stack([self.contrast(self.model.scale * v @ words.T, batch) for v in unit]).mean()}
        if self.weights["heads"]:
            losses["heads"] = torch.stack([self._name(v, batch) for v in volumes]).mean()
        if self.weights["parts"]:
            parts = [part for f in found for part in compute.gather(f.parts.float()).unbind(dim=1)]
            losses["parts"] = torch.stack([self._alone(part, words, batch) for part in parts]).mean()
        if self.weights["views"]:
            losses["views"] = view_contrast(unit[0], unit[1], batch.same_subject)
        if self.subject is not None:
            losses["subjects"] = self._patients(self.subject, volumes, batch)
        if self.weights["pointing"]:
            losses["pointing"] = torch.stack([self._point(f, batch, compute) for f in found]).mean()
        if self.language is not None:
            losses |= self._spoken(self.language, compute)
        if self.images is not None and batch.crops is not None:
            losses["images"] = self.images(batch.crops, compute)["loss"]
        return losses

    def _alone(self, part: torch.Tensor, words: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        """Contrast and heads of one part (P, E) of the volume vectors, at the temperature that the whole has learned."""
        logits = self.model.scale.detach() * F.normalize(part, dim=-1) @ words.T
        return self.contrast(logits, batch) + self.weights["heads"] * self._name(part, batch)

    def _patients(self, head: nn.Module, volumes: list[torch.Tensor], batch: PairBatch) -> torch.Tensor:
        """Mean over views (P, E) of the contrast of each series with its partner against series of other patients."""
        paired = F.one_hot(batch.partner + 1, len(batch.partner) + 1)[:, 1:].bool()
        unit = [F.normalize(head(v), dim=-1) for v in volumes]
        return torch.stack(
            [one_way_contrast(v @ v.T / SUBJECT_TEMPERATURE, paired, ~batch.same_subject) for v in unit]
        ).mean()

    def _point(self, found: VisionFeatures, batch: PairBatch, compute: Compute) -> torch.Tensor:
        """The contrast of the patches (P, N) that a lesion touches, in nearness to its name, with the rest of its volume."""
        with compute.autocast():
            names = self.model.text(self._sentences(batch.lesion_names))
        own = compute.share(len(names))
        near = F.normalize(found.patches.float(), dim=-1) @ F.normalize(names.float(), dim=-1)[own, :, None]
        logits = compute.gather(near[..., 0] / POINTING_TEMPERATURE)
        valid = compute.gather(found.valid.float()) > 0
        return one_way_contrast(logits, batch.lesions & valid, ~batch.lesions & valid)

    def _spoken(self, language: Language, compute: Compute) -> dict[str, torch.Tensor]:
        """The losses on text alone that have a weight, the same on each process."""
        with compute.autocast():
            found = {name: self.model.text(self._sentences(language.sentences(name))) for name in language.weights}
        losses = {}
        if LANGUAGE in found:
            losses[LANGUAGE] = preservation(found[LANGUAGE].float(), language.before(LANGUAGE))
        if AGREEMENT in found:
            losses[AGREEMENT] = agreement_contrast(found[AGREEMENT].float(), language.same, language.apart)
        return losses

    def contrast(self, logits: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        """Of one view's logits (B, T) with the texts."""
        return many_positive_contrast(logits, batch.positive, batch.negative)

    def _sentences(self, texts: torch.Tensor | list[str]) -> torch.Tensor:
        """Sentence vectors (T, W): as they were computed before, or anew where the text base is trained."""
        return self.model.text.pooled(texts) if isinstance(texts, list) else texts

    def _name(self, volumes: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        """Mean over attributes of the cross-entropy on volumes (B, E) where they are known, and of how far off the age is."""
        targets = [batch.attributes[:, ATTRIBUTES.index(name)] for name in HEADED]
        terms = [
            F.cross_entropy(head(volumes), target, ignore_index=-1)
            for head, target in zip(self.heads, targets, strict=True)
            if (target >= 0).any()
        ]
        known = batch.years.isfinite()
        if known.any():
            ages = (batch.years[known] - USUAL_AGE) / AGE_SPREAD
            terms.append(F.smooth_l1_loss(self.age(volumes[known])[:, 0], ages))
        return torch.stack(terms).mean() if terms else volumes.sum() * 0.0

    def after_step(self, step: int, steps: int) -> None:
        """Stage 1's teacher follows."""
        if self.images is not None:
            self.images.after_step(step, steps)

    def finish(self) -> None:
        """The model is what was trained."""


def many_positive_contrast(logits: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Mean over both directions and all positives of -log(e^p / (e^p + sum of e^negatives)); logits (B, T).

    Pairs that are neither positive nor negative stay out; rows or columns without both are left out.
    """
    return (one_way_contrast(logits, positive, negative) + one_way_contrast(logits.T, positive.T, negative.T)) / 2


def one_way_contrast(logits: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """The mean over rows, and over the positives of each; rows without positives or negatives are left out."""
    rows = positive.any(dim=1) & negative.any(dim=1)
    if not rows.any():
        return logits.sum() * 0.0
    logits, positive, negative = logits[rows], positive[rows], negative[rows]
    against = logits.masked_fill(~negative, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    each = F.softplus(against - logits).masked_fill(~positive, 0.0).sum(dim=1) / positive.sum(dim=1)
    return each.mean()


def agreement_contrast(texts: torch.Tensor, same: torch.Tensor, apart: torch.Tensor) -> torch.Tensor:
    """Of texts (N, E) of any length: those of the same mention, (N, N) bool, against those apart (N, N)."""
    unit = F.normalize(texts, dim=-1)
    return one_way_contrast(unit @ unit.T / SHARPNESS, same, apart)


def view_contrast(
    first: torch.Tensor, second: torch.Tensor, same: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """NT-Xent (Chen et al., 2020) between two views (B, E) of B volumes; other series of the same subject are no negatives."""
    logits = first @ second.T / temperature
    own = torch.eye(len(first), dtype=torch.bool, device=first.device)
    return many_positive_contrast(logits, own, ~same)
