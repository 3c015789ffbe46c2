"""DICOM: geometry against the standard's own formula, splitting into parts, intensities, and each reject code."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from index.catalog import Catalogue, scan
from index.dicom import header_of
from index.frames import Frame, volumes
from index.multiframe import shell_of
from index.options import ScanOptions
from index.pixels import images_of, load
from index.plain import Plain
from index.reading import read_volume
from index.series import evenly
from models.volume import to_ras

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def image(series: str, place: int, pixels: np.ndarray, **tags: Any) -> Dataset:
    """An axial MR slice at z = 4 mm * place, spacing 2 mm between rows and 1.5 mm between columns."""
    dataset = Dataset()
    dataset.SOPClassUID = MR
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = series
    dataset.Modality = "MR"
    dataset.PatientID = "P1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    dataset.ImagePositionPatient = [-10.0, -20.0, 4.0 * place]
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.PixelSpacing = [2.0, 1.5]
    dataset.InstanceNumber = place + 1
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def write(path: Path, dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> None:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(
        path,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )


def write_stack(folder: Path, count: int = 6, series: str = "1.2.3.4", **tags: Any) -> np.ndarray:
    """A stack whose voxels all differ; returns the pixels (slice, row, column)."""
    pixels = np.arange(count * 5 * 4).reshape(count, 5, 4)
    for place in range(count):
        write(folder / f"{place}.dcm", image(series, place, pixels[place], **tags))
    return pixels


def codes(found: Catalogue) -> set[str]:
    return set(found.rejects["code"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_every_voxel_lies_where_the_standard_puts_it(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("oblique")
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    rows_mm, columns_mm, gap_mm = rng.uniform(0.5, 6.0, 3)
    origin = rng.uniform(-100, 100, 3)
    pixels = rng.permutation(6 * 5 * 4).reshape(6, 5, 4)
    for name, place in enumerate(rng.permutation(6)):
        position = origin + turn[:, 2] * gap_mm * place
        slice_ = image("1.2.3.4", int(place), pixels[place])
        slice_.ImageOrientationPatient = [f"{value:.12f}" for value in (*turn[:, 0], *turn[:, 1])]
        slice_.ImagePositionPatient = [f"{value:.10f}" for value in position]
        slice_.PixelSpacing = [f"{rows_mm:.10f}", f"{columns_mm:.10f}"]
        write(folder / f"IM{name}", slice_)
    found = scan(folder)
    assert len(found.records) == 1, found.rejects
    volume = read_volume(folder, found.records.row(0, named=True))
    for k, i, j in ((0, 0, 0), (5, 4, 3), (2, 3, 1)):
        # PS3.3 C.7.6.2.1.1: position + row direction * column spacing * j + column direction * row spacing * i
        lps = origin + turn[:, 2] * gap_mm * k + turn[:, 0] * columns_mm * j + turn[:, 1] * rows_mm * i
        voxel = np.argwhere(volume.data[0] == pixels[k, i, j])
        assert voxel.shape == (1, 3)
        np.testing.assert_allclose((volume.affine_mm @ [*voxel[0], 1])[:3], lps * [-1, -1, 1], atol=1e-6)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
    ids=["implicit", "big_endian", "deflated", "rle"],
)
def test_transfer_syntax_changes_nothing(tmp_path: Path, syntax: str) -> None:
    plain = write_stack(tmp_path / "plain")
    for place in range(6):
        write(tmp_path / "other" / f"{place}.dcm", image("1.2.3.4", place, plain[place]), syntax)
    volumes_read = [
        read_volume(tmp_path / name, scan(tmp_path / name).records.row(0, named=True)) for name in ("plain", "other")
    ]
    np.testing.assert_array_equal(volumes_read[0].data, volumes_read[1].data)
    np.testing.assert_array_equal(volumes_read[0].affine_mm, volumes_read[1].affine_mm)


def test_each_slice_is_rescaled_once_by_its_own_slope(tmp_path: Path) -> None:
    pixels = np.arange(6 * 5 * 4).reshape(6, 5, 4)
    for place in range(6):
        slope = {"RescaleSlope": place + 1, "RescaleIntercept": -3}
        write(tmp_path / f"{place}", image("1.2", place, pixels[place], **slope))
    volume = read_volume(tmp_path, scan(tmp_path).records.row(0, named=True))
    expected = pixels * np.arange(1, 7)[:, None, None] - 3
    # LPS rows and columns run to the left and to the back, so both are reversed in RAS+.
    np.testing.assert_array_equal(volume.data[0], expected.transpose(2, 1, 0)[::-1, ::-1])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]),
    allocated=st.sampled_from([8, 16, 32]),
    unused=st.integers(0, 7),
    signed=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_stored_values_are_those_that_pydicom_decodes(
    tmp_path: Path, syntax: str, allocated: int, unused: int, signed: bool, seed: int
) -> None:
    raw = np.random.default_rng(seed).bytes(6 * 4 * allocated // 8)
    dataset = image("1.2", 0, np.zeros((6, 4)), BitsAllocated=allocated, BitsStored=allocated - unused)
    dataset.HighBit, dataset.PixelRepresentation, dataset.PixelData = allocated - unused - 1, int(signed), raw
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "a", dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    loaded = load(tmp_path / "a")
    assert isinstance(loaded, Plain) == (allocated > 8)
    ((_, found),) = images_of(loaded, [(0, header_of(loaded, "a").frames[0])])
    expected = pydicom.dcmread(tmp_path / "a").pixel_array
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    write_stack(tmp_path / "a")
    write_stack(tmp_path / "b", PhotometricInterpretation="MONOCHROME1")
    white, black = (read_volume(tmp_path / n, scan(tmp_path / n).records.row(0, named=True)).data for n in "ab")
    np.testing.assert_array_equal(black, white.max() + white.min() - white)


def test_echoes_become_parts_and_are_never_blended(tmp_path: Path) -> None:
    for echo in range(6):
        for place in range(5):
            pixels = np.full((5, 4), 100 * echo) + np.arange(20).reshape(5, 4)
            tags = {"EchoTime": 10.5 * (echo + 1), "InstanceNumber": place * 6 + echo}
            write(tmp_path / f"{echo}-{place}", image("1.2", place, pixels, **tags))
    found = scan(tmp_path)
    assert sorted(found.records["part"], key=lambda part: float(part[5:])) == [
        "echo=10.5",
        "echo=31.5",
        "echo=42",
        "echo=63",
    ]
    assert found.rejects["code"].to_list() == ["part_not_chosen"] * 10
    for record in found.records.iter_rows(named=True):
        number = round(record["echo_time_ms"] / 10.5) - 1
        assert record["part"] == f"echo={record['echo_time_ms']:g}"
        data = read_volume(tmp_path, record).data
        assert (data.min(), data.max()) == (100 * number, 100 * number + 19)


def test_time_points_are_split_by_their_order_where_no_tag_tells(tmp_path: Path) -> None:
    for time in range(3):
        for place in range(5):
            pixels = np.full((5, 4), 10 * time) + np.arange(20).reshape(5, 4)
            write(tmp_path / f"{time}-{place}", image("1.2", place, pixels, InstanceNumber=time * 5 + place))
    found = scan(tmp_path)
    minima = {r["part"]: read_volume(tmp_path, r).data.min() for r in found.records.iter_rows(named=True)}
    assert minima == {"t=0": 0, "t=1": 10, "t=2": 20}


def test_an_incomplete_time_point_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    for time in range(2):
        for place in range(5 - time):
            tags = {"TemporalPositionIdentifier": time + 1, "InstanceNumber": time * 5 + place}
            write(tmp_path / f"{time}-{place}", image("1.2", place, np.arange(20).reshape(5, 4), **tags))
    found = scan(tmp_path, ScanOptions(min_slices=3))
    assert found.records["part"].to_list() == ["t=0"]
    assert found.rejects["code"].to_list() == ["incomplete_volume"] * 4


def enhanced(frames: list[tuple[float, float, float, np.ndarray]]) -> Dataset:
    """An enhanced MR object of (z in mm, echo time in ms, rescale slope, pixels) a frame."""
    dataset = image("1.2.9", 0, frames[0][3], SOPClassUID=ENHANCED_MR, NumberOfFrames=len(frames))
    dataset.PixelData = np.stack([pixels for *_, pixels in frames]).astype("<u2").tobytes()
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(dataset, name)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = list(AXIAL), [2.0, 1.5]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    groups = []
    for z_mm, echo_ms, slope, _ in frames:
        group, position, echo, transform = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-10.0, -20.0, z_mm]
        echo.EffectiveEchoTime = echo_ms
        transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = slope, 0, "US"
        group.PlanePositionSequence, group.MREchoSequence = [position], [echo]
        group.PixelValueTransformationSequence = [transform]
        groups.append(group)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], groups
    return dataset


def test_enhanced_frames_are_sorted_split_and_rescaled_one_by_one(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(10)
    frames = []
    for number in order:
        echo, place = divmod(int(number), 5)
        pixels = np.full((5, 4), 10 + place) + np.arange(20).reshape(5, 4)
        frames.append((3.0 * place, 20.0 + 60 * echo, 1.0 + echo, pixels))
    write(tmp_path / "one", enhanced(frames))
    found = scan(tmp_path)
    assert found.records["part"].to_list() == ["echo=20", "echo=80"]
    assert found.records["echo_time_ms"].to_list() == [20.0, 80.0]
    for record, slope in zip(found.records.iter_rows(named=True), (1, 2), strict=True):
        np.testing.assert_allclose(record["spacing_mm"], [1.5, 2.0, 3.0])
        data = read_volume(tmp_path, record).data[0]
        np.testing.assert_array_equal(data.min(axis=(0, 1)), slope * np.arange(10, 15))


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
def test_siemens_mosaic_as_an_independent_reader_has_it(shared: Path, tmp_path: Path) -> None:
    from nibabel.nicom.dicomwrappers import wrapper_from_file

    source = shared / "dicom-zoo/single_files_mixed_sizes/input/siemens_dwi_1000.dcm.gz"
    if not source.is_file():
        pytest.skip("no mosaic beside the checkout")
    (tmp_path / "mosaic.dcm").write_bytes(gzip.decompress(source.read_bytes()))
    dataset = pydicom.dcmread(tmp_path / "mosaic.dcm")
    noise = np.random.default_rng(0).integers(0, 4000, len(dataset.PixelData) // 2)
    dataset.PixelData = noise.astype("<u2").tobytes()
    dataset.save_as(tmp_path / "mosaic.dcm")
    record = scan(tmp_path).records.row(0, named=True)
    volume = read_volume(tmp_path, record)
    other = wrapper_from_file(tmp_path / "mosaic.dcm")
    expected = to_ras(np.asarray(other.get_data(), dtype=float), np.diag([-1.0, -1, 1, 1]) @ other.affine)
    np.testing.assert_allclose(volume.affine_mm, expected.affine_mm, atol=1e-3)
    np.testing.assert_array_equal(volume.data, expected.data)
    assert record["shape"] == [128, 128, 48]
    assert record["b_value"] == 1000


BAD_TAGS = [
    ("not_mr", {"Modality": "CT"}),
    ("secondary_capture", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
    ("not_grayscale", {"SamplesPerPixel": 3}),
    ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    ("localizer", {"SeriesDescription": "3-plane_LOC"}),
    ("projection", {"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}),
    ("burned_in", {"BurnedInAnnotation": "YES"}),
    ("bad_geometry", {"PixelSpacing": [0, 0]}),
    ("bad_geometry", {"ImageOrientationPatient": [0] * 6}),
    ("truncated", {"Rows": 65535, "Columns": 65535}),
    ("no_geometry", {"NumberOfFrames": 2, "PixelData": bytes(80)}),
    ("truncated", {"PixelData": bytes(10)}),
    ("constant_image", {"PixelData": bytes(40)}),
    ("constant_image", {"RescaleSlope": 0, "RescaleIntercept": 0}),
    ("duplicate_position", {"ImagePositionPatient": [0, 0, 0], "InstanceNumber": None}),
    ("too_few_slices", {"ImagePositionPatient": [0, 0, 0]}),
]


@pytest.mark.parametrize(("code", "tags"), BAD_TAGS, ids=[f"{code}-{next(iter(tags))}" for code, tags in BAD_TAGS])
def test_each_bad_series_is_refused_by_name(tmp_path: Path, code: str, tags: dict[str, Any]) -> None:
    write_stack(tmp_path, **tags)
    found = scan(tmp_path)
    assert len(found.records) == 0
    assert codes(found) == {code}
    assert len(found.rejects) == found.files == 6


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("PixelData", "no_pixels"),
        ("ImagePositionPatient", "no_geometry"),
        ("PixelSpacing", "no_geometry"),
        ("Rows", "missing_tags"),
        ("SeriesInstanceUID", "missing_tags"),
    ],
)
def test_a_missing_element_is_refused_by_name(tmp_path: Path, name: str, code: str) -> None:
    for place in range(5):
        dataset = image("1.2", place, np.arange(20).reshape(5, 4))
        delattr(dataset, name)
        write(tmp_path / f"{place}", dataset)
    found = scan(tmp_path)
    assert codes(found) == {code} and len(found.records) == 0


def frames_at(positions: list[tuple[float, float, float]], orientation: tuple[float, ...] = AXIAL) -> list[Frame]:
    return [
        Frame(f"{n}", 0, None, 5, 4, position, orientation, (2.0, 1.5), instance_number=n)
        for n, position in enumerate(positions)
    ]


@pytest.mark.parametrize(
    ("positions", "code"),
    [
        ([(0, 0, z) for z in (0, 4, 8, 16, 20, 24)], "missing_slice"),
        ([(0, 0, z) for z in (0, 4, 9.5, 12, 17.5, 20)], "uneven_spacing"),
        ([(0, z * 0.27, z) for z in (0, 4, 8, 12, 16, 20)], "sheared"),
        ([(0, 0, z) for z in (0, 4, 8, 8, 12, 16)], "duplicate_position"),
        ([(0, 0, z) for z in (0, 0.001, 0.002)], "too_few_slices"),
    ],
)
def test_crooked_stacks_are_refused_by_name(positions: list[tuple[float, float, float]], code: str) -> None:
    stacks, refused = volumes(frames_at(positions), 3)
    assert stacks == []
    assert {one.code for one in refused} == {code}


def test_rounded_positions_are_still_a_stack() -> None:
    positions = [(0.0, 0.0, round(6.9721 * n, 1)) for n in range(6)]
    stacks, refused = volumes(frames_at(positions), 3)
    assert refused == []
    assert stacks[0].affine_mm[2, 2] == pytest.approx((positions[-1][2] - positions[0][2]) / 5)


def test_crossing_planes_are_refused_and_tilted_ones_are_split() -> None:
    axial = frames_at([(0, 0, 4 * n) for n in range(5)])
    sagittal = frames_at([(4.0 * n, 0, 0) for n in range(5)], (0.0, 1, 0, 0, 0, -1))
    assert [one.code for one in volumes(axial + sagittal, 3)[1]] == ["mixed_orientation"]
    cosine, sine = np.cos(0.4), np.sin(0.4)
    tilted = frames_at([(0, -4 * n * sine, 4 * n * cosine) for n in range(5)], (1.0, 0, 0, 0, cosine, sine))
    stacks, refused = volumes(axial + tilted, 3)
    assert refused == [] and sorted(stack.part or "" for stack in stacks) == ["stack=0", "stack=1"]


def test_patients_with_one_series_uid_stay_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_stack(tmp_path / name, PatientID=name)
    found = scan(tmp_path)
    assert len(set(found.records["series_id"])) == len(set(found.records["patient_id"])) == 2


def test_a_copied_folder_counts_once(tmp_path: Path) -> None:
    write_stack(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for file in (tmp_path / "a").iterdir():
        (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
    found = scan(tmp_path)
    assert len(found.records) == 1
    assert found.rejects["code"].to_list() == ["duplicate"] * 6


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(132, 900), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.integers(0, 1200),
)
def test_a_damaged_file_is_one_ledger_row_or_part_of_a_series(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], keep: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    write_stack(folder)
    raw = bytearray((folder / "2.dcm").read_bytes())
    for place, byte in flips:
        raw[place % len(raw)] = byte
    (folder / "2.dcm").write_bytes(raw[:keep] if keep < len(raw) // 2 else raw)
    found = scan(folder)
    used = {file for files in found.records["files"] for file in files}
    assert len(used) + len(found.rejects) == found.files == 6
    assert used.isdisjoint(found.rejects["path"])


@pytest.mark.parametrize(("b_value", "shell"), [(0, 0), (1.25, 0), (998.7, 1000), (1012, 1000), (12, 10), (1250, 1250)])
def test_measured_b_values_fall_into_shells(b_value: float, shell: float) -> None:
    assert shell_of(b_value) == shell


@given(count=st.integers(0, 500), most=st.integers(1, 6))
def test_evenly_keeps_both_ends_and_their_order(count: int, most: int) -> None:
    places = evenly(count, most)
    assert len(places) == min(count, most) == len(set(places))
    assert places == sorted(places)
    if count > 1 and most > 1:
        assert (places[0], places[-1]) == (0, count - 1)
