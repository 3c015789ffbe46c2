"""BIDS: what a name says, what a sidecar says of whom, who the participant is, and what volumes of a run weigh."""

import gzip
import json
import os
import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from index.bids import describe
from index.finding import kind_of, opened, place_of, walk
from index.ledger import Rejection
from index.options import ScanOptions
from index.record import patient_hash
from index.surroundings import Person, Surroundings, entities

IMAGE = nib.Nifti1Image(np.random.default_rng(0).integers(0, 900, (8, 7, 6)).astype("<i2"), np.diag([2.0, 2, 2, 1]))
RAW = gzip.compress(IMAGE.to_bytes(), 1)


def make(root: Path, files: dict[str, Any]) -> Path:
    """Write images (None), JSON (a dict), text, bytes or arrays (4D) below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.write_bytes(RAW)
        elif isinstance(content, np.ndarray):
            path.write_bytes(gzip.compress(nib.Nifti1Image(content, IMAGE.affine).to_bytes(), 1))
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def around(root: Path) -> Surroundings:
    return Surroundings.of(root, [file.path for file in walk(root)[0]])


def described(root: Path, options: ScanOptions | None = None) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Records of each NIfTI file by its path, and the codes of those that are refused."""
    surroundings, records, codes = around(root), {}, {}
    for file in walk(root)[0]:
        try:
            found = opened(place_of(root, file.path), file.size_bytes)
            if kind_of(found.start, file.path) == "nifti":
                records[file.path] = describe(root, file, found, surroundings, options or ScanOptions(), b"key")
        except Rejection as rejection:
            codes[file.path] = rejection.code
    return records, {path: code for path, code in codes.items() if code != "companion"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sub-01_ses-2_T1w.nii.gz", {"sub": "01", "ses": "2", "suffix": "T1w"}),
        ("sub-01/ses-b/anat/sub-01_ses-b_acq-hi_FLAIR.nii", {"sub": "01", "ses": "b", "acq": "hi", "suffix": "FLAIR"}),
        ("sub-01/ses-b/sub-01_T1w.nii", {"sub": "01", "ses": "b", "suffix": "T1w"}),
        ("T1_post.nii.gz", {}),
        ("sub-9/T1.nii", {"sub": "9"}),
        ("sub-01.nii", {}),
    ],
)
def test_entities(path: str, expected: dict[str, str]) -> None:
    assert entities(path) == expected


def test_sidecars_are_inherited_and_what_is_nearer_wins_key_by_key(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "T1w.json": {"who": "outside", "outside": True},
            "ds/dataset_description.json": {},
            "ds/T1w.json": {"who": "root", "root": 1, "list": [1, 2]},
            "ds/acq-hi_T1w.json": {"who": "root, closer", "closer": 1},
            "ds/acq-lo_T1w.json": {"who": "another acquisition", "lo": 1},
            "ds/T2w.json": {"who": "another suffix", "t2": 1},
            "ds/sub-01/sub-01_T1w.json": {"who": "subject", "subject": 1, "list": [3]},
            "ds/sub-01/ses-1/sub-01_ses-1_T1w.json": {"who": "session", "session": 1},
            "ds/sub-01/ses-2/sub-01_ses-2_T1w.json": {"who": "another session", "ses2": 1},
            "ds/sub-01/ses-1/anat/sub-01_ses-1_acq-hi_T1w.json": {"who": "own"},
            "ds/sub-01/ses-1/anat/sub-01_ses-1_acq-hi_T1w.nii.gz": None,
            "ds/sub-02/anat/sub-02_T1w.nii.gz": None,
        },
    )
    found = around(tmp_path)
    assert found.sidecar("ds/sub-01/ses-1/anat/sub-01_ses-1_acq-hi_T1w.nii.gz") == {
        "who": "own", "root": 1, "closer": 1, "subject": 1, "session": 1, "list": [3],
    }  # fmt: skip
    assert found.sidecar("ds/sub-02/anat/sub-02_T1w.nii.gz") == {"who": "root", "root": 1, "list": [1, 2]}


def test_an_archive_without_a_dataset_is_one_and_other_names_have_their_own_sidecar_only(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "T1w.json": {"EchoTime": 0.003},
            "sub-1/sub-1_T1w.nii.gz": None,
            "any/T1w.nii.gz": None,
            "any/scan 1.nii": IMAGE.to_bytes(),
            "any/scan 1.json": {"EchoTime": 0.08},
        },
    )
    found = around(tmp_path)
    assert found.sidecar("sub-1/sub-1_T1w.nii.gz") == {"EchoTime": 0.003}
    assert found.sidecar("any/T1w.nii.gz") == {}
    assert found.sidecar("any/scan 1.nii") == {"EchoTime": 0.08}


def test_another_images_sidecar_counts_only_for_an_image_without_its_own(tmp_path: Path) -> None:
    names = {f"sub-1/sub-1_{name}_bold.nii.gz": None for name in ("task-a", "task-a_run-2", "task-b_run-2")}
    beside = {"sub-1/sub-1_task-a_bold.json": {"EchoTime": 1, "TaskName": "a"}}
    found = around(make(tmp_path, {**names, **beside}))
    assert found.sidecar("sub-1/sub-1_task-a_run-2_bold.nii.gz") == {"EchoTime": 1, "TaskName": "a"}
    assert found.sidecar("sub-1/sub-1_task-b_run-2_bold.nii.gz") == {}
    make(tmp_path, {"sub-1/sub-1_task-a_run-2_bold.json": {"EchoTime": 2}})
    assert around(tmp_path).sidecar("sub-1/sub-1_task-a_run-2_bold.nii.gz") == {"EchoTime": 2}


BAD = {
    "cut": b'{"EchoTime": 0.1,,',
    "list": b"[1, 2]",
    "empty": b"",
    "bytes": b"\xff\xfe\x00\x01" * 40,
    "nested": b"[" * 2_000_000,
    "nested objects": b'{"a":' * 600_000,
    "large": b'{"EchoTime": 0.1}' + b" " * 4_000_000,
    "number": b'{"EchoTime": 1' + b"0" * 9000 + b"}",
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_sidecar_is_as_good_as_none(tmp_path: Path, case: str) -> None:
    make(tmp_path, {"T1w.json": BAD[case], "sub-1_T1w.nii.gz": None, "sub-1_T1w.json": BAD[case]})
    records, codes = described(tmp_path)
    assert codes == {} and records["sub-1_T1w.nii.gz"][0]["echo_time_ms"] is None


def test_a_pipe_or_a_folder_in_a_sidecars_place_stops_nothing(tmp_path: Path) -> None:
    make(tmp_path, {"sub-1_T1w.nii.gz": None, "sub-2_T1w.nii.gz": None})
    os.mkfifo(tmp_path / "sub-1_T1w.json")
    (tmp_path / "sub-2_T1w.json").mkdir()
    assert set(described(tmp_path)[0]) == {"sub-1_T1w.nii.gz", "sub-2_T1w.nii.gz"}


def test_what_a_sidecar_may_hold_in_place_of_what_it_should(tmp_path: Path) -> None:
    odd = {
        "EchoTime": [0.1, 0.2], "RepetitionTime": "2", "FlipAngle": True, "InversionTime": -1, "ProtocolName": 7,
        "SeriesDescription": "a\ud800b" * 500, "Manufacturer": ["Siemens"], "ManufacturersModelName": "\udfff",
        "MagneticFieldStrength": 1e300,
        "ContrastBolusIngredient": 1, "ImageType": [1, None, ["x"]], "PatientAge": {"a": 1}, "PatientSex": ["F"],
    }  # fmt: skip
    make(tmp_path, {"sub-1_T1w.nii.gz": None, "sub-1_T1w.json": odd})
    record = described(tmp_path)[0]["sub-1_T1w.nii.gz"][0]
    names = ("echo_time_ms", "repetition_time_ms", "flip_angle_deg", "inversion_time_ms", "field_strength_t", "vendor")
    assert [record[name] for name in (*names, "age_years", "sex", "contrast_agent")] == [None] * 9
    for value in record.values():
        json.dumps(value).encode("utf-8")
    assert (record["model_name"] or "").encode("utf-8") in (b"", b"?")


def test_times_are_milliseconds_and_text_is_what_it_names(tmp_path: Path) -> None:
    side = {
        "EchoTime": 0.00298, "RepetitionTime": 2.3, "InversionTime": 0.9, "FlipAngle": 9, "MagneticFieldStrength": 3,
        "Manufacturer": "Siemens", "PatientAge": "044Y", "PatientSex": "F", "BodyPartExamined": "BRAIN",
        "SeriesDescription": "t1_mprage", "ScanningSequence": ["GR", "IR"], "PulseSequenceName": "tfl3d",
    }  # fmt: skip
    make(tmp_path, {"sub-1_ses-2_T1w.nii.gz": None, "sub-1_ses-2_T1w.json": side, "participants.tsv": TABLE})
    record = described(tmp_path)[0]["sub-1_ses-2_T1w.nii.gz"][0]
    assert [record[name] for name in ("echo_time_ms", "repetition_time_ms", "inversion_time_ms")] == [2.98, 2300, 900]
    assert (record["age_years"], record["age_years_from"], record["sex"], record["sex_from"]) == (
        44.0, "sidecar", "F", "sidecar",
    )  # fmt: skip
    assert (record["sequence"], record["body_region"], record["vendor"]) == ("T1", "brain", "Siemens")
    assert (record["sequence_name"], record["field_strength_t"]) == ("tfl3d", 3)
    assert record["patient_id"] == patient_hash("sub-1", b"key") and record["files"] == ["sub-1_ses-2_T1w.nii.gz"]


TABLE = "participant_id\tage\tsex\nsub-1\t30\tM\n2\t89+\tfemale\nsub-3\tn/a\tn/a\nsub-4\t97\tO\nsub-5\t12.5\n"


def test_participants_tell_age_and_sex(tmp_path: Path) -> None:
    found = around(
        make(tmp_path, {"participants.tsv": "\ufeff" + TABLE.replace("sex", "Gender").replace("\n", "\r\n")})
    )
    assert [found.person(f"sub-{number}/anat/sub-{number}_T1w.nii.gz") for number in range(1, 7)] == [
        Person(30, "participants", "M", "participants"),
        Person(90, "participants", "F", "participants"),
        Person(),
        Person(90, "participants", "O", "participants"),
        Person(12.5, "participants", None, None),
        Person(),
    ]
    assert found.person("T1.nii.gz") == Person()


def test_a_sessions_age_wins_over_the_participants(tmp_path: Path) -> None:
    own = "session_id\tage\nses-1\t30.5\nses-2\t32\nses-3\tn/a\n"
    everyone = "participant_id\tsession_id\tage\nsub-2\tses-1\t41\nsub-3\tses-1\t51\n"
    make(tmp_path, {"participants.tsv": TABLE, "sub-1/sub-1_sessions.tsv": own, "sessions.tsv": everyone})
    found = around(tmp_path)
    assert found.person("sub-1/ses-2/sub-1_ses-2_T1w.nii") == Person(32, "sessions", "M", "participants")
    assert found.person("sub-1/ses-1/T1.nii") == Person(30.5, "sessions", "M", "participants")
    assert found.person("sub-1/ses-3/sub-1_ses-3_T1w.nii") == Person(30, "participants", "M", "participants")
    assert found.person("sub-2_ses-1_T1w.nii") == Person(41, "sessions", "F", "participants")
    assert found.person("sub-2_ses-2_T1w.nii") == Person(90, "participants", "F", "participants")


def test_each_dataset_has_its_own_participants_and_a_derivative_those_of_its_source(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "participants.tsv": TABLE,
            "a/dataset_description.json": {},
            "a/participants.tsv": "participant_id\tage\nsub-1\t50\n",
            "a/derivatives/soft/dataset_description.json": {},
            "b/dataset_description.json": {},
        },
    )
    found = around(tmp_path)
    ages = [
        found.person(f"{folder}sub-1/sub-1_T1w.nii").age_years for folder in ("", "a/", "a/derivatives/soft/", "b/")
    ]
    assert ages == [30, 50, 50, None]


@pytest.mark.parametrize(
    "table",
    [
        b"participant_id\tage\nsub-1\t\xff\xfe\n",
        b"",
        b"\x00\x01",
        b"age\n5\n",
        b"participant_id,age\nsub-1,5\n",
        b"\n\n\n",
    ],
)
def test_a_broken_table_is_as_good_as_none(tmp_path: Path, table: bytes) -> None:
    make(tmp_path, {"participants.tsv": table, "sub-1_T1w.nii.gz": None})
    assert described(tmp_path)[0]["sub-1_T1w.nii.gz"][0]["age_years"] is None


RUN = np.random.default_rng(0).integers(0, 900, (8, 7, 6, 10)).astype("<i2")


def test_each_chosen_volume_has_its_own_b_value(tmp_path: Path) -> None:
    values = "0 5 1000 1000 2000 0 1000 1000 1000 2000\n"
    make(
        tmp_path,
        {
            "sub-1_dwi.nii.gz": RUN,
            "sub-1_dwi.bval": values,
            "sub-2/dwi/sub-2_dwi.nii.gz": RUN,
            "sub-2/dwi/sub-2_run-1_dwi.nii.gz": RUN,
            "dwi.bval": values.replace("2000", "3000"),
            "sub-3_dwi.nii.gz": RUN,
            "sub-3_dwi.bval": "0 1000",
            "sub-4_bold.nii.gz": RUN,
            "sub-5_T1w.nii.gz": None,
            "sub-5_T1w.bval": "1000",
        },
    )
    records, _ = described(tmp_path)
    told = {path: [(record["part"], record["b_value"]) for record in found] for path, found in records.items()}
    parts = ["t=0", "t=3", "t=6", "t=9"]
    assert told["sub-1_dwi.nii.gz"] == list(zip(parts, [0, 1000, 1000, 2000], strict=True))
    assert told["sub-2/dwi/sub-2_dwi.nii.gz"] == list(zip(parts, [0, 1000, 1000, 3000], strict=True))
    assert told["sub-3_dwi.nii.gz"] == told["sub-4_bold.nii.gz"] == [(part, None) for part in parts]
    assert told["sub-5_T1w.nii.gz"] == [(None, None)]
    assert {record["sequence"] for record in records["sub-1_dwi.nii.gz"]} == {"DWI"}


def test_a_diffusion_scheme_or_b_value_in_a_sidecar_is_diffusion(tmp_path: Path) -> None:
    make(tmp_path, {"a.nii.gz": None, "a.json": {"DiffusionScheme": "Monopolar"}})
    make(tmp_path, {"b.nii.gz": None, "b.json": {"DiffusionBValue": 800}})
    records, _ = described(tmp_path)
    assert [records[name][0]["sequence"] for name in ("a.nii.gz", "b.nii.gz")] == ["DWI", "DWI"]
    assert records["b.nii.gz"][0]["b_value"] == 800


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("sub-1_dseg.nii.gz", "mask"),
        ("sub-1_desc-brain_mask.nii.gz", "mask"),
        ("sub-1_label-GM_probseg.nii.gz", "mask"),
        ("derivatives/x/sub-1/sub-1_label-lesion_T1w.nii.gz", "mask"),
        ("derivatives/x/sub-1/sub-1_desc-aparcaseg_T1w.nii.gz", "mask"),
        ("derivatives/x/sub-1/sub-1_desc-preproc_T1w.nii.gz", None),
        ("sub-1/sub-1_desc-aparcaseg_T1w.nii.gz", None),
        ("sub-mask1/sub-mask1_T1w.nii.gz", None),
        ("sub-1/ses-loc/sub-1_ses-loc_T1w.nii.gz", None),
        ("sub-1/sub-1_acq-scout_T1w.nii.gz", "localizer"),
        ("survey.nii.gz", "localizer"),
    ],
)
def test_names_tell_masks_and_localisers_and_include_lets_them_in(tmp_path: Path, path: str, code: str | None) -> None:
    make(tmp_path, {path: None})
    assert described(tmp_path)[1] == ({path: code} if code else {})
    assert list(described(tmp_path, ScanOptions(include=frozenset({"mask", "localizer"})))[0]) == [path]


def test_names_in_other_alphabets_and_bytes_find_their_sidecars(tmp_path: Path) -> None:
    for name in ("脑 ü", os.fsdecode(b"odd\xff\xfe"), "new\nline", "-x"):
        make(tmp_path, {f"{name}.nii.gz": None, f"{name}.json": {"EchoTime": 0.01}})
    records, codes = described(tmp_path)
    assert codes == {} and [record["echo_time_ms"] for (record,) in records.values()] == [10] * 4


def test_a_folder_of_many_images_costs_each_of_them_no_more(tmp_path: Path) -> None:
    numbers = [f"sub-{number:05d}" for number in range(50_000)]
    paths = [f"{number}_{ending}" for number in numbers for ending in ("T1w.nii.gz", "T1w.json", "T2w.json")]
    make(tmp_path, {"sub-00007_T2w.json": {"a": 1}, "T2w.json": {"b": 2}})
    found = Surroundings.of(tmp_path, [*paths, "T2w.json"])
    assert found.sidecar("sub-00007_acq-x_T2w.nii.gz") == {"a": 1, "b": 2}
    assert found.sidecar("sub-00008_acq-x_T2w.nii.gz") == {"b": 2}
    assert len(found.shared) == 50_001 and {len(files) for files in found.shared.values()} == {1}


def test_own_sidecars_need_no_memory_and_the_rest_is_sent_to_workers(tmp_path: Path) -> None:
    make(tmp_path, {"sub-1_T1w.nii.gz": None, "sub-1_T1w.json": {"a": 1}, "T1w.json": {"b": 2}})
    numbers = [f"sub-{number}_T1w" for number in range(9999)]
    found = Surroundings.of(tmp_path, [name + end for name in numbers for end in (".nii.gz", ".json")] + ["T1w.json"])
    sent = pickle.dumps(found)
    assert len(sent) < 1000 and pickle.loads(sent).sidecar("sub-1_T1w.nii.gz") == {"a": 1, "b": 2}


def test_subjects_of_two_datasets_are_two_people(tmp_path: Path) -> None:
    image, mark = "sub-01/anat/sub-01_T1w.nii.gz", "dataset_description.json"
    one = {image: None, mark: {}, f"derivatives/pipeline/{image}": None, f"derivatives/pipeline/{mark}": {}}
    make(tmp_path, {f"{dataset}/{name}": content for dataset in ("one", "two") for name, content in one.items()})
    alone, _ = described(tmp_path / "one")
    both, _ = described(tmp_path)
    named = {path: records[0]["patient_id"] for path, records in both.items()}
    assert len(set(named.values())) == 2 and len({records[0]["study_id"] for records in both.values()}) == 2
    assert named[f"one/{image}"] == named[f"one/derivatives/pipeline/{image}"]
    assert {records[0]["patient_id"] for records in alone.values()} == {patient_hash("sub-01", b"key")}
