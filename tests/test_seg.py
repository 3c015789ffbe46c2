"""DICOM Segmentation objects: every pixel on the image it was found in, nobody's name in them, and read back from others."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import polars as pl
import pydicom
import pytest
from pydicom.uid import generate_uid

from index.catalog import scan
from index.contents import contents_of
from index.ledger import Rejection
from index.options import ScanOptions
from index.reading import read_volume
from index.seg import check_labels, write_seg
from index.segmented import is_dicom, read_seg
from models.errors import DecipherError
from training.masks import read_cases
from training.phantom.archive_dicom import dicom_slices
from training.phantom.series import PhantomSeries, make_patient

PERSON = {
    "PatientName": "MILLER^JANE", "PatientID": "MRN-4711", "PatientBirthDate": "19640229", "AccessionNumber": "ACC-815",
    "ReferringPhysicianName": "HOUSE^GREGORY", "InstitutionName": "Princeton-Plainsboro", "StudyID": "S-42",
    "OtherPatientIDs": "OLD-99", "PatientAddress": "Elm Street", "DeviceSerialNumber": "SN-1234", "StudyDate": "20111213",
}  # fmt: skip
TURN = np.linalg.qr(np.array([[0.96, 0.2, -0.19], [-0.17, 0.97, 0.18], [0.22, -0.14, 0.965]]))[0]
Change = Callable[[pydicom.Dataset, int], None]


@pytest.fixture(scope="module")
def series() -> PhantomSeries:
    return make_patient(3, "brain", ["FLAIR"], diagnosis="brain tumour", voxel_mm=4.0, max_voxels=40)[0]


def saved(
    folder: Path, series: PhantomSeries, change: Change = lambda one, number: None
) -> tuple[Path, dict[str, Any]]:
    """A DICOM archive of one series, each file changed, and its record."""
    folder.mkdir(parents=True)
    for number, content in enumerate(dicom_slices(series, "sub-1", "20200101", 1)):
        one = pydicom.dcmread(BytesIO(content))
        change(one, number)
        one.save_as(folder / f"{number:03d}.dcm")
    (record,) = contents_of(folder).records.to_dicts()
    return folder, record


def threshold(volume: np.ndarray) -> float:
    return float(np.percentile(volume, 90)) + 0.5


def written(path: Path, root: Path, record: Mapping[str, Any]) -> float:
    """A DICOM SEG of what is brighter than the value that is returned."""
    volume = read_volume(root, record).data[0]
    limit = threshold(volume)
    write_seg(path, {"": volume > limit}, root, record, "0123456789abcdef", "decipher mini (abc)")
    return limit


def pixels_by_image(path: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    """SOPInstanceUID, frame number (1 of a single frame) and pixels of every frame that is there."""
    seg = hd.seg.segread(path)
    for group, image in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        yield source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber", 1)), image


def check_against_files(path: Path, root: Path, record: Mapping[str, Any], limit: float) -> None:
    """Each frame is what exceeds the limit in the very image it refers to; images without a frame have nothing of it."""
    found = {(uid, frame): image for uid, frame, image in pixels_by_image(path)}
    marked = 0
    for file in record["files"]:
        source = pydicom.dcmread(root / file)
        images = source.pixel_array.reshape(-1, source.Rows, source.Columns) * float(source.get("RescaleSlope", 1))
        for number, image in enumerate(images, start=1):
            one = found.pop((source.SOPInstanceUID, number), np.zeros(image.shape))
            assert np.array_equal(one, image > limit), (file, number)
            marked += int(one.sum())
    assert not found and marked > 100


def turned(matrix: np.ndarray, backwards: bool) -> Change:
    """Turns the patient, and stores slices from the other end."""

    def change(one: pydicom.Dataset, number: int) -> None:
        along, down = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
        one.ImageOrientationPatient = [f"{value:.12f}" for value in (*(matrix @ along), *(matrix @ down))]
        one.ImagePositionPatient = [f"{value:.9f}" for value in matrix @ np.array(one.ImagePositionPatient, float)]
        if backwards:
            one.InstanceNumber = 1000 - number

    return change


@pytest.mark.parametrize("matrix", [np.eye(3), TURN, np.diag([-1.0, -1.0, 1.0]), TURN @ np.diag([1.0, -1.0, -1.0])])
@pytest.mark.parametrize("backwards", [False, True])
def test_every_pixel_lies_on_its_own_image(
    matrix: np.ndarray, backwards: bool, series: PhantomSeries, tmp_path: Path
) -> None:
    root, record = saved(tmp_path / "a", series, turned(matrix, backwards))
    limit = written(tmp_path / "s.dcm", root, record)
    check_against_files(tmp_path / "s.dcm", root, record, limit)
    seg, source = hd.seg.segread(tmp_path / "s.dcm"), pydicom.dcmread(root / record["files"][0])
    shared = seg.SharedFunctionalGroupsSequence[0]
    np.testing.assert_allclose(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, source.ImageOrientationPatient, atol=1e-9
    )
    np.testing.assert_allclose(shared.PixelMeasuresSequence[0].PixelSpacing, source.PixelSpacing, atol=1e-9)
    places = {pydicom.dcmread(root / file).SOPInstanceUID: pydicom.dcmread(root / file) for file in record["files"]}
    for group in seg.PerFrameFunctionalGroupsSequence:
        image = places[group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        np.testing.assert_allclose(
            group.PlanePositionSequence[0].ImagePositionPatient, image.ImagePositionPatient, atol=1e-6
        )


def test_every_plane_of_the_phantom(phantom_archive: Path, tmp_path: Path) -> None:
    contents = contents_of(phantom_archive)
    seen = set()
    for record in contents.records.filter(pl.col("format") == "dicom").iter_rows(named=True):
        if record["plane"] in seen:
            continue
        seen.add(record["plane"])
        root, path = contents.root_of(record), tmp_path / f"{record['series_id']}.dcm"
        check_against_files(path, root, record, written(path, root, record))
        assert np.array_equal(read_seg(path, record), read_volume(root, record).data[0] > threshold(
            read_volume(root, record).data[0]))  # fmt: skip
    assert len(seen) >= 2


@pytest.mark.parametrize(
    "name", ["brain_t1_enh_xa30", "brain_trace_enh_xa30", "brain_pd_ge", "knee_mese_ge", "prostate_t2sag_px0000"]
)
def test_real_series_of_one_file_of_many_and_of_parts(name: str, shared: Path, tmp_path: Path) -> None:
    root = shared / "mri/dicom" / name
    contents = contents_of(root)
    record = contents.records.row(contents.records.height - 1, named=True)
    volume = read_volume(root, record).data[0]
    limit = threshold(volume)
    write_seg(tmp_path / "s.dcm", {"": volume > limit}, root, record, "", "decipher")
    assert np.array_equal(read_seg(tmp_path / "s.dcm", record), volume > limit)
    sources = {one.SOPInstanceUID: one for one in (pydicom.dcmread(root / file) for file in record["files"])}
    for uid, number, image in pixels_by_image(tmp_path / "s.dcm"):
        source = sources[uid]
        stored = source.pixel_array.reshape(-1, source.Rows, source.Columns)[number - 1].astype(float)
        if "PerFrameFunctionalGroupsSequence" in source:
            stored = stored * _slope(source, number - 1)
        assert np.array_equal(image, stored > limit), (uid, number)


def _slope(source: pydicom.Dataset, frame: int) -> float:
    groups = source.PerFrameFunctionalGroupsSequence[frame], source.SharedFunctionalGroupsSequence[0]
    found = [
        group.PixelValueTransformationSequence[0] for group in groups if "PixelValueTransformationSequence" in group
    ]
    assert not found or found[0].RescaleIntercept == 0
    return float(found[0].RescaleSlope) if found else 1.0


def test_nobody_is_named(series: PhantomSeries, tmp_path: Path) -> None:
    def named(one: pydicom.Dataset, number: int) -> None:
        one.update(PERSON)
        one.ImageComments = "Mrs MILLER, MRN-4711"

    root, record = saved(tmp_path / "MILLER", series, named)
    written(tmp_path / "s.dcm", root, record)
    content = (tmp_path / "s.dcm").read_bytes()
    for value in [*PERSON.values(), "MILLER", "JANE", "HOUSE"]:
        assert value.encode() not in content, value
    found = pydicom.dcmread(tmp_path / "s.dcm")
    assert found.PatientID == "0123456789abcdef" and str(found.PatientName) == "" and not found.PatientBirthDate
    source = pydicom.dcmread(root / record["files"][0])
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[name].value == source[name].value
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert found.SeriesInstanceUID != source.SeriesInstanceUID and found.Modality == "SEG"


def test_segments_are_told_by_label_and_code(series: PhantomSeries, tmp_path: Path) -> None:
    root, record = saved(tmp_path / "a", series)
    volume = read_volume(root, record).data[0]
    masks = {"": volume > 60, "Kidney": volume > 90, "linker Nierenpol, groß": volume < -1}
    write_seg(tmp_path / "s.dcm", masks, root, record, "", "decipher")
    found = hd.seg.segread(tmp_path / "s.dcm")
    one, two, three = (found.get_segment_description(number) for number in (1, 2, 3))
    assert [d.segment_label for d in (one, two, three)] == ["lesion", "Kidney", "linker Nierenpol, groß"]
    assert {str(d.SegmentAlgorithmType) for d in (one, two, three)} == {"AUTOMATIC"}
    assert (one.segmented_property_type.value, two.segmented_property_type.value) == ("52988006", "64033007")
    assert three.segmented_property_type.scheme_designator == "99DECIPHER"
    for number, mask in enumerate(masks.values(), start=1):
        assert np.array_equal(read_seg(tmp_path / "s.dcm", record, number), mask)
    assert np.array_equal(read_seg(tmp_path / "s.dcm", record), volume > 60)


def test_nothing_marked_is_a_whole_object(series: PhantomSeries, tmp_path: Path) -> None:
    root, record = saved(tmp_path / "a", series)
    write_seg(tmp_path / "s.dcm", {"": np.zeros(record["shape"], bool)}, root, record, "", "decipher")
    assert not read_seg(tmp_path / "s.dcm", record).any()


def test_the_same_mask_is_the_same_instance(series: PhantomSeries, tmp_path: Path) -> None:
    root, record = saved(tmp_path / "a", series)
    mask = read_volume(root, record).data[0] > 80
    uids = []
    for number, masks in enumerate([{"": mask}, {"": mask}, {"": ~mask}, {"cyst": mask}]):
        write_seg(tmp_path / f"{number}.dcm", masks, root, record, "", "decipher")
        found = pydicom.dcmread(tmp_path / f"{number}.dcm")
        uids.append((found.SOPInstanceUID, found.SeriesInstanceUID))
    assert uids[0] == uids[1] and len(set(uids)) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one, number: delattr(one, "FrameOfReferenceUID"), "no FrameOfReferenceUID"),
        (lambda one, number: setattr(one, "FrameOfReferenceUID", generate_uid()), "share one FrameOfReferenceUID"),
        (lambda one, number: delattr(one, "SOPClassUID"), "no SOPClassUID"),
        (
            lambda one, number: setattr(one, "SOPClassUID", f"1.2.840.10008.5.1.4.1.1.4{'.1' * (number % 2)}"),
            "one class",
        ),
    ],
)
def test_images_that_cannot_be_referred_to(change: Change, said: str, series: PhantomSeries, tmp_path: Path) -> None:
    root, record = saved(tmp_path / "a", series, change)
    with pytest.raises(DecipherError, match=said):
        written(tmp_path / "s.dcm", root, record)
    assert not (tmp_path / "s.dcm").exists()


def test_tiles_of_a_mosaic_are_told(shared: Path, tmp_path: Path) -> None:
    root = shared / "mri/dicom/brain_dwi_uih"
    with pytest.raises(DecipherError, match="tiles of one image"):
        written(tmp_path / "s.dcm", root, contents_of(root).records.row(0, named=True))


@pytest.mark.parametrize("label", ["x" * 65, "left\\right", "two\nlines"])
def test_labels_that_are_no_dicom_text(label: str) -> None:
    check_labels(["", "x" * 64, "Läsion"])
    with pytest.raises(DecipherError, match="cannot stand in DICOM"):
        check_labels(["lesion", label])


# --- reading


def test_an_object_of_another_maker_is_read(shared: Path, tmp_path: Path) -> None:
    """dcmqi's example: the liver in three slices of CT."""
    folder = shared / "dicom-zoo/paramap_seg_series/input/segmentations"
    (tmp_path / "ct").mkdir()
    for path in folder.rglob("0?.dcm"):
        shutil.copy(path, tmp_path / "ct")
    options = ScanOptions(2, include=frozenset({"not_mr"}))
    (record,) = scan(tmp_path / "ct", options).records.to_dicts()
    (path,) = folder.rglob("liver.dcm")
    seg = hd.seg.segread(path)
    uids = [pydicom.dcmread(tmp_path / "ct" / file).SOPInstanceUID for file in record["files"]]
    by_image = seg.get_pixels_by_source_instance(
        uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    found = read_seg(path, record)
    assert found.sum() == (by_image > 0).any(axis=-1).sum() > 1000
    per_slice = sorted((by_image > 0).any(axis=-1).sum(axis=(1, 2)).tolist())
    assert sorted(found.sum(axis=(0, 1)).tolist()) == per_slice


def test_a_mask_of_a_table_may_be_dicom(series: PhantomSeries, tmp_path: Path) -> None:
    root, record = saved(tmp_path / "a", series)
    volume = read_volume(root, record).data[0]
    write_seg(tmp_path / "s.dcm", {"bright": volume > 90, "any": volume > 50}, root, record, "", "decipher")
    assert is_dicom(tmp_path / "s.dcm")
    pl.DataFrame({"series_id": [record["series_id"]] * 2, "mask": ["s.dcm"] * 2, "value": [1, 2], "label": ["b", "a"]}
                 ).write_csv(tmp_path / "masks.csv")  # fmt: skip
    cases = read_cases(tmp_path / "masks.csv", contents_of(root)).cases
    assert [np.array_equal(case.read_mask(), volume > limit) for case, limit in zip(cases, (90, 50), strict=True)] == [
        True
    ] * 2


def test_masks_that_lie_elsewhere_are_refused_by_name(series: PhantomSeries, tmp_path: Path) -> None:
    root, record = saved(tmp_path / "a", series)
    written(tmp_path / "s.dcm", root, record)
    for name, by_mm in (("near", 0.02), ("far", 1.5)):
        affine = np.array(record["affine_mm"]).reshape(4, 4)
        affine[0, 3] += by_mm
        moved = {**record, "affine_mm": affine.ravel().tolist()}
        if name == "near":
            assert read_seg(tmp_path / "s.dcm", moved).any()
        else:
            with pytest.raises(Rejection, match=r"bad_geometry: frame 1 does not lie on voxels"):
                read_seg(tmp_path / "s.dcm", moved)
    with pytest.raises(Rejection, match="its segments are 1, and not 4"):
        read_seg(tmp_path / "s.dcm", record, 4)
    with pytest.raises(Rejection, match="no segmentation"):
        read_seg(root / record["files"][0], record)
    pl.DataFrame({"series_id": [record["series_id"]], "mask": [f"a/{record['files'][0]}"]}).write_csv(
        tmp_path / "m.csv"
    )
    with pytest.raises(DecipherError, match=r"000\.dcm cannot be read: not_an_image"):
        read_cases(tmp_path / "m.csv", contents_of(root))
