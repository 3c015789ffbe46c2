"""Results in the patient's own geometry: a mask as NIfTI on the grid of the file that it was found in.

Decisions:
- A mask found on the RAS+ grid is turned back to the order in which the source file keeps its voxels, and the source's
  header goes with it, so that shape and affine are the same to the bit. Free text of the header is not taken along.
- Of DICOM, the mask is on the RAS+ grid that the volume was read in: a viewer lays it over the series all the same, and
  index.seg writes it on the series' own images.
- The file is whole or not there, and the same mask makes the same bytes.
"""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from index.finding import path_of
from index.geometry import orientation_of
from index.nifti import read_header
from index.segment import replace_file

FREE_TEXT = ("descrip", "aux_file", "db_name", "intent_name")


def write_mask(path: Path, mask: np.ndarray, root: Path, record: Mapping[str, Any]) -> None:
    """Write `mask` (I, J, K) bool, on the RAS+ grid of `record` of the archive at `root`, to a .nii.gz file."""
    if record["format"] == "nifti":
        image = _in_file_order(mask, path_of(root, record["files"][0]))
    else:
        image = _image(mask, np.array(record["affine_mm"], dtype=np.float64).reshape(4, 4))
    replace_file(path, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def from_ras(data: np.ndarray, affine_mm: np.ndarray) -> np.ndarray:
    """An array (I, J, K) in RAS+ order in that of a file with this affine: what `to_ras` did, undone."""
    axes = orientation_of(affine_mm)
    turned = data.transpose([target for target, _ in axes])
    return np.ascontiguousarray(turned[tuple(slice(None, None, sign) for _, sign in axes)])


def _in_file_order(mask: np.ndarray, source: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    affine = read_header(source).affine_mm
    data = from_ras(mask, affine).astype(np.uint8)
    try:
        found = nibabel.load(source)
    except (ImageFileError, OSError, ValueError):
        return _image(data, affine)
    made = nibabel.Nifti2Image if isinstance(found, nibabel.Nifti2Image) else nibabel.Nifti1Image
    header = made.header_class.from_header(found.header)
    header.extensions.clear()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(data.shape)
    header.set_slope_inter(1, 0)
    for name in set(FREE_TEXT) & set(header.keys()):
        header[name] = b""
    header["cal_min"] = header["cal_max"] = 0
    return made(data, None, header)


def _image(data: np.ndarray, affine_mm: np.ndarray) -> Any:
    import nibabel

    image = nibabel.Nifti1Image(data.astype(np.uint8), affine_mm)
    image.set_qform(affine_mm, 1)
    image.set_sform(affine_mm, 1)
    image.header.set_xyzt_units("mm")
    return image
