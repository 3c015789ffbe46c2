"""`decipher scan`, and what comes of its catalogue: the files beside it, --check, --include, a selection that is encoded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_dicom import image, write, write_stack
from test_nifti import noise, save

from index.store import Index

Command = Callable[..., Any]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    write_stack(root / "a", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_stack(root / "b", series="1.2.8", EchoTime="90", RepetitionTime="50", ScanningSequence="SE")
    save(root / "sub-01_T1w.nii.gz", noise())
    (root / "b/report.txt").write_text("Normal brain.")
    return root


def rows(path: Path) -> dict[str, str]:
    return dict(pl.read_parquet(path).select("path", "code").iter_rows())


def test_a_scan_writes_catalogue_ledger_stamps_and_a_private_key(
    decipher: Command, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.parquet"
    run = decipher("scan", archive, "-o", out, "--json")
    told = json.loads(run.out)
    assert run.code == 0 and told.keys() >= {"files", "series", "rejected", "codes", "seconds"}
    assert (told["files"], told["series"], told["rejected"]) == (14, 2, 7)
    assert told["codes"] == {"localizer": 6, "report": 1} and told["contradicting"] == 2
    assert sorted(path.name for path in tmp_path.glob("c.*")) == [
        "c.files.parquet",
        "c.key",
        "c.parquet",
        "c.rejects.parquet",
    ]
    assert (tmp_path / "c.key").stat().st_mode & 0o777 == 0o600
    assert pl.read_parquet(out).filter(pl.col("format") == "dicom")["report"].to_list() == ["Normal brain."]
    info = decipher("info", out, "--json").json_lines()[0]
    assert info == {"kind": "catalogue", "archive": str(archive), "files": 14, "series": 2, "rejected": 7}
    before = {path.name: path.read_bytes() for path in tmp_path.glob("c.*")}
    again = decipher("scan", archive, "-o", out, "--json")
    assert "Nothing changed" in again.err and json.loads(again.out)["series"] == 2
    assert {path.name: path.read_bytes() for path in tmp_path.glob("c.*")} == before


def test_check_lists_what_contradicts_of_an_archive_and_of_its_catalogue(
    decipher: Command, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.parquet"
    told = decipher("scan", archive, "-o", out, "--check", "--json").json_lines()
    assert [one.get("contradictions") for one in told[:-1]] == [
        "TE 90 is longer than TR 50",
        "sform and qform differ by up to 1.3 mm (sform used)",
    ]
    table = decipher("scan", out, "--check")
    assert table.code == 0 and "TE 90 is longer than TR 50" in table.out


def test_include_lets_a_localizer_in_and_nothing_else(decipher: Command, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.parquet"
    assert decipher("scan", archive, "-o", out, "--include", "localizer").code == 0
    found = pl.read_parquet(out)
    assert found.height == 3 and set(found["sequence"]) >= {"LOCALIZER"}
    refused = decipher("scan", archive, "-o", out, "--include", "truncated")
    assert refused.code == 2 and "localizer" in refused.err


def test_parts_are_as_many_as_asked_for(decipher: Command, tmp_path: Path) -> None:
    for time in range(6):
        for place in range(5):
            tags = {"TemporalPositionIdentifier": time + 1}
            write(tmp_path / f"d/{time}-{place}", image("1.2", place, np.arange(20).reshape(5, 4) + time, **tags))
    for parts, expected in ((1, ["t=0"]), (3, ["t=0", "t=2", "t=5"]), (9, [f"t={time}" for time in range(6)])):
        out = tmp_path / f"{parts}.parquet"
        assert decipher("scan", tmp_path / "d", "-o", out, "--parts", parts).code == 0
        assert pl.read_parquet(out)["part"].to_list() == expected


def test_a_selection_of_a_catalogue_is_encoded(decipher: Command, index: Path, archive: Path, tmp_path: Path) -> None:
    model = Index.open(index).card["model"]
    out, chosen, place = tmp_path / "c.parquet", tmp_path / "dicom.parquet", tmp_path / "mine"
    decipher("scan", archive, "-o", out)
    pl.read_parquet(out).filter(pl.col("format") == "dicom").write_parquet(chosen)
    run = decipher("encode", chosen, "-i", place, "-m", model, "--json")
    assert run.code == 0 and run.json_lines()[-1]["encoded"] == 1
    made = Index.open(place)
    assert made.key == (tmp_path / "c.key").read_bytes()
    assert made.archives["archive"].root == archive
    other = decipher("encode", chosen, "-i", index)
    assert other.code == 1 and "another key" in other.err


def test_encoding_again_reads_no_file_of_an_unchanged_archive(
    decipher: Command, index: Path, archive: Path, tmp_path: Path
) -> None:
    from test_scanned import opened_below

    place, model = tmp_path / "mine", Index.open(index).card["model"]
    assert decipher("encode", archive, "-i", place, "-m", model).code == 0
    with opened_below(archive) as opened:
        run = decipher("encode", archive, "-i", place, "--json")
    assert opened == [] and run.json_lines()[-1]["unchanged"] == 2
    (archive / "sub-02_T1w.nii.gz").write_bytes((archive / "sub-01_T1w.nii.gz").read_bytes())
    assert decipher("encode", archive, "-i", place, "--json").json_lines()[-1]["encoded"] == 1


def test_a_catalogue_within_the_archive_is_no_part_of_it(decipher: Command, archive: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(archive)
    first = json.loads(decipher("scan", ".", "--json").out)
    again = decipher("scan", ".", "--json")
    assert "Nothing changed" in again.err and json.loads(again.out)["files"] == first["files"] == 14
    assert decipher("scan", ".", "-o", "other.parquet", "--json").json_lines()[0]["files"] == 14
