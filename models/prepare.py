"""A volume becomes the encoder's input: the only preprocessing, used by train, encode and search alike.

Decisions:
- The grid stays along the volume's own axes (RAS+ order, oblique as acquired); resampling is isotropic in millimetres,
  so shapes keep their proportions, and the rest of the box is padding that the encoder masks.
- The box is laid around the body, not around the field of view, so that empty margins and skull-stripped canvases
  lead to the same picture.
- Intensity is mapped by v / (v + body mean): invariant to linear rescaling, and bright scalp or vessels cannot darken
  the rest as they do with percentile windows.
- Average pooling before interpolation, so that fine acquisitions do not alias.
- A canvas is the same picture in finer voxels, on a box as large as it takes: windows are cut from it (training.windows), and
  do not change the brightness of what they show.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from models.config import Edges, PrepareConfig, edges, family_of
from models.errors import DecipherError
from models.volume import Volume

GEOMETRY = 7
"""natural logs of: native spacing (3), field of view (3), edge of the box's voxels (1); all in mm"""
WORTHWHILE = 1.25
"""how much finer than the box's voxels a canvas is at least; below, it is the box"""
LARGEST = 48
"""boxes whose voxels a canvas holds, at most: a larger field of view is shown in coarser voxels"""


@dataclass(frozen=True)
class Prepared:
    """One encoder input, or a batch of them with a leading axis B.

    pixels (1, I, J, K) float32 in 0..1, the box; content (3, 2) int64, the first and past-the-last voxel of each axis that
    holds data rather than padding; geometry (7,) float32; affine_mm (4, 4) float64, box voxel to RAS+ millimetres; family ()
    int64, the sequence's place in FAMILIES, -1 where it is unknown; one value may be given for a whole batch.
    """

    pixels: torch.Tensor
    content: torch.Tensor
    geometry: torch.Tensor
    affine_mm: torch.Tensor
    family: torch.Tensor = field(default_factory=lambda: torch.tensor(-1))

    def __post_init__(self) -> None:
        wanted = self.pixels.shape[:-4]
        if self.family.shape != wanted:
            object.__setattr__(self, "family", self.family.to(self.pixels.device).expand(wanted))

    def to(self, device: torch.device) -> "Prepared":
        return Prepared(*(getattr(self, f).to(device) for f in Prepared.__dataclass_fields__))


def collate(items: list[Prepared]) -> Prepared:
    """Stack single inputs into a batch."""
    return Prepared(*(torch.stack([getattr(i, f) for i in items]) for f in Prepared.__dataclass_fields__))


def prepare(volume: Volume, config: PrepareConfig) -> Prepared:
    """Crop to the body, resample to isotropic voxels in the box, normalise intensity. Deterministic, no randomness.

    Errors: DecipherError when the volume is empty (one constant value).
    """
    return _prepared(volume, config, None)


def canvas(volume: Volume, config: PrepareConfig, finest_mm: float) -> Prepared:
    """As `prepare`, in voxels of the volume's own size but no finer than `finest_mm`, on a box of at least the config's edges.

    It is what `prepare` gives where that is about as fine. Errors: as `prepare` has.
    """
    return _prepared(volume, config, finest_mm)


def _prepared(volume: Volume, config: PrepareConfig, finest_mm: float | None) -> Prepared:
    data = torch.from_numpy(_finite(volume.data[0]))
    floor, body_mean = _intensity_scale(_thin(data, max(config.box)))
    low, high = _body_bounds(data, floor, body_mean, config)
    crop = data[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    voxel_mm, box = float(max((high - low) * volume.spacing_mm / config.box)), config.box
    if finest_mm is not None:
        voxel_mm, box = _finer((high - low) * volume.spacing_mm, volume.spacing_mm, voxel_mm, box, finest_mm)
    block, first_mm, step_mm = _resample(crop, volume.spacing_mm, voxel_mm, box)
    value = (block - floor).clamp_(min=0)
    value = value / (value + body_mean)
    pixels, content = _centre(value, box)
    affine = _box_affine(volume, low, first_mm, step_mm, content)
    geometry = np.log(np.concatenate([volume.spacing_mm, volume.extent_mm, [voxel_mm]]))
    return Prepared(
        pixels[None],
        content,
        torch.tensor(geometry, dtype=torch.float32),
        torch.from_numpy(affine),
        torch.tensor(family_of(volume.sequence)),
    )


def _finite(data: np.ndarray) -> np.ndarray:
    """NaN and Inf as 0; the array itself where there are none, since most have none and the copy takes as long as the rest."""
    return data if np.isfinite(data).all() else np.nan_to_num(data, posinf=0.0, neginf=0.0)


def _thin(data: torch.Tensor, most: int) -> torch.Tensor:
    """Every n-th voxel of each axis: enough for statistics, at a fraction of the reading."""
    steps = [max(1, n // most) for n in data.shape]
    return data[:: steps[0], :: steps[1], :: steps[2]]


def _intensity_scale(sample: torch.Tensor) -> tuple[float, float]:
    """(floor, mean of the body above the floor); the body is what is brighter than the overall mean."""
    flat = sample.flatten()
    for floor in (flat.kthvalue(max(1, flat.numel() // 100)).values, flat.min()):
        above = (flat - floor).clamp(min=0)
        body = above[above > above.mean()]
        if body.numel():
            return float(floor), float(body.mean())
    raise DecipherError("The volume is empty: all its voxels have one value.", "Leave it out of the archive.")


def _body_bounds(
    data: torch.Tensor, floor: float, body_mean: float, config: PrepareConfig
) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last voxel of each axis: where at least 0.5 % of a slab is body, and one thin step around."""
    most = max(config.box)
    thin = _thin(data, most)
    above = (thin - floor).clamp(min=0)
    body = (above / (above + body_mean) > config.body).float()
    low, high = [], []
    for axis in range(3):
        share = body.mean(dim=[a for a in range(3) if a != axis])
        rows = torch.nonzero(share >= min(0.005, float(share.max())))[:, 0]
        step = max(1, data.shape[axis] // most)
        low.append(max(0, (int(rows[0]) - 1) * step))
        high.append(min(data.shape[axis], (int(rows[-1]) + 2) * step))
    return np.array(low), np.array(high)


def _finer(
    body_mm: np.ndarray, spacing_mm: np.ndarray, voxel_mm: float, box: Edges, finest_mm: float
) -> tuple[float, Edges]:
    """Edge of a canvas's voxels and its edges, for a body of (3,) mm; the box's own where finer is not worth while."""
    smallest = float((body_mm.prod() / (LARGEST * np.prod(box))) ** (1 / 3))
    own = max(finest_mm, float(spacing_mm.prod() ** (1 / 3)), smallest)
    if voxel_mm < WORTHWHILE * own:
        return voxel_mm, box
    return own, edges(np.maximum(box, np.ceil(body_mm / own - 1e-6)).astype(int).tolist())


def _resample(
    crop: torch.Tensor, spacing_mm: np.ndarray, voxel_mm: float, box: Edges
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Average-pool, then interpolate to voxel_mm. Returns the block, and in mm from the crop's first voxel centre:
    the block's first voxel centre (3,) and its voxel step (3,)."""
    factor = [int(max(1, min(n, voxel_mm // s))) for n, s in zip(crop.shape, spacing_mm, strict=True)]
    pooled = F.avg_pool3d(crop[None, None], factor)
    covered_mm = np.array(pooled.shape[2:]) * factor * spacing_mm
    size = np.clip(np.rint(covered_mm / voxel_mm), 1, box).astype(int)
    block = F.interpolate(pooled, size=size.tolist(), mode="trilinear", align_corners=False)[0, 0]
    step_mm = covered_mm / size
    return block, (step_mm - spacing_mm) / 2, step_mm


def _centre(block: torch.Tensor, box: Edges) -> tuple[torch.Tensor, torch.Tensor]:
    """The block in the middle of a zero box, and where it lies."""
    low = [(edge - n) // 2 for edge, n in zip(box, block.shape, strict=True)]
    content = torch.tensor([[a, a + n] for a, n in zip(low, block.shape, strict=True)])
    pixels = torch.zeros(box)
    pixels[tuple(slice(a, b) for a, b in content.tolist())] = block
    return pixels, content


def _box_affine(
    volume: Volume, low: np.ndarray, first_mm: np.ndarray, step_mm: np.ndarray, content: torch.Tensor
) -> np.ndarray:
    """Box voxel index to RAS+ mm, through the volume's own affine."""
    first_voxel = low + first_mm / volume.spacing_mm
    step_voxel = step_mm / volume.spacing_mm
    within = np.eye(4)
    within[:3, :3] = np.diag(step_voxel)
    within[:3, 3] = first_voxel - step_voxel * content[:, 0].numpy()
    return volume.affine_mm @ within
