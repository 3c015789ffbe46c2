"""The catalogue as a whole: every file in one place, every record readable as described, nothing private let through."""

import itertools
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest
from test_dicom import image, write, write_stack
from test_nifti import AFFINE, noise, save

from index.catalog import SCHEMA, Catalogue, scan
from index.ledger import CODES, REJECT_SCHEMA, Rejection
from index.reading import read_volume, volume_at
from models.errors import DecipherError


def accounted(found: Catalogue) -> bool:
    """True where every file is in the files of records or in exactly one ledger row, never in both."""
    used = {file for files in found.records["files"] for file in files}
    told = found.rejects["path"].to_list()
    return used.isdisjoint(told) and len(set(told)) == len(told) and len(used) + len(told) == found.files


def test_a_dirty_tree_is_counted_to_the_last_file(tmp_path: Path) -> None:
    write_stack(tmp_path / "dicom")
    save(tmp_path / "nifti/T1.nii.gz", noise())
    save(tmp_path / "nifti/T1_mask.nii.gz", noise())
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "pack.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "gone.dcm").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.dcm")
    calls: list[tuple[int, int]] = []
    found = scan(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert accounted(found) and found.files == 13
    assert dict(found.rejects.select("path", "code").iter_rows()) == {
        "empty.dcm": "empty_file",
        "gone.dcm": "unreadable",
        "nifti/T1_mask.nii.gz": "mask",
        "notes.txt": "companion",
        "pack.zip": "packed",
        "pipe.dcm": "unreadable",
    }
    assert calls == [(n, 10) for n in range(1, 11)]
    assert dict(found.records.schema) == SCHEMA and dict(found.rejects.schema) == REJECT_SCHEMA
    assert set(found.rejects["reason"]) <= set(CODES.values())
    assert found.records["path"].to_list() == ["dicom", "nifti/T1.nii.gz"]


def test_loops_end_links_add_nothing_and_an_index_is_no_archive(tmp_path: Path) -> None:
    write_stack(tmp_path / "real")
    (tmp_path / "real/loop").symlink_to("..")
    (tmp_path / "another").symlink_to("real")
    (tmp_path / "decipher-index/segments").mkdir(parents=True)
    (tmp_path / "decipher-index/manifest.json").write_text("{}")
    found = scan(tmp_path)
    assert accounted(found) and found.files == 6
    assert found.records["path"].to_list() == ["real"]


def test_the_archive_itself_may_be_a_link(tmp_path: Path) -> None:
    write_stack(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert scan(tmp_path / "link").records["path"].to_list() == ["."]


@pytest.mark.parametrize(
    "name", [b"a b.nii", b"new\nline.nii", b"\xff\xfe_bad.nii", "脑 ü".encode(), b"-x.nii", b".hidden"]
)
def test_odd_names_are_kept_and_read_again(tmp_path: Path, name: bytes) -> None:
    save(tmp_path / "plain.nii", noise())
    os.rename(tmp_path / "plain.nii", os.path.join(os.fsencode(tmp_path), name))  # noqa: PTH104, PTH118
    found = scan(tmp_path)
    record = found.records.row(0, named=True)
    assert json.loads(json.dumps(record["path"])) == record["path"] and accounted(found)
    assert read_volume(tmp_path, record).data.sum() == noise().sum()


def test_one_file_is_an_archive_too(tmp_path: Path) -> None:
    save(tmp_path / "v.nii", noise())
    save(tmp_path / "w.nii", noise())
    found = scan(tmp_path / "v.nii")
    assert (found.files, found.records["path"].to_list()) == (1, ["v.nii"])
    assert read_volume(tmp_path / "v.nii", found.records.row(0, named=True)).data.sum() == noise().sum()


def test_an_archive_without_files_says_so(tmp_path: Path) -> None:
    found = scan(tmp_path)
    assert found.rejects["code"].to_list() == ["empty_folder"] and accounted(found)
    with pytest.raises(DecipherError):
        scan(tmp_path / "nowhere")


def test_identifiers_are_stable_and_the_fingerprint_follows_the_file(tmp_path: Path) -> None:
    write_stack(tmp_path / "d")
    save(tmp_path / "v.nii", noise())
    first, second = scan(tmp_path).records, scan(tmp_path).records
    assert first.equals(second)
    assert first["series_id"].str.len_chars().to_list() == [16, 16]
    os.utime(tmp_path / "v.nii", ns=(1, 1))
    third = scan(tmp_path).records
    assert third["series_id"].to_list() == first["series_id"].to_list()
    assert (third["fingerprint"] == first["fingerprint"]).to_list() == [True, False]


def test_nothing_private_leaves_the_header(tmp_path: Path) -> None:
    secret = {
        "PatientName": "Secret^Person",
        "PatientID": "SECRET-ID",
        "PatientBirthDate": "19310203",
        "StudyDate": "20200304",
        "AccessionNumber": "SECRET-ACC",
        "InstitutionName": "Secret Clinic",
        "PatientComments": "secret comment",
        "OperatorsName": "Secret^Operator",
        "StudyDescription": "secret study",
        "PatientAddress": "Secret Street",
    }
    write_stack(tmp_path / "good", **secret)
    write_stack(tmp_path / "bad", series="1.9", PixelSpacing=[0, 0], **secret)
    found = scan(tmp_path, key=b"k1")
    written = json.dumps([*found.records.to_dicts(), *found.rejects.to_dicts()]).lower()
    assert "secret" not in written and "1931" not in written
    record = found.records.row(0, named=True)
    assert (record["age_years"], record["age_years_from"]) == (89.0, "tag")
    other = scan(tmp_path, key=b"k2").records.row(0, named=True)
    assert len(record["patient_id"]) == 16 and record["patient_id"] != other["patient_id"]
    assert record["series_id"] == other["series_id"]


def test_acquisition_columns_are_typed_values(tmp_path: Path) -> None:
    write_stack(
        tmp_path,
        RepetitionTime="550",
        EchoTime="12.5",
        FlipAngle="90",
        MagneticFieldStrength="15000",
        Manufacturer="GE MEDICAL SYSTEMS",
        ScanningSequence="SE",
        PatientAge="101Y",
        PatientSex="F",
        MRAcquisitionType="2D",
        BodyPartExamined="KNEE",
    )
    record = scan(tmp_path).records.row(0, named=True)
    expected = {
        "repetition_time_ms": 550.0,
        "echo_time_ms": 12.5,
        "flip_angle_deg": 90.0,
        "field_strength_t": 1.5,
        "vendor": "GE",
        "sequence": "T1",
        "sequence_from": "physics",
        "age_years": 90.0,
        "sex": "F",
        "plane": "axial",
        "plane_from": "tag",
        "body_region": "knee",
        "body_region_from": "tag",
        "spacing_mm": [1.5, 2.0, 4.0],
        "shape": [4, 5, 6],
    }
    assert {name: record[name] for name in expected} == expected


def test_a_volume_that_changed_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "v.nii", noise())
    record = scan(tmp_path).records.row(0, named=True)
    save(tmp_path / "v.nii", noise((12, 11, 9)))
    with pytest.raises(Rejection) as caught:
        read_volume(tmp_path, record)
    assert caught.value.code == "changed"


def test_volume_at_a_nifti_a_slice_and_a_folder(tmp_path: Path) -> None:
    pixels = write_stack(tmp_path / "d")
    write(tmp_path / "d/other", image("1.9", 0, pixels[0]))
    save(tmp_path / "v.nii.gz", noise())
    for path in (tmp_path / "d", tmp_path / "d/3.dcm"):
        volume, record = volume_at(path)
        assert volume.data.shape == (1, 4, 5, 6) and record["format"] == "dicom"
        assert np.sort(volume.data.ravel()).tolist() == list(range(120))
    assert volume_at(tmp_path / "v.nii.gz")[0].data.sum() == noise().sum()
    for bad in (tmp_path / "d/other", tmp_path / "nowhere"):
        with pytest.raises(DecipherError):
            volume_at(bad)


@pytest.fixture(scope="module")
def real(shared: Path) -> Catalogue:
    return scan(shared / "mri")


def test_every_real_record_reads_as_described(shared: Path, real: Catalogue) -> None:
    root, found = shared / "mri", real
    assert accounted(found)
    labels = pl.read_csv(root / "labels.csv", infer_schema=False)
    known = {path.rstrip("/") for path in labels["path"]}
    taken = {path for path in known if any(r == path or r.startswith(path + "/") for r in found.records["path"])}
    assert len(taken) >= 83
    masks = set(labels["mask"].drop_nulls())
    assert masks <= set(found.rejects.filter(pl.col("code") == "mask")["path"])
    for record in itertools.islice(found.records.iter_rows(named=True), 0, None, 4):
        volume = read_volume(root, record)
        assert list(volume.data.shape[1:]) == record["shape"]
        np.testing.assert_allclose(volume.affine_mm.ravel(), record["affine_mm"], atol=1e-9)
        assert np.isfinite(volume.data).all() and volume.data.std() > 0


def test_real_labels_are_inferred(shared: Path, real: Catalogue) -> None:
    labels = pl.read_csv(shared / "mri/labels.csv", infer_schema=False).with_columns(
        pl.col("path").str.strip_chars_end("/")
    )
    records = real.records.with_columns(pl.col("path").str.replace(r"/0000\.dcm$", ""))
    both = records.join(labels, on="path", suffix="_label")
    wrong = both.filter(pl.col("sequence").is_not_null() & (pl.col("sequence") != pl.col("sequence_label")))
    assert set(wrong["path"]) <= {"dicom/knee_mese_ge"}
    assert both["sequence"].is_not_null().mean() > 0.9
    assert (both["plane"] == both["plane_label"]).all()
    assert both.filter(pl.col("body_region") != pl.col("body_region_label")).is_empty()


def test_a_float_mask_is_a_mask_whatever_its_type(tmp_path: Path) -> None:
    data = np.zeros((32, 32, 32), dtype="<f8")
    data[8:20, 8:20, 8:20] = 1
    (tmp_path / "v.nii").write_bytes(nib.Nifti1Image(data, AFFINE).to_bytes())
    assert scan(tmp_path).rejects["code"].to_list() == ["mask"]


def test_an_image_is_an_image_though_it_is_called_a_report(tmp_path: Path) -> None:
    save(tmp_path / "report.nii", noise())
    (tmp_path / "report.nii").rename(tmp_path / "report.txt")
    assert scan(tmp_path).records["path"].to_list() == ["report.txt"]
