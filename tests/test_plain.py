"""Plain headers: the values are pydicom's, whatever the syntax and nesting, and what is not plain is refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from test_dicom import image as image_of

from index.finding import read_head
from index.plain import Plain, read_plain
from index.tags import PRIVATE_B_VALUES, number, numbers, remembered, several, text, wanted, words

PLAIN_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
SHIPPED = Path(str(get_testdata_file("MR_small.dcm"))).parent


def image(place: int) -> Dataset:
    dataset = image_of("1.2.9", place, np.arange(12).reshape(3, 4))
    dataset.file_meta = FileMetaDataset()
    return dataset


def cut(path: Path) -> Plain | None:
    return read_plain(path, read_head(path), wanted())


def by_pydicom(path: Path) -> Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(wanted()))


def values(dataset: Any) -> dict[int, tuple[Any, ...]]:
    """Every wanted element in all the ways it is asked for."""
    asked = {
        tag: (text(dataset, tag), words(dataset, tag), number(dataset, tag), numbers(dataset, tag)) for tag in wanted()
    }
    return {tag: told for tag, told in asked.items() if told[1]}


def saved(path: Path, dataset: Dataset, syntax: str) -> Path:
    dataset.file_meta.TransferSyntaxUID = syntax
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return path


def agree(paths: list[Path]) -> int:
    """How many of the files are plain; each of them has pydicom's values and its place of the pixels."""
    plain = 0
    for path in paths:
        found = cut(path)
        if found is not None:
            assert values(found) == values(by_pydicom(path)), path.name
            with path.open("rb") as stream:
                pydicom.dcmread(stream, stop_before_pixels=True, force=True)
                assert found.pixels_at - stream.tell() in (8, 12)
            plain += 1
    return plain


def test_files_that_pydicom_ships_have_the_same_values() -> None:
    paths = [path for path in sorted(SHIPPED.rglob("*")) if path.is_file() and path.suffix != ".py"]
    assert agree(paths) >= 40


def test_real_and_difficult_files_have_the_same_values(shared: Path) -> None:
    zoo = [path for path in sorted((shared / "dicom-zoo").rglob("input/**/*")) if path.is_file()]
    archive = [path for path in sorted((shared / "mri/dicom").rglob("*")) if path.is_file()]
    assert agree(zoo) >= 100
    assert agree(archive) >= 320


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_of_any_nesting_are_walked_over(tmp_path: Path, syntax: str, undefined: bool) -> None:
    innermost = Dataset()
    innermost.InstanceNumber = 99
    innermost.Rows = 7
    middle = Dataset()
    middle.ReferencedSOPSequence = Sequence([innermost, innermost])
    middle["ReferencedSOPSequence"].is_undefined_length = undefined
    middle.is_undefined_length_sequence_item = undefined
    dataset = image(3)
    dataset.ReferencedStudySequence = Sequence([middle, Dataset(), middle])
    dataset["ReferencedStudySequence"].is_undefined_length = undefined
    found = cut(saved(tmp_path / "a.dcm", dataset, syntax))
    assert found is not None
    assert (
        number(found, "InstanceNumber") == number(dataset, "InstanceNumber") and number(found, "Rows") == dataset.Rows
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    syntax=st.sampled_from(PLAIN_SYNTAXES),
    description=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60),
    echoes=st.lists(st.floats(0, 1000).map(lambda value: round(value, 3)), min_size=1, max_size=3),
    b_value=st.floats(0, 5000),
    filler=st.integers(0, 200_000),
)
def test_values_survive_every_syntax(
    tmp_path: Path, syntax: str, description: str, echoes: list[float], b_value: float, filler: int
) -> None:
    dataset = image(1)
    dataset.SeriesDescription = description
    dataset.EchoTime = [f"{echo:g}" for echo in echoes]
    dataset.DiffusionBValue = b_value
    dataset.add_new(0x00091001, "OB", bytes(filler + filler % 2))
    path = saved(tmp_path / "a.dcm", dataset, syntax)
    found = cut(path)
    assert found is not None
    assert values(found) == values(by_pydicom(path))
    assert number(found, "DiffusionBValue") == b_value


@pytest.mark.parametrize(
    ("tag", "vr", "stored"),
    [
        (0x0019100C, "IS", "700"),
        (0x20011003, "FL", 700.0),
        (0x00431039, "IS", ["700", "8", "0"]),
        (0x00651009, "FD", 700.0),
    ],
)
@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES)
def test_private_b_values_are_read_without_their_creator(
    tmp_path: Path, tag: int, vr: str, stored: Any, syntax: str
) -> None:
    dataset = image(1)
    dataset.add_new(tag, vr, stored)
    found = cut(saved(tmp_path / "a.dcm", dataset, syntax))
    assert found is not None and tag in PRIVATE_B_VALUES and number(found, tag) == 700


def test_what_is_not_plain_is_refused(tmp_path: Path) -> None:
    assert cut(saved(tmp_path / "deflated.dcm", image(1), DeflatedExplicitVRLittleEndian)) is None
    other = image(1)
    other.SpecificCharacterSet, other.SeriesDescription = "ISO_IR 192", "Schädel"
    assert cut(saved(tmp_path / "utf8.dcm", other, ExplicitVRLittleEndian)) is None
    bare = image(1)
    del bare.PixelData
    assert cut(saved(tmp_path / "bare.dcm", bare, ExplicitVRLittleEndian)) is None
    whole = saved(tmp_path / "whole.dcm", image(1), ExplicitVRLittleEndian).read_bytes()
    for end in range(0, whole.index(b"\xe0\x7f\x10\x00"), 11):
        (tmp_path / "cut.dcm").write_bytes(whole[:end])
        assert cut(tmp_path / "cut.dcm") is None


def test_a_remembered_function_sees_its_own_elements_alone() -> None:
    calls = []

    @remembered("EchoTime", "Rows")
    def told(dataset: Any) -> tuple[Any, ...]:
        calls.append(1)
        return number(dataset, "EchoTime"), number(dataset, "Rows"), number(dataset, "Columns")

    first = Plain({0x00180081: (b"DS", b"90"), 0x00280010: (b"US", b"\x10\0"), 0x00280011: (b"US", b"\x08\0")})
    second = Plain({**first, 0x00280011: (b"US", b"\x20\0")})
    assert told(first) == told(second) == (90.0, 16.0, None) and len(calls) == 1
    assert told(Plain({**first, 0x00180081: (b"DS", b"91")}))[0] == 91.0 and len(calls) == 2
    dataset = pydicom.dcmread(io.BytesIO(), force=True)
    dataset.EchoTime, dataset.Columns = "90", 8
    assert told(dataset) == (90.0, None, 8.0)


def test_several_gives_what_is_there() -> None:
    assert several(Plain({0x00200032: (b"DS", b"1\\2\\-3.5 ")}), "ImagePositionPatient") == ["1", "2", "-3.5"]
    assert several(Plain(), "ImagePositionPatient") == []
