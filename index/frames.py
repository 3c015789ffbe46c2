"""Frames to volumes: one image each, with its place in the patient, sorted into stacks that are never a blend.

Design: a series is split by what makes images differ (geometry, then contrast, then time) before anything is stacked. Time
is looked at only where positions repeat, because acquisition and trigger times also differ within one good stack. Slice
spacing comes from positions, never from thickness. What is not an even, straight, complete stack is refused by name.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from index.geometry import check_affine
from index.ledger import Rejection
from index.sequence import Tags

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATION_TOLERANCE = 2e-3
SAME_PLACE_MM = 0.02
SPACING_TOLERANCE = 0.05
ROUNDING_MM = 0.06
TILT_TOLERANCE = 0.01
CROSSING_COSINE = 0.7071

CONTRASTS = ("type", "echo", "ti", "flip", "b")
MOMENTS = ("temporal", "trigger", "acquisition", "direction", "clock")


@dataclass(frozen=True, slots=True)
class Frame:
    """One image: where its pixels lie (file, frame index, tile of a mosaic) and where they lie in the patient (LPS mm).

    position_mm (3) is the centre of the first pixel, orientation (6) the directions along a row and along a column,
    spacing_mm (2) between rows and between columns, as in DICOM; thickness_mm counts where there is no
    next slice. `contrast` and `moment` follow CONTRASTS and MOMENTS.
    """

    file: str
    index: int
    tile: int | None
    rows: int
    columns: int
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    contrast: tuple[Hashable, ...] = (None,) * len(CONTRASTS)
    moment: tuple[Hashable, ...] = (None,) * len(MOMENTS)
    thickness_mm: float = 1.0
    instance_number: int | None = None
    tags: Tags = field(default_factory=Tags)

    @property
    def normal(self) -> np.ndarray:
        a, b, c, d, e, f = self.orientation
        return np.array([b * f - c * e, c * d - a * f, a * e - b * d])


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames of one volume in slice order; `shape` and `affine_mm` (RAS+) are those of the array (column, row, slice)."""

    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine_mm: np.ndarray
    part: str | None = None

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(frame.file for frame in self.frames))


@dataclass(frozen=True)
class Refused:
    """Frames that form no volume, and why."""

    frames: tuple[Frame, ...]
    code: str
    detail: str = ""


def volumes(frames: list[Frame], min_slices: int) -> tuple[list[Stack], list[Refused]]:
    """Every good volume of one series, in order of geometry, contrast and time, and what was refused."""
    geometries = _by_geometry(frames)
    if _crossing([group[0] for group in geometries]):
        return [], [Refused(tuple(frames), "mixed_orientation", f"{len(geometries)} orientations")]
    stacks: list[Stack] = []
    refused: list[Refused] = []
    for number, group in enumerate(geometries):
        label = [f"stack={number}"] if len(geometries) > 1 else []
        for contrast, alike in _by_contrast(group):
            try:
                moments = _by_moment(alike)
            except Rejection as rejection:
                refused.append(Refused(tuple(alike), rejection.code, rejection.detail))
                continue
            complete = max(len(one) for one in moments)
            for time, one in enumerate(moments):
                part = [*label, *contrast, *([f"t={time}"] if len(moments) > 1 else [])]
                try:
                    if len(one) < complete:
                        raise Rejection("incomplete_volume", f"{len(one)} of {complete} slices")
                    stacks.append(replace(stacked(one, min_slices), part=",".join(part) or None))
                except Rejection as rejection:
                    refused.append(Refused(tuple(one), rejection.code, rejection.detail))
    return stacks, refused


def of_part(stacks: list[Stack], part: str | None) -> Stack | None:
    """The stack that a record's part names; the only one, where there is one."""
    return next((stack for stack in stacks if len(stacks) == 1 or stack.part == part), None)


def _by_geometry(frames: list[Frame]) -> list[list[Frame]]:
    groups: dict[tuple[Any, ...], list[Frame]] = defaultdict(list)
    known: list[np.ndarray] = []
    nearest: dict[tuple[float, ...], int] = {}
    for frame in frames:
        key = frame.orientation
        if key not in nearest:
            nearest[key] = _nearest(known, np.array(key))
        groups[nearest[key], frame.rows, frame.columns, *(round(edge, 3) for edge in frame.spacing_mm)].append(frame)
    return [groups[key] for key in sorted(groups)]


def _nearest(known: list[np.ndarray], orientation: np.ndarray) -> int:
    for number, other in enumerate(known):
        if np.abs(other - orientation).max() < ORIENTATION_TOLERANCE:
            return number
    known.append(orientation)
    return len(known) - 1


def _crossing(frames: list[Frame]) -> bool:
    first = frames[0].normal
    return any(abs(float(first @ frame.normal)) < CROSSING_COSINE for frame in frames[1:])


def _by_contrast(frames: list[Frame]) -> list[tuple[list[str], list[Frame]]]:
    groups = _grouped(frames, lambda frame: frame.contrast)
    differing = [number for number in range(len(CONTRASTS)) if len({key[number] for key in groups}) > 1]
    keys = sorted(groups, key=lambda key: [_sortable(key[number]) for number in range(len(CONTRASTS))])
    return [([f"{CONTRASTS[n]}={_written(key[n])}" for n in differing], groups[key]) for key in keys]


def _sortable(value: Any) -> tuple[bool, float, str]:
    return value is not None, value if isinstance(value, int | float) else 0.0, str(value)


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value or "none")


def _grouped(frames: Iterable[Frame], key: Callable[[Frame], Any]) -> dict[Any, list[Frame]]:
    groups: dict[Any, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    return groups


def _by_moment(frames: list[Frame]) -> list[list[Frame]]:
    """Frames of one contrast as volumes in time order. Raises Rejection duplicate_position where nothing tells them apart."""
    slots = _slots(frames)
    distinct = len(set(slots.values()))
    if distinct == len(frames):
        return [frames]
    for number in range(len(MOMENTS)):
        groups = _grouped(frames, _moment_getter(number))
        sizes = [len(group) for group in groups.values()]
        unique = all(len({slots[id(frame)] for frame in group}) == len(group) for group in groups.values())
        if None not in groups and unique and max(sizes) == distinct:
            return [groups[key] for key in sorted(groups, key=_sortable)]
    return _by_occurrence(frames, slots)


def _moment_getter(number: int) -> Callable[[Frame], Hashable]:
    return lambda frame: frame.moment[number]


def _positions(frames: list[Frame]) -> np.ndarray:
    return np.array([frame.position_mm for frame in frames])


def _slots(frames: list[Frame]) -> dict[int, int]:
    """Number of the slice position of each frame, by id."""
    depths_mm = _positions(frames) @ frames[0].normal
    order = np.argsort(depths_mm, kind="stable")
    steps = np.diff(depths_mm[order], prepend=depths_mm[order[0]]) > SAME_PLACE_MM
    return {id(frames[place]): int(slot) for place, slot in zip(order, np.cumsum(steps), strict=True)}


def _by_occurrence(frames: list[Frame], slots: dict[int, int]) -> list[list[Frame]]:
    counts = Counter(slots.values())
    orders = [(frame.instance_number, frame.file, frame.index) for frame in frames]
    numbered = all(order[0] is not None for order in orders) or len({order[1] for order in orders}) == 1
    if len(set(counts.values())) > 1 or not numbered:
        raise Rejection("duplicate_position", f"{len(frames)} slices in {len(counts)} places")
    passes: list[list[Frame]] = [[] for _ in range(next(iter(counts.values())))]
    seen: Counter[int] = Counter()
    for frame in sorted(frames, key=lambda frame: (frame.instance_number or 0, frame.file, frame.index)):
        slot = slots[id(frame)]
        passes[seen[slot]].append(frame)
        seen[slot] += 1
    return passes


def stacked(frames: list[Frame], min_slices: int) -> Stack:
    """Frames of one volume sorted along their normal. Raises Rejection where they are no even, straight stack.

    A single slice is as thick as its header says, 1 mm where it does not.
    """
    if len(frames) < min_slices:
        raise Rejection("too_few_slices", f"{len(frames)} of at least {min_slices}")
    first, positions = frames[0], _positions(frames)
    normal = first.normal
    order = np.argsort(positions @ normal, kind="stable")
    ordered, positions = [frames[place] for place in order], positions[order]
    _check_even(positions @ normal)
    _check_straight(positions, normal)
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing_mm[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing_mm[0]
    affine[:3, 2] = (
        (positions[-1] - positions[0]) / (len(frames) - 1) if len(frames) > 1 else normal * first.thickness_mm
    )
    affine[:3, 3] = positions[0]
    affine = LPS_TO_RAS @ affine
    check_affine(affine)
    return Stack(tuple(ordered), (first.columns, first.rows, len(ordered)), affine)


def _check_even(depths_mm: np.ndarray) -> None:
    gaps = np.diff(depths_mm)
    if len(gaps) == 0:
        return
    grid = np.linspace(depths_mm[0], depths_mm[-1], len(depths_mm))
    mean = float(gaps.mean())
    if np.abs(depths_mm - grid).max() <= max(SPACING_TOLERANCE * mean, ROUNDING_MM):
        return
    usual = float(np.median(gaps))
    multiples = gaps / usual
    whole = np.abs(multiples - np.round(multiples)).max() < 0.1
    detail = f"gaps from {gaps.min():.3f} to {gaps.max():.3f} mm"
    raise Rejection("missing_slice" if whole and multiples.min() > 0.5 else "uneven_spacing", detail)


def _check_straight(positions_mm: np.ndarray, normal: np.ndarray) -> None:
    moved = positions_mm - positions_mm[0]
    sideways = moved - np.outer(moved @ normal, normal)
    length = float(abs(moved[-1] @ normal))
    if np.linalg.norm(sideways, axis=1).max() > max(TILT_TOLERANCE * length, 2 * ROUNDING_MM):
        raise Rejection("sheared", f"{np.linalg.norm(sideways[-1]):.2f} mm sideways over {length:.2f} mm")
