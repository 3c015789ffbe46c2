"""The frames of one DICOM file, whichever way it holds them.

Design: four layouts, one result. A classic file is one frame. An enhanced file has functional groups, per frame or shared.
A Siemens mosaic is one frame cut into tiles: its position is that of the whole mosaic's corner and is moved to the first
tile's, and the slice normal and count come from the CSA header. A UIH grid lists a position for every tile. A file of
many frames without any of these does not say where they lie, and is refused.
"""

import math
from collections.abc import Hashable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from index.frames import Frame
from index.ledger import Rejection
from index.sequence import Tags
from index.tags import (
    PRIVATE_B_VALUES,
    SIEMENS_CSA,
    SIEMENS_MOSAIC_COUNT,
    UIH_GRID,
    b_value_of,
    direction_of,
    interned,
    number,
    numbers,
    remembered,
    text,
    value,
    words,
)

MAX_PIXELS = 1 << 31
_CONTRAST_KEYS = (
    "ImageType",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "ScanningSequence",
    *PRIVATE_B_VALUES,
)
_MACROS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "FrameContentSequence",
    "MRImageFrameTypeSequence",
    "MREchoSequence",
    "MRDiffusionSequence",
    "MRTimingAndRelatedParametersSequence",
    "MRModifierSequence",
    "CardiacSynchronizationSequence",
)


def frames_of(dataset: Any, file: str, tags: Tags) -> list[Frame]:
    """All frames of a data set read without pixels. Raises Rejection: no_geometry, bad_geometry, bad_header."""
    rows, columns = int(number(dataset, "Rows") or 0), int(number(dataset, "Columns") or 0)
    count = int(number(dataset, "NumberOfFrames") or 1)
    if rows < 2 or columns < 2 or not 1 <= rows * columns * count <= MAX_PIXELS:
        raise Rejection("bad_header", f"{count} frames of {rows} x {columns}")
    per_frame = value(dataset, "PerFrameFunctionalGroupsSequence")
    if per_frame:
        return _enhanced(dataset, list(per_frame), file, tags, rows, columns, count)
    if count > 1:
        raise Rejection("no_geometry", f"{count} frames without functional groups")
    if value(dataset, UIH_GRID):
        return _grid(dataset, file, tags, rows, columns)
    frame = _frame(dataset, [dataset], file, 0, tags, rows, columns)
    if "MOSAIC" in tags.get("image_type", ()):
        return _mosaic(dataset, frame)
    return [frame]


def _frame(dataset: Any, groups: list[Any], file: str, index: int, tags: Tags, rows: int, columns: int) -> Frame:
    """One frame, its attributes being those of the first of `groups` that has them."""
    position = _first(groups, "ImagePositionPatient", 3)
    return Frame(
        file=file,
        index=index,
        tile=None,
        rows=rows,
        columns=columns,
        position_mm=position,
        orientation=_orientation(_first(groups, "ImageOrientationPatient", 6)),
        spacing_mm=_spacing(_first(groups, "PixelSpacing", 2)),
        contrast=_contrast_of_file(dataset) if groups[0] is dataset else _contrast(groups),
        moment=_moment(groups),
        thickness_mm=_number(groups, "SliceThickness") or 1.0,
        instance_number=_whole(number(dataset, "InstanceNumber")),
        tags=tags,
    )


def _first(groups: list[Any], key: str, length: int) -> tuple[float, ...]:
    for group in groups:
        found = numbers(group, key)
        if len(found) == length:
            return found
    raise Rejection("no_geometry", f"{key} is missing or no {length} numbers")


@lru_cache(maxsize=4096)
def _orientation(found: tuple[float, ...]) -> tuple[float, ...]:
    row, column = np.array(found[:3]), np.array(found[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(row @ column) > 0.01:
        raise Rejection("bad_geometry", f"orientation {found}")
    return tuple(float(one) for one in (*row / lengths[0], *column / lengths[1]))


def _spacing(found: tuple[float, ...]) -> tuple[float, ...]:
    if min(found) <= 0:
        raise Rejection("bad_geometry", f"pixel spacing {found}")
    return found


def _whole(found: float | None) -> int | None:
    return None if found is None else int(found)


@remembered(*_CONTRAST_KEYS)
def _contrast_of_file(dataset: Any) -> tuple[Hashable, ...]:
    return _contrast([dataset])


def _contrast(groups: list[Any]) -> tuple[Hashable, ...]:
    """What makes this frame another image than its neighbours, in the order of frames.CONTRASTS."""
    kinds = next((kind for group in groups for key in ("FrameType", "ImageType") if (kind := words(group, key))), ())
    echo = _number(groups, "EffectiveEchoTime", "EchoTime")
    inversion = _number(groups, "InversionTimes", "InversionTime")
    b_value = next((found for group in groups if (found := b_value_of(group)) is not None), None)
    return (
        "/".join(kinds[2:]) or None,
        None if echo is None else round(echo, 2),
        None if inversion is None else round(inversion, 1),
        _number(groups, "FlipAngle"),
        None if b_value is None else shell_of(b_value),
    )


def shell_of(b_value: float) -> float:
    """The nominal weighting of a measured b-value: to 5 s/mm2 below 200, to 50 above."""
    step = 5 if b_value < 200 else 50
    return float(step * round(b_value / step))


def _moment(groups: list[Any]) -> tuple[Hashable, ...]:
    """When this frame was taken, in the order of frames.MOMENTS."""
    direction = next((found for group in groups if (found := direction_of(group)) is not None), None)
    clock = next((told for group in groups if (told := text(group, "AcquisitionTime"))), None)
    return (
        _number(groups, "TemporalPositionIndex", "TemporalPositionIdentifier"),
        _number(groups, "NominalCardiacTriggerDelayTime", "TriggerTime"),
        _number(groups, "AcquisitionNumber", "FrameAcquisitionNumber"),
        direction,
        clock,
    )


def _number(groups: list[Any], *keys: str) -> float | None:
    for key in keys:
        for group in groups:
            if (found := number(group, key)) is not None:
                return found
    return None


def _enhanced(
    dataset: Any, per_frame: list[Any], file: str, tags: Tags, rows: int, columns: int, count: int
) -> list[Frame]:
    if len(per_frame) != count:
        raise Rejection("bad_header", f"{count} frames, {len(per_frame)} functional groups")
    shared = [group for item in value(dataset, "SharedFunctionalGroupsSequence") or [] for group in _macros(item)]
    frames = []
    for index, item in enumerate(per_frame):
        groups = [*_macros(item), *shared, dataset]
        frames.append(_frame(dataset, groups, file, index, _timed(groups, tags), rows, columns))
    return frames


def _macros(item: Any) -> list[Any]:
    """The single items of the functional group macros that are read here."""
    found = [inner[0] for name in _MACROS if (inner := value(item, name))]
    return found + [inner[0] for group in found if (inner := value(group, "DiffusionGradientDirectionSequence"))]


def _timed(groups: list[Any], tags: Tags) -> Tags:
    """The file's tags with this frame's own timing."""
    own = {
        "image_type": next((kind for group in groups if (kind := words(group, "FrameType"))), None),
        "echo_time_ms": _number(groups, "EffectiveEchoTime", "EchoTime"),
        "repetition_time_ms": _number(groups, "RepetitionTime"),
        "inversion_time_ms": _number(groups, "InversionTimes", "InversionTime"),
        "flip_angle_deg": _number(groups, "FlipAngle"),
        "echo_train_length": _number(groups, "EchoTrainLength"),
        "b_value": next((found for group in groups if (found := b_value_of(group)) is not None), None),
    }
    return interned(
        tuple({**tags, **{name: one for name, one in own.items() if one is not None and one != ()}}.items())
    )


def _mosaic(dataset: Any, whole: Frame) -> list[Frame]:
    """Siemens mosaic: tiles row by row, as many as the header counts."""
    count, normal, gap_mm = _mosaic_layout(dataset, whole)
    side = math.ceil(math.sqrt(count))
    if whole.rows % side or whole.columns % side:
        raise Rejection("bad_geometry", f"a mosaic of {whole.rows} x {whole.columns} for {count} slices")
    rows, columns = whole.rows // side, whole.columns // side
    along_row, along_column = np.array(whole.orientation[:3]), np.array(whole.orientation[3:])
    corner = (
        np.array(whole.position_mm)
        + along_row * whole.spacing_mm[1] * (whole.columns - columns) / 2
        + along_column * whole.spacing_mm[0] * (whole.rows - rows) / 2
    )
    return [
        replace(
            whole, tile=tile, rows=rows, columns=columns, position_mm=tuple(map(float, corner + normal * gap_mm * tile))
        )
        for tile in range(count)
    ]


def _mosaic_layout(dataset: Any, whole: Frame) -> tuple[int, np.ndarray, float]:
    """Number of slices, their normal, and the distance between them in mm."""
    from nibabel.nicom import csareader

    raw = value(dataset, SIEMENS_CSA)
    if not isinstance(raw, bytes):
        raise Rejection("no_geometry", "a mosaic without its CSA header")
    header = csareader.read(raw)
    count = csareader.get_n_mosaic(header) or _whole(number(dataset, SIEMENS_MOSAIC_COUNT))
    normal = csareader.get_slice_normal(header)
    gap_mm = number(dataset, "SpacingBetweenSlices") or number(dataset, "SliceThickness")
    if not count or normal is None or not gap_mm:
        raise Rejection("no_geometry", "a mosaic without slice count, normal or spacing")
    if abs(float(np.asarray(normal) @ whole.normal)) < 0.99:
        raise Rejection("bad_geometry", "the mosaic's slice normal disagrees with its orientation")
    return int(count), np.asarray(normal, dtype=np.float64), gap_mm


def _grid(dataset: Any, file: str, tags: Tags, rows: int, columns: int) -> list[Frame]:
    """UIH grid: a square-ish sheet of tiles, row by row, each with its own position."""
    items = list(value(dataset, UIH_GRID))
    across = math.ceil(math.sqrt(len(items)))
    down = math.ceil(len(items) / across)
    if rows % down or columns % across:
        raise Rejection("bad_geometry", f"a grid of {rows} x {columns} for {len(items)} slices")
    tiles = [_frame(dataset, [item, dataset], file, 0, tags, rows // down, columns // across) for item in items]
    return [replace(frame, tile=tile) for tile, frame in enumerate(tiles)]
