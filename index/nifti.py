"""NIfTI-1 and NIfTI-2 files: header to geometry, pixels to a volume.

Design: the header is unpacked as one struct. The affine is the sform where its code is set, else the qform; a header with
neither says where nothing lies, and is refused. Where both are set and place voxels differently, the header says how far.
What other readers would guess (a negative spacing, a quaternion longer than one) is refused, not guessed.
Pixels are unpacked by isal, scaled once by scl_slope and scl_inter, and NaN and Inf become 0. The fourth axis holds
volumes. Voxels are brought to RAS+ order plane by plane, since a whole transpose misses the processor's cache.
"""

import math
import operator
import struct
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from index.finding import GZIP_MAGIC, named_damage, open_unpacked, read_head, unpacked_start
from index.geometry import check_affine, orientation_of, ras_geometry
from index.intensity import finite_float32, rescaled
from index.ledger import Rejection
from models.volume import Volume

READ_BYTES = 1 << 18
GZIP_MOST = 1032
"""a gzip stream grows at most so many times when it is unpacked (RFC 1951)"""
# dim, datatype, pixdim, vox_offset, scl_slope, scl_inter, xyzt_units, qform_code, sform_code, quatern, qoffset, srow
_FIRST = {order: struct.Struct(f"{order}40x8h14xh4x8f3f3xB128x2h18f") for order in "<>"}
# datatype, dim, pixdim, vox_offset, scl_slope, scl_inter, qform_code, sform_code, quatern, qoffset, srow, xyzt_units
_SECOND = {order: struct.Struct(f"{order}12xh2x8q24x8dq2d152x2i18d4xi") for order in "<>"}
_SIZES = {struct.pack(f"{order}i", size): (order, size) for order in "<>" for size in (348, 540)}
_MAGIC = {b"n+1": False, b"n+2": False, b"ni1": True, b"ni2": True}
_GREY = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_NOT_GREY = {0: "unknown", 1: "binary", 32: "complex", 128: "RGB", 255: "all", 1536: "float128", 1792: "complex",
             2048: "complex", 2304: "RGBA"}  # fmt: skip
_DTYPES = {(code, order): np.dtype(order + name) for code, name in _GREY.items() for order in "<>"}
Rows = list[tuple[float, ...]]
_UNITS = {1: "metre", 3: "micrometre"}
_ROUNDING = {348: 3 * 2.0**-23, 540: 3 * 2.0**-52}
"""by how much the squares of a unit quaternion may miss 1, as nibabel has it: single and double precision"""


class NiftiHeader(NamedTuple):
    """Shape (I, J, K), number of volumes, dtype, size of a volume, offset of the first, scaling, RAS+ affine in mm.

    `pair`: the voxels lie in another file. `disagreement_mm`: how far apart sform and qform put a corner voxel, where both
    are set and single precision does not explain it; else 0.
    """

    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype
    volume_bytes: int
    offset_bytes: int
    slope: float
    intercept: float
    affine_mm: np.ndarray
    pair: bool
    disagreement_mm: float

    @property
    def needed_bytes(self) -> int:
        """The unpacked size up to the last voxel."""
        return self.offset_bytes + self.volume_bytes * self.volumes


def parse_header(head: bytes, name: str, fewest: int = 1) -> NiftiHeader:
    """The header in the first SIGNATURE_BYTES (see index.finding) of an unpacked .nii or .hdr file `name`. Raises Rejection.

    `fewest` voxels are asked for along each axis.
    """
    order, size = _SIZES.get(head[:4], ("<", 348))
    if len(head) < size:
        raise Rejection("truncated", "the file ends within its header")
    pair = _MAGIC.get(head[4:7] if size == 540 else head[344:347])
    if pair is None:
        code = "no_geometry" if name.lower().endswith((".hdr", ".hdr.gz")) else "bad_header"
        raise Rejection(code, "an ANALYZE header, or a damaged NIfTI header: no NIfTI magic")
    fields = _fields(head, order, size)
    shape, volumes = _shape(fields[:8], fewest)
    dtype = _dtype(fields[8], order)
    slope, intercept = _scaling(*fields[18:20])
    affine, disagreement_mm = _placed(shape, fields, _ROUNDING[size])
    if not 0 <= fields[17] < math.inf:
        raise Rejection("bad_header", f"vox_offset {fields[17]}")
    offset = max(int(fields[17]), 0 if pair else size + 4)
    size_bytes = math.prod(shape) * dtype.itemsize
    return NiftiHeader(shape, volumes, dtype, size_bytes, offset, slope, intercept, affine, pair, disagreement_mm)


def read_header(path: Path) -> NiftiHeader:
    """The header of a .nii, .nii.gz or .hdr file. Raises Rejection."""
    return parse_header(unpacked_start(path, read_head(path)), path.name)


def _fields(head: bytes, order: str, size: int) -> tuple:
    """All fields that are read, in the order of NIfTI-1."""
    if size == 348:
        return _FIRST[order].unpack_from(head)
    found = _SECOND[order].unpack_from(head)
    return (*found[1:9], found[0], *found[9:20], found[40], *found[20:40])


def _shape(dim: tuple[int, ...], fewest: int) -> tuple[tuple[int, int, int], int]:
    count = dim[0]
    if not 1 <= count <= 7:
        raise Rejection("bad_header", f"dim[0] is {count}")
    dims = list(dim[1 : count + 1])
    if min(dims) < 1:
        raise Rejection("bad_header", f"dimensions {dims}")
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    if len(dims) > 4:
        raise Rejection("unsupported_shape", f"dimensions {dims}")
    i, j, k, volumes = (*dims, 1, 1, 1)[:4]
    if min(i, j, k) < fewest:
        raise Rejection("too_few_slices", f"dimensions {dims}")
    return (i, j, k), volumes


def _dtype(code: int, order: str) -> np.dtype:
    if code in _NOT_GREY:
        raise Rejection("not_grayscale", f"voxels of type {_NOT_GREY[code]}")
    if code not in _GREY:
        raise Rejection("bad_header", f"data code {code} is not known")
    return _DTYPES[code, order]


def _scaling(slope: float, intercept: float) -> tuple[float, float]:
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise Rejection("bad_header", f"scl_slope {slope}, scl_inter {intercept}")
    return slope, intercept


def _placed(shape: tuple[int, int, int], fields: tuple, rounding: float) -> tuple[np.ndarray, float]:
    """The affine that counts, and how far sform and qform put a corner voxel apart."""
    units, qform_code, sform_code = fields[20:23]
    sform: Rows = [fields[29:33], fields[33:37], fields[37:41]]
    if sform_code <= 0 and qform_code <= 0:
        raise Rejection("no_geometry", "neither sform_code nor qform_code is set")
    rows = sform if sform_code > 0 else _qform(fields, rounding)
    if units & 7 not in (0, 2):
        raise Rejection("bad_geometry", f"spatial unit is {_UNITS.get(units & 7, units & 7)}")
    affine = np.array([*rows, (0.0, 0.0, 0.0, 1.0)])
    check_affine(affine)
    return affine, _apart_mm(shape, sform, fields, rounding) if sform_code > 0 and qform_code > 0 else 0.0


def _qform(fields: tuple, rounding: float) -> Rows:
    """The rows of the affine by quaternion, offset and spacing (nifti1.h, method 2; qfac 0 means 1)."""
    qfac, i, j, k = fields[9:13]
    b, c, d, x, y, z = fields[23:29]
    rest = 1 - (b * b + c * c + d * d)
    if qfac not in (-1, 0, 1) or min(i, j, k) < 0 or rest < -_ROUNDING[348]:
        raise Rejection("bad_header", f"pixdim {(qfac, i, j, k)}, quaternion {(b, c, d)}")
    a = 0.0 if rest < rounding else math.sqrt(rest)
    s = 2 / (a * a + b * b + c * c + d * d)
    k *= qfac or 1
    return [
        (i * (1 - s * (c * c + d * d)), j * s * (b * c - a * d), k * s * (b * d + a * c), x),
        (i * s * (b * c + a * d), j * (1 - s * (b * b + d * d)), k * s * (c * d - a * b), y),
        (i * s * (b * d - a * c), j * s * (c * d + a * b), k * (1 - s * (b * b + c * c)), z),
    ]


def _apart_mm(shape: tuple[int, int, int], sform: Rows, fields: tuple, rounding: float) -> float:
    """The largest distance between a corner voxel by sform and by qform; 0 within 0.01 mm, a thousandth of a voxel and
    what single precision turns a quaternion: up to 1.4 milliradians near half turns, where its first number is near 0."""
    try:
        qform = _qform(fields, rounding)
    except Rejection:
        return 0.0
    apart = [tuple(map(operator.sub, one, other)) for one, other in zip(sform, qform, strict=True)]
    i, j, k = (size - 1 for size in shape)
    if not 0.01 < sum(abs(a) * i + abs(b) * j + abs(c) * k + abs(d) for a, b, c, d in apart) < math.inf:
        return 0.0
    first = math.sqrt(max(0.0, 1 - sum(one * one for one in fields[23:26])))
    extent_mm = math.hypot(*(end * edge_mm for end, edge_mm in zip((i, j, k), fields[10:13], strict=True)))
    slack_mm = 0.01 + 0.001 * min(fields[10:13]) + extent_mm * 1e-6 / max(first, 7e-4)
    corners = product((0, i), (0, j), (0, k))
    found_mm = max(math.hypot(*(a * x + b * y + c * z + d for a, b, c, d in apart)) for x, y, z in corners)
    return found_mm if found_mm > slack_mm else 0.0


def pixel_path(path: Path) -> Path:
    """The voxel file of a .hdr file. Raises Rejection no_pixels."""
    for ending in (".hdr.gz", ".hdr"):
        if path.name.lower().endswith(ending):
            stem = path.name[: -len(ending)]
            for name in (stem + ".img", stem + ".img.gz", stem + ".IMG"):
                if path.with_name(name).is_file():
                    return path.with_name(name)
    raise Rejection("no_pixels", "a header without its .img file")


def check_size(header: NiftiHeader, size_bytes: int, packed: bool) -> None:
    """Raise Rejection truncated when a file of this size cannot hold the voxels its header claims."""
    if header.needed_bytes > size_bytes * (GZIP_MOST if packed else 1):
        raise Rejection("truncated", f"{header.needed_bytes} bytes are claimed, the file has {size_bytes}")


def read_part(path: Path, volume: int) -> Volume:
    """Volume number `volume` of the file in RAS+ order, scaled, float32; NaN and Inf are 0. Raises Rejection."""
    header = read_header(path)
    if not 0 <= volume < header.volumes:
        raise Rejection("changed", f"volume {volume} of {header.volumes}")
    stored = read_stored(header, pixel_path(path) if header.pair else path, volume)
    _, affine = ras_geometry(header.shape, header.affine_mm)
    return Volume(_in_ras_order(stored, header)[None], affine)


def read_stored(header: NiftiHeader, path: Path, volume: int) -> np.ndarray:
    """One volume (I, J, K) as stored in the voxel file `path`, unscaled, in the file's byte order. Raises Rejection."""
    with named_damage(), path.open("rb") as stream:
        check_size(header, path.stat().st_size, stream.read(2) == GZIP_MAGIC)
    raw = np.empty(header.volume_bytes, np.uint8)
    filled = 0
    with named_damage(), open_unpacked(path) as stream:
        stream.seek(header.offset_bytes + volume * header.volume_bytes)
        while filled < len(raw) and (count := stream.readinto(raw[filled : filled + READ_BYTES].data)):
            filled += count
        stream.read(1)
    if filled < len(raw):
        raise Rejection("truncated", f"{len(raw)} bytes are claimed, {filled} are there")
    return raw.view(header.dtype).reshape(header.shape, order="F")


def _in_ras_order(stored: np.ndarray, header: NiftiHeader) -> np.ndarray:
    """The array (I, J, K) turned to RAS+ as `to_ras` turns it, scaled, finite, float32, in C order."""
    axes = orientation_of(header.affine_mm)
    order = [next(axis for axis in range(3) if axes[axis][0] == target) for target in range(3)]
    turned = stored[tuple(slice(None, None, sign) for _, sign in axes)].transpose(order)
    data = np.empty(turned.shape, np.float32)
    along = 1 if order[0] == 0 else 0
    for plane, values in zip(np.moveaxis(data, along, 0), np.moveaxis(turned, along, 0), strict=True):
        values = rescaled(values, header.slope, header.intercept)
        plane[...] = finite_float32(values) if values.dtype.kind == "f" else values
    return data
