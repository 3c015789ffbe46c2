"""A phantom series as gzipped NIfTI with a BIDS-like name and a JSON sidecar.

- The gzip header carries no time, so that the same archive is the same bytes.
"""

import gzip
import json

import numpy as np

from training.phantom.archive_dicom import BODY_PART, MANUFACTURER, SCANNING, describe
from training.phantom.series import PhantomSeries

SUFFIX = {"T1": "T1w", "T1C": "ce-gadolinium_T1w", "T2": "T2w", "FLAIR": "FLAIR", "PD": "PDw", "T2STAR": "T2starw"}
SUFFIX |= {"STIR": "T2w", "DWI": "dwi", "ADC": "adc", "CINE": "cine", "MRA": "angio", "SWI": "swi", "EPI": "bold"}
SUFFIX |= {"DCE": "ce-gadolinium_T1w"}


def bids_name(series: PhantomSeries, subject: str, run: int) -> str:
    """Relative path without extension, such as sub-02/anat/sub-02_acq-kneesag_run-1_T2w."""
    labels = series.labels
    folder = "dwi" if labels["sequence"] in ("DWI", "ADC") else "anat"
    stir = "stir" if labels["sequence"] == "STIR" else ""
    acquisition = f"{labels['body_region']}{labels['plane'][:3]}{stir}"
    return f"{subject}/{folder}/{subject}_acq-{acquisition}_run-{run}_{SUFFIX[labels['sequence']]}"


def nifti_bytes(series: PhantomSeries) -> bytes:
    """The .nii.gz: int16 voxels, the affine as qform and sform with code 1 (scanner)."""
    import nibabel

    data = np.clip(np.rint(series.volume.data[0]), 0, 32767).astype(np.int16)
    image = nibabel.Nifti1Image(data, series.volume.affine_mm)
    image.set_qform(series.volume.affine_mm, 1)
    image.set_sform(series.volume.affine_mm, 1)
    image.header.set_xyzt_units("mm", "sec")
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)


def sidecar_text(series: PhantomSeries) -> str:
    """The JSON sidecar: BIDS keys, times in seconds."""
    labels, tags = series.labels, series.tags
    found = {
        "Manufacturer": MANUFACTURER[tags["vendor"]],
        "MagneticFieldStrength": tags["field_strength_t"],
        "SeriesDescription": describe(series),
        "ScanningSequence": "_".join(SCANNING.get(labels["sequence"], ["GR" if tags["gradient_echo"] else "SE"])),
        "MRAcquisitionType": "3D" if labels["plane"] == "3d" else "2D",
        "BodyPartExamined": BODY_PART[labels["body_region"]],
        "RepetitionTime": round(tags["repetition_time_ms"] / 1000, 5),
        "EchoTime": round(tags["echo_time_ms"] / 1000, 5),
        "FlipAngle": tags["flip_angle_deg"],
        "SliceThickness": round(tags["slice_thickness_mm"], 3),
        "SkullStripped": labels["skull_stripped"] == "yes",
    }
    if tags["inversion_time_ms"] is not None:
        found["InversionTime"] = round(tags["inversion_time_ms"] / 1000, 5)
    if labels["contrast"] == "yes":
        found["ContrastBolusIngredient"] = "GADOLINIUM"
    return json.dumps(found, indent=2) + "\n"
