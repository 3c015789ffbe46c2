"""How fast an archive is read: python tests/benchmarks/intake.py [--dicom FOLDER] [--files 20000] [--tree 100000]

Makes archives in a temporary folder and prints a Markdown table of ratios, each pair measured in one run on the same files:
copies of the DICOM series in FOLDER (default: the MR image that pydicom ships) with identifiers of their own, a BIDS tree of
small NIfTI files with sidecars, and one .nii.gz of 256 x 256 x 180.
"""

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.data import get_testdata_file

from index.catalog import scan
from index.finding import read_head
from index.nifti import read_part
from index.options import ScanOptions
from index.plain import read_plain
from index.tags import wanted

OPTIONS = ScanOptions(min_slices=2)
SIDECAR = {
    "Modality": "MR", "MagneticFieldStrength": 3, "Manufacturer": "Siemens", "ManufacturersModelName": "Prisma",
    "BodyPartExamined": "BRAIN", "PatientPosition": "HFS", "ProtocolName": "t1_mprage", "SeriesDescription": "t1_mprage",
    "ScanningSequence": "GR\\IR", "SequenceVariant": "SK\\SP\\MP", "ScanOptions": "IR", "SequenceName": "*tfl3d1_16ns",
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], "SeriesNumber": 2, "SliceThickness": 1, "SAR": 0.04,
    "EchoTime": 0.00226, "RepetitionTime": 2.3, "InversionTime": 0.9, "FlipAngle": 8, "PartialFourier": 1,
    "PixelBandwidth": 200, "DwellTime": 9.8e-06, "ImageOrientationPatientDICOM": [0, 1, 0, 0, 0, -1],
}  # fmt: skip


def seconds(task: Callable[[], object]) -> float:
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def copies(folder: Path, sources: list[Path], count: int) -> list[Path]:
    """`count` DICOM files below `folder`: the sources again and again, each time another series."""
    told = []
    for source in sources:
        header = pydicom.dcmread(source, stop_before_pixels=True)
        told.append(
            (source.read_bytes(), *(str(uid).encode() for uid in (header.SeriesInstanceUID, header.SOPInstanceUID)))
        )
    made = []
    for number in range(count):
        raw, series, instance = told[number % len(told)]
        for uid, own in ((series, number // len(told)), (instance, number)):
            raw = raw.replace(uid, uid[:-7] + b"%07d" % own)
        path = folder / f"{number // len(told):05d}" / f"{number % len(told):04d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        made.append(path)
    return made


def bids_tree(folder: Path, count: int) -> None:
    """`count` files: half of them small volumes, half of them their sidecars."""
    rng = np.random.default_rng(0)
    for subject in range(count // 2):
        image = nib.Nifti1Image(rng.integers(0, 900, (8, 8, 8)).astype(np.int16), np.diag([2.0, 2, 2, 1]))
        image.set_sform(image.affine, 1)
        path = folder / f"sub-{subject:06d}/anat/sub-{subject:06d}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress(image.to_bytes(), 1))
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(SIDECAR))


def line(what: str, compared: str, ours: str, ratio: float) -> str:
    return f"| {what} | {compared} | {ours} | {ratio:.1f} |"


def headers(files: list[Path]) -> list[str]:
    def pydicom_reads() -> None:
        for path in files:
            pydicom.dcmread(path, stop_before_pixels=True)

    def plain_reads() -> None:
        for path in files:
            read_plain(path, read_head(path), wanted())

    scan(files[0].parent, OPTIONS)
    root = files[0].parent.parent
    theirs, cut, whole = seconds(pydicom_reads), seconds(plain_reads), seconds(lambda: scan(root, OPTIONS))
    known = scan(root, OPTIONS)
    again = statistics.median(seconds(lambda: scan(root, OPTIONS, known=known)) for _ in range(3))
    count = len(files)
    alone, first = f"{count / theirs:,.0f} files/s", f"{count / whole:,.0f} files/s"
    return [
        line(
            f"headers of {count:,} DICOM files, one process",
            f"pydicom {alone}",
            f"{count / cut:,.0f} files/s",
            theirs / cut,
        ),
        line("the whole scan of them", f"pydicom, headers alone, one process, {alone}", first, theirs / whole),
        line("a second scan, nothing changed", f"the first, {first}", f"{count / again:,.0f} files/s", whole / again),
    ]


def tree(folder: Path, count: int) -> list[str]:
    bids_tree(folder, count)
    rate = count / seconds(lambda: scan(folder))
    return [
        line(f"scan of a BIDS tree, {count:,} files", "wanted: 10,000 files/s", f"{rate:,.0f} files/s", rate / 10_000)
    ]


def pixels(folder: Path) -> list[str]:
    """The volume is smooth with noise, so that it packs as images do."""
    rng = np.random.default_rng(0)
    wave = 500 + 400 * np.sin(np.linspace(0, 9, 256))[:, None, None] * np.ones((1, 256, 180))
    path = folder / "volume.nii.gz"
    nib.save(nib.Nifti1Image((wave + rng.normal(0, 30, wave.shape)).astype(np.int16), np.diag([1.0, 1, 1, 1])), path)

    def nibabel_reads() -> None:
        np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj).astype(np.float32)

    pairs = [(seconds(nibabel_reads), seconds(lambda: read_part(path, 0))) for _ in range(7)]
    theirs, ours = (statistics.median(one) for one in zip(*pairs, strict=True))
    compared = f"nibabel {1000 * theirs:.0f} ms"
    return [line(".nii.gz of 256 x 256 x 180 to float32", compared, f"{1000 * ours:.0f} ms", theirs / ours)]


def memory(root: Path) -> list[str]:
    """Peak memory of `decipher scan` and its workers together, sampled from /proc."""
    command = [str(Path(sys.executable).parent / "decipher"), "scan", str(root), "-o", "catalogue.parquet"]
    with tempfile.TemporaryDirectory() as here:
        process = subprocess.Popen(command, cwd=here, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, resident_gb(process.pid))
            time.sleep(0.2)
    files = sum(1 for path in root.rglob("*") if path.is_file())
    return [
        line(f"memory of `decipher scan`, {files:,} files, all processes", "wanted: 1 GB", f"{peak:.2f} GB", 1 / peak)
    ]


def resident_gb(pid: int) -> float:
    """Resident memory of a process and all below it."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, IndexError):
        return 0.0
    return pages * 4096 / 1e9 + sum(resident_gb(child) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dicom", type=Path)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--tree", type=int, default=100_000)
    parser.add_argument("--memory", type=int, default=200_000)
    chosen = parser.parse_args()
    sources = sorted(p for p in chosen.dicom.rglob("*") if p.is_file()) if chosen.dicom else []
    sources = sources or [Path(str(get_testdata_file("MR_small.dcm")))]
    print("| what | compared with | decipher | ratio |\n|---|---|---|---|")
    for measure in (
        lambda here: headers(copies(here, sources, chosen.files)),
        lambda here: tree(here, chosen.tree),
        pixels,
        lambda here: [copies(here, sources[:40], chosen.memory), *memory(here)][1:],
    ):
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(measure(Path(folder))), flush=True)


if __name__ == "__main__":
    main()
