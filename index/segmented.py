"""A mask out of a DICOM Segmentation object, on the grid of the volume that it was drawn on.

Decisions:
- Frames go to where they say they lie, so that an object of a few slices of a series, in any order, is read as well.
- They are never resampled: a frame that lies between the volume's voxels, or across them, is another geometry.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from index.dicom import named_errors
from index.frames import LPS_TO_RAS, Frame
from index.ledger import Rejection
from index.multiframe import frames_of
from index.sequence import Tags

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
LABELMAP = "LABELMAP"
APART = 0.1
"""of the smallest voxel edge: how far a frame's corners may lie from the volume's voxels"""


def is_dicom(path: Path) -> bool:
    """Whether the file says that it is DICOM."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_seg(path: Path, record: Mapping[str, Any], segment: int | None = None) -> np.ndarray:
    """bool (I, J, K) on the RAS+ grid of `record`: what a segment, by its number, or any of them marks.

    Raises Rejection where the file is no such object, or lies elsewhere than the record's volume.
    """
    dataset = _opened(path)
    numbers = [int(one.SegmentNumber) for one in dataset.get("SegmentSequence", [])]
    if segment is not None and segment not in numbers:
        raise Rejection("bad_header", f"its segments are {', '.join(map(str, numbers))}, and not {segment}")
    found = np.zeros(record["shape"], dtype=bool)
    for number, (frame, image) in enumerate(_frames(dataset, segment), start=1):
        where = _voxels(frame, record)
        if where is None:
            raise Rejection("bad_geometry", f"frame {number} does not lie on voxels of {record['path']}")
        found[tuple(where)] |= image
    return found


def _opened(path: Path) -> Any:
    import pydicom

    with named_errors("bad_header"):
        dataset = pydicom.dcmread(path)
        if dataset.get("SOPClassUID") not in SEG_CLASSES:
            raise Rejection("not_an_image", "a DICOM object that is no segmentation")
        return dataset


def _frames(dataset: Any, segment: int | None) -> Iterator[tuple[Frame, np.ndarray]]:
    """Each frame that is asked for, and what it marks: bool (rows, columns)."""
    with named_errors("undecodable"):
        pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
        half = dataset.get("MaximumFractionalValue", 1) / 2
        frames = frames_of(dataset, "", Tags())
        numbers = [_segment_of(dataset, place) for place in range(len(frames))]
    for frame, number, image in zip(frames, numbers, pixels, strict=True):
        if dataset.SegmentationType == LABELMAP:
            yield frame, image > 0 if segment is None else image == segment
        elif segment in (None, number):
            yield frame, image > half


def _segment_of(dataset: Any, place: int) -> int | None:
    own, shared = dataset.PerFrameFunctionalGroupsSequence[place], dataset.SharedFunctionalGroupsSequence[0]
    for group in (own, shared):
        if "SegmentIdentificationSequence" in group:
            return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    return None


def _voxels(frame: Frame, record: Mapping[str, Any]) -> Sequence[np.ndarray] | None:
    """Indices (3 of (rows, columns)) of the volume's voxels that the frame's pixels are; None where they are none."""
    affine = np.array(record["affine_mm"]).reshape(4, 4)
    inward = np.linalg.inv(affine) @ LPS_TO_RAS
    start = (inward @ [*frame.position_mm, 1.0])[:3]
    down, across = (
        inward[:3, :3] @ np.array(direction) * step
        for direction, step in zip((frame.orientation[3:], frame.orientation[:3]), frame.spacing_mm, strict=True)
    )
    steps = np.stack([start, down, across])
    whole = np.rint(steps)
    ends = np.array([[1, i, j] for i in (0, frame.rows - 1) for j in (0, frame.columns - 1)])
    apart_mm = np.linalg.norm((ends @ (steps - whole)) @ affine[:3, :3].T, axis=1).max()
    corners = ends @ whole
    if apart_mm > APART * min(record["spacing_mm"]) or (np.abs(whole[1:]).sum(axis=1) != 1).any():
        return None
    if corners.min() < 0 or (corners >= record["shape"]).any():
        return None
    rows, columns = np.indices((frame.rows, frame.columns))
    return [(whole[0, a] + rows * whole[1, a] + columns * whole[2, a]).astype(int) for a in range(3)]
