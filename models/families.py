"""Vision encoders that know what family of sequences a volume is of: T1, FLAIR, DWI and so on (models.config.FAMILIES).

After MedMAP (arXiv 2602.23652), which gives each sequence its own encoder; the adapters are those of Houlsby et al. (2019).

Decisions:
- Two kinds. `adapters`: a shared trunk; each family adds a vector to the class token and has a narrow branch behind every
  block, which begins as zero. `encoders`: a whole encoder each. A volume of no known family takes the shared path, to the bit.
- Where vectors are made (torch.inference_mode) volumes pass their encoder two by two, an odd one with its copy: a processor
  may sum a group of another size in another order, and a vector must not depend on the others of its batch. Two and not
  one, since convolutions of a single volume are slow on CPUs.
- In training an encoder that a batch has no volume for gets zero gradients, as other processes may have one for it. Where
  weights are sharded it is run on one volume for nothing, since processes must gather the same weights at the same time.
- Weights are taken by index_select: gradients of `weight[own]` are summed by several threads in any order, and a run that was
  stopped would not end with the same bits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from models.config import FAMILIES, VisionConfig
from models.prepare import Prepared
from models.vision import Masking, VisionEncoder, VisionFeatures


class FamilyAdapter(nn.Module):
    """A residual bottleneck over tokens (B, N, width), with weights of its own for each family; zero at the start.

    down, up: the families' linear layers one after the other along the outputs, of which each volume takes its family's.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, len(FAMILIES) * inner)
        self.up = nn.Linear(inner, len(FAMILIES) * width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor, family: torch.Tensor) -> torch.Tensor:
        """family (B,) int64; volumes of family -1 come out as they are."""
        own = family.clamp(min=0)
        inner = F.gelu(_through(self.down, own, F.layer_norm(x, x.shape[-1:])))
        return torch.where((family >= 0)[:, None, None], x + _through(self.up, own, inner), x)


def _through(layers: nn.Linear, own: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Each of x (B, N, width) through layer own (B,) of those that `layers` holds."""
    weight = layers.weight.unflatten(0, (len(FAMILIES), -1)).index_select(0, own)
    bias = layers.bias.unflatten(0, (len(FAMILIES), 1, -1)).index_select(0, own)
    return x @ weight.mT + bias


class AdaptedEncoder(VisionEncoder):
    """A VisionEncoder, and for each family what it adds: `family` (F, width) to the class token, adapters to the blocks."""

    def __init__(self, config: VisionConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.family = nn.Parameter(torch.zeros(len(FAMILIES), config.width))
        self.adapters = nn.ModuleList(FamilyAdapter(config.width, config.adapter_width) for _ in range(config.depth))

    def _learned(self, batch: Prepared) -> torch.Tensor:
        learned = super()._learned(batch)
        added = torch.where((batch.family >= 0)[:, None], self.family.index_select(0, batch.family.clamp(min=0)), 0.0)
        return torch.cat([learned[:, :1] + added[:, None], learned[:, 1:]], dim=1)

    def _level(self, number: int, x: torch.Tensor, look: torch.Tensor, family: torch.Tensor) -> torch.Tensor:
        return self.adapters[number](super()._level(number, x, look, family), family)


class FamilyEncoders(nn.Module):
    """One VisionEncoder a family, and `shared` for volumes of none; called like one of them."""

    def __init__(self, config: VisionConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        plain = replace(config, families="")
        self.shared = VisionEncoder(plain, dim)
        self.encoders = nn.ModuleDict({name: VisionEncoder(plain, dim) for name in FAMILIES})

    def members(self) -> list[VisionEncoder]:
        """All encoders in the order of FAMILIES, the shared one last: family -1 is a place in this list too."""
        return [*cast(Iterable[VisionEncoder], self.encoders.values()), self.shared]

    @property
    def recompute(self) -> bool:
        """VisionEncoder's, of all members."""
        return self.shared.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        for encoder in self.members():
            encoder.recompute = value

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile each member: which volumes go where is no matter for a compiler."""
        for encoder in self.members():
            encoder.compile(*args, **kwargs)

    def forward(
        self, batch: Prepared, geometry_known: torch.Tensor | None = None, masking: Masking | None = None
    ) -> VisionFeatures:
        """As VisionEncoder.forward; volumes keep their order."""
        groups = self._groups(batch.family)
        found, places, unused = [], [], []
        for number, encoder in enumerate(self.members()):
            for rows in groups.get(number, []):
                found.append(encoder(*_rows(rows, batch, geometry_known, masking)))
                places += rows
            if number not in groups and (self.training or _is_sharded(encoder)):
                unused.append(_zero(encoder, batch, geometry_known, masking))
        features = _in_order(found, places)
        if self.training:  # where no loss looks at patches, all encoders still have gradients of the same weights
            unused.append(0 * features.patches.sum())
        return replace(features, volume=features.volume + sum(unused)) if unused else features

    def _groups(self, family: torch.Tensor) -> dict[int, list[list[int]]]:
        """{member: groups of rows} of a batch's families (B,): one group, or where vectors are made pairs, filled up."""
        of_member: dict[int, list[int]] = {}
        for row, number in enumerate((family % (1 + len(FAMILIES))).tolist()):
            of_member.setdefault(number, []).append(row)
        if self.training or not torch.is_inference_mode_enabled():
            return {number: [rows] for number, rows in of_member.items()}
        return {n: [(rows + rows[-1:])[at : at + 2] for at in range(0, len(rows), 2)] for n, rows in of_member.items()}


def _rows(
    rows: list[int], batch: Prepared, geometry_known: torch.Tensor | None, masking: Masking | None
) -> tuple[Prepared, torch.Tensor | None, Masking | None]:
    """What VisionEncoder.forward takes, of some rows."""
    return (
        Prepared(*(getattr(batch, name)[rows] for name in Prepared.__dataclass_fields__)),
        None if geometry_known is None else geometry_known[rows],
        None if masking is None else replace(masking, tokens=masking.tokens[rows]),
    )


def _in_order(parts: list[VisionFeatures], rows: list[int]) -> VisionFeatures:
    """Parts as one batch; rows says which row of it each volume of the parts, one after the other, is. Copies are equal."""
    place = {row: number for number, row in enumerate(rows)}
    order = [place[row] for row in sorted(place)]
    return VisionFeatures(
        *(torch.cat([getattr(p, n) for p in parts])[order] for n in VisionFeatures.__dataclass_fields__)
    )


def _is_sharded(encoder: VisionEncoder) -> bool:
    return any(hasattr(weight, "device_mesh") for weight in encoder.parameters())


def _zero(
    encoder: VisionEncoder, batch: Prepared, geometry_known: torch.Tensor | None, masking: Masking | None
) -> torch.Tensor:
    """Zero, and a gradient of zero for all weights of an encoder that the batch has no volume for."""
    if _is_sharded(encoder):
        found = encoder(*_rows([0], batch, geometry_known, masking))
        return 0 * (found.volume.sum() + found.patches.sum())
    trained = [weight.sum() for weight in encoder.parameters() if weight.requires_grad]
    return 0 * sum(trained, batch.pixels.new_zeros(()))


Vision = VisionEncoder | FamilyEncoders


def make_vision(config: VisionConfig, dim: int) -> Vision:
    """The encoder that config.families asks for, with fresh weights: Prepared volumes to VisionFeatures of width `dim`."""
    kinds: dict[str, type[Vision]] = {"": VisionEncoder, "adapters": AdaptedEncoder, "encoders": FamilyEncoders}
    return kinds[config.families](config, dim)


def from_plain(state: Mapping[str, torch.Tensor], vision: Vision) -> dict[str, torch.Tensor]:
    """The state_dict of a VisionEncoder of vision's sizes as one that `vision` loads, of whatever kind that is: it then gives
    all volumes the features that the plain encoder gives them.

    All encoders take the state; a shared trunk takes it too, and the adapters of vision, which is new, stay.
    """
    if isinstance(vision, FamilyEncoders):
        prefixes = ["shared.", *(f"encoders.{name}." for name in FAMILIES)]
        return {prefix + name: value for prefix in prefixes for name, value in state.items()}
    return {**vision.state_dict(), **state}


def copy_shared(vision: Vision) -> None:
    """Start all encoders from the shared one's weights; a shared trunk stays as it is."""
    if isinstance(vision, FamilyEncoders):
        vision.load_state_dict(from_plain(vision.shared.state_dict(), vision))
