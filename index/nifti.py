"""NIfTI-1 and NIfTI-2 files: header to geometry, pixels to a volume.

Design: the affine is the sform where its code is set, else the qform; a header with neither says where nothing lies, and is
refused. Pixels are unpacked by isal, scaled once by scl_slope and scl_inter, and NaN and Inf become 0. The fourth axis
holds volumes. A volume needs two voxels along each axis: `min_slices` is about stacks assembled here from single images,
and a NIfTI file was assembled by its maker.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.finding import GZIP_MAGIC, named_damage, open_unpacked
from index.geometry import check_affine
from index.intensity import finite_float32, rescaled
from index.ledger import Rejection
from models.volume import Volume, to_ras


@dataclass(frozen=True)
class NiftiHeader:
    """Shape (I, J, K), number of volumes, dtype, offset of the first voxel, scaling, RAS+ affine in mm, voxel file."""

    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype
    offset_bytes: int
    slope: float
    intercept: float
    affine_mm: np.ndarray
    data_path: Path

    @property
    def volume_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> NiftiHeader:
    """The header of a .nii, .nii.gz or .hdr file. Raises Rejection."""
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError

    head = read_bytes(path, 0, 544)
    sizes = {int(np.frombuffer(head[:4], order)[0]) for order in ("<i4", ">i4")}
    version = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header
    magic = head[4:8] if 540 in sizes else head[344:348]
    if magic[:3] not in (b"n+1", b"ni1", b"n+2", b"ni2"):
        code = "no_geometry" if path.suffix.lower() == ".hdr" else "bad_header"
        raise Rejection(code, "an ANALYZE header, or a damaged NIfTI header: no NIfTI magic")
    try:
        header = version(head[: version.template_dtype.itemsize], check=False)
        return _described(path, header, magic[:3] in (b"ni1", b"ni2"))
    except (HeaderDataError, ValueError, KeyError, OverflowError) as error:
        raise Rejection("bad_header", str(error)) from None


def _described(path: Path, header: Any, pair: bool) -> NiftiHeader:
    shape, volumes = _shape(header)
    dtype = _dtype(header)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        slope, intercept = 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise Rejection("bad_header", f"scl_slope {slope}, scl_inter {intercept}")
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or offset < 0:
        raise Rejection("bad_header", f"vox_offset {offset}")
    data_path = _data_path(path) if pair else path
    minimum = 0 if pair else header.template_dtype.itemsize + 4
    start = max(int(offset), minimum)
    return NiftiHeader(shape, volumes, dtype, start, slope, intercept, _affine(header), data_path)


def _shape(header: Any) -> tuple[tuple[int, int, int], int]:
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise Rejection("bad_header", f"dim[0] is {count}")
    dims = [int(size) for size in header["dim"][1 : count + 1]]
    if min(dims) < 1:
        raise Rejection("bad_header", f"dimensions {dims}")
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    if len(dims) > 4:
        raise Rejection("unsupported_shape", f"dimensions {dims}")
    if len(dims) < 3 or min(dims[:3]) < 2:
        raise Rejection("too_few_slices", f"dimensions {dims}")
    return (dims[0], dims[1], dims[2]), dims[3] if len(dims) == 4 else 1


def _dtype(header: Any) -> np.dtype:
    dtype = np.dtype(header.get_data_dtype())
    if dtype.fields or dtype.kind not in "iuf":
        raise Rejection("not_grayscale", f"voxels of type {dtype}")
    return dtype


def _affine(header: Any) -> np.ndarray:
    if int(header["sform_code"]) > 0:
        affine = np.asarray(header.get_sform(), dtype=np.float64)
    elif int(header["qform_code"]) > 0:
        affine = np.asarray(header.get_qform(), dtype=np.float64)
    else:
        raise Rejection("no_geometry", "neither sform_code nor qform_code is set")
    units = header.get_xyzt_units()[0]
    if units not in ("mm", "unknown"):
        raise Rejection("bad_geometry", f"spatial unit is {units}")
    check_affine(affine)
    return affine


def _data_path(path: Path) -> Path:
    name = path.name
    for ending in (".hdr.gz", ".hdr"):
        if name.lower().endswith(ending):
            stem = name[: -len(ending)]
            for data in (stem + ".img", stem + ".img.gz", stem + ".IMG"):
                if path.with_name(data).is_file():
                    return path.with_name(data)
    raise Rejection("no_pixels", "a header without its .img file")


def read_bytes(path: Path, start: int, count: int) -> bytes:
    """`count` bytes from `start` of the unpacked file, or fewer at its end. Raises Rejection."""
    with named_damage(), open_unpacked(path) as stream:
        stream.seek(start)
        return stream.read(count)


def check_size(header: NiftiHeader) -> None:
    """Raise Rejection truncated when the file cannot hold the voxels its header claims; unpacks nothing.

    A gzip stream grows at most 1032-fold when it is unpacked (RFC 1951), so that no claim can exhaust the memory.
    """
    needed = header.offset_bytes + header.volume_bytes * header.volumes
    size = header.data_path.stat().st_size
    with header.data_path.open("rb") as stream:
        most = size * 1032 if stream.read(2) == GZIP_MAGIC else size
    if most < needed:
        raise Rejection("truncated", f"{needed} bytes are claimed, the file has {size}")


def read_stored(header: NiftiHeader, volume: int) -> np.ndarray:
    """One volume (I, J, K) as stored, unscaled, in the file's byte order. Raises Rejection."""
    check_size(header)
    raw = bytearray(header.volume_bytes)
    filled = 0
    with named_damage(), open_unpacked(header.data_path) as stream:
        stream.seek(header.offset_bytes + volume * header.volume_bytes)
        while filled < len(raw) and (count := stream.readinto(memoryview(raw)[filled:])):
            filled += count
        stream.read(1)
    if filled < len(raw):
        raise Rejection("truncated", f"{len(raw)} bytes are claimed, {filled} are there")
    return np.frombuffer(raw, header.dtype).reshape(header.shape, order="F")


def read_part(path: Path, volume: int) -> Volume:
    """Volume number `volume` of the file in RAS+ order, scaled, float32; NaN and Inf are 0. Raises Rejection."""
    header = read_header(path)
    if not 0 <= volume < header.volumes:
        raise Rejection("changed", f"volume {volume} of {header.volumes}")
    data = rescaled(read_stored(header, volume), header.slope, header.intercept)
    return to_ras(finite_float32(data), header.affine_mm)
