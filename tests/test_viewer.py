"""The viewer: volumes travel small, in place and without a word about anyone, and a browser shows them."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from browser import CHROMIUM, Browser
from hypothesis import given, settings
from hypothesis import strategies as st

from decipher_cli import viewer
from decipher_cli.gallery import write_gallery
from decipher_cli.query import Question
from decipher_cli.viewer import embedded, nifti_bytes, niivue, packed, thinned, windowed
from index.archive import Archive
from index.catalog import scan
from index.search import Hit
from index.store import Index
from models.errors import DecipherError
from models.volume import Volume

OBLIQUE = np.array([[0.7, -0.2, 0.4, -30.0], [0.3, 0.9, -0.5, 12.0], [-0.1, 0.3, 3.0, 7.0], [0, 0, 0, 1]])


def volume(data: np.ndarray, affine: np.ndarray = OBLIQUE) -> Volume:
    return Volume(np.asarray(data, np.float32)[None], affine)


def corners_mm(one: Volume) -> np.ndarray:
    """The outer corners (2, 4) of a grid: half a voxel outside of its first and last voxels' centres."""
    ends = np.array([[-0.5] * 3, np.array(one.data.shape[1:]) - 0.5])
    return np.c_[ends, [1, 1]] @ one.affine_mm.T


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 40)] * 3), most=st.integers(1, 3000), side=st.integers(1, 40))
def test_a_thinned_volume_has_the_same_place_and_mean_and_fits(
    shape: tuple[int, int, int], most: int, side: int
) -> None:
    one = volume(np.random.default_rng(0).normal(100, 30, shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(viewer, "MOST_VOXELS", most)
        patch.setattr(viewer, "MOST_SIDE", side)
        small = thinned(one)
    assert small.data.size <= most
    assert max(small.data.shape) <= side
    np.testing.assert_allclose(corners_mm(small), corners_mm(one), atol=1e-9)
    np.testing.assert_allclose(small.data.mean(), one.data.mean(), rtol=1e-4)


def test_whole_blocks_are_averaged(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    data = rng.random((24, 24, 24)).astype(np.float32)
    monkeypatch.setattr(viewer, "MOST_VOXELS", 8**3)
    small = thinned(volume(data, np.eye(4)))
    np.testing.assert_allclose(small.data[0], data.reshape(8, 3, 8, 3, 8, 3).mean((1, 3, 5)), atol=1e-6)
    np.testing.assert_allclose(small.affine_mm, [[3, 0, 0, 1], [0, 3, 0, 1], [0, 0, 3, 1], [0, 0, 0, 1]])


def test_a_volume_that_fits_stays_as_it_is(rng: np.random.Generator) -> None:
    one = volume(rng.random((256, 90, 91)))
    np.testing.assert_array_equal(thinned(one).data, one.data)
    np.testing.assert_array_equal(thinned(one).affine_mm, one.affine_mm)


@pytest.mark.parametrize(
    ("shape", "spacing", "found"),
    [
        ((182, 218, 182), (1, 1, 1), (120, 144, 120)),
        ((512, 512, 8), (0.5, 0.5, 6), (256, 256, 8)),
        ((256, 256, 60), (0.9, 0.9, 3), (186, 186, 60)),
        ((24, 256, 256), (4, 0.6, 0.6), (24, 256, 256)),
    ],
)
def test_thick_slices_keep_their_number_and_voxels_grow_towards_cubes(shape, spacing, found) -> None:
    assert thinned(volume(np.zeros(shape), np.diag([*spacing, 1.0]))).data.shape[1:] == found


def test_intensities_span_the_window(rng: np.random.Generator) -> None:
    data = rng.normal(500, 100, (30, 30, 30))
    data[0, 0, 0] = 1e9
    grey = windowed(data)
    low, high = np.percentile(data, [0.5, 99.5])
    expected = np.interp(data, [low, high], [0, 255])
    assert grey.dtype == np.uint8
    assert np.abs(grey - expected).max() <= 0.5 + 1e-9
    assert not windowed(np.full((3, 3, 3), 7.0)).any()
    rare = np.zeros((10, 10, 10))
    rare[5, 5, 5] = 3
    assert windowed(rare)[5, 5, 5] == 255


def test_a_nifti_file_says_where_its_voxels_are_and_nothing_else(rng: np.random.Generator) -> None:
    one = volume(rng.random((5, 6, 7)))
    data = nifti_bytes(one)
    image = nibabel.Nifti1Image.from_bytes(data)
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj), windowed(one.data[0]))
    header = image.header
    assert (header.get_data_dtype(), header.get_xyzt_units()[0], int(header["cal_max"])) == (np.uint8, "mm", 255)
    for name in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        assert header[name].item().strip(b"\0") == b""
    assert len(header.extensions) == 0
    assert len(data) == 352 + 5 * 6 * 7


@given(st.binary(max_size=300))
def test_what_is_packed_comes_back_and_carries_no_time(data: bytes) -> None:
    stream = base64.b64decode(packed(data))
    assert gzip.decompress(stream) == data
    assert stream[3] == 0, "no file name"
    assert stream[4:8] == bytes(4), "no time of day"


def test_niivue_comes_from_the_wheel_and_its_package_is_not_imported() -> None:
    code = "import sys; from decipher_cli.viewer import niivue; text = niivue()"
    code += "; print(len(text), 'Niivue' in text, 'nilearn' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(said[0]) > 1_000_000
    assert said[1:] == ["True", "False"]


@pytest.mark.parametrize("folders", [None, ["/nowhere"]])
def test_without_the_wheel_it_is_said_what_to_install(folders: list[str] | None, monkeypatch) -> None:
    spec = None if folders is None else type("Spec", (), {"submodule_search_locations": folders})()
    monkeypatch.setattr(viewer, "find_spec", lambda name: spec)
    with pytest.raises(DecipherError) as caught:
        niivue()
    assert "pip install" in caught.value.hint


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator) -> Index:
    """Six NIfTI volumes, 24 mm cubes, dark but for the octant that is right, anterior and superior."""
    archive = Archive("archive", tmp_path / "archive")
    for number in range(6):
        data = rng.integers(0, 30, (24, 30, 20)).astype(np.int16)
        data[11:, 14:, 9:] += 600
        image = nibabel.Nifti1Image(data, np.diag([1, 0.8, 1.2, 1.0]))
        image.header["descrip"] = b"Mary Secret"
        archive.root.mkdir(exist_ok=True)
        nibabel.save(image, archive.root / f"Mary-{number}_T1w.nii.gz")
    made = Index.create(tmp_path / "index", {"name": "m", "hash": "0", "dim": 8}, [archive])
    made.append(archive.own(scan(archive.root).records), np.eye(6, 8, dtype=np.float32))
    return made


@pytest.fixture
def hits(index: Index) -> list[Hit]:
    return [Hit(rank, 0.5, record, 0.9) for rank, record in enumerate(index.records.iter_rows(named=True), start=1)]


def test_volumes_are_read_from_where_they_lie(index: Index, hits: list[Hit]) -> None:
    told: list[tuple[int, int]] = []
    volumes, notes = embedded(hits[:2], index, lambda done, of: told.append((done, of)))
    assert (list(volumes), notes, told) == ([hit.record["series_id"] for hit in hits[:2]], [], [(1, 2), (2, 2)])
    data = gzip.decompress(base64.b64decode(volumes[hits[0].record["series_id"]]))
    image = nibabel.Nifti1Image.from_bytes(data)
    original = nibabel.load(index.archives["archive"].root / hits[0].record["path"]).get_fdata()
    low, high = np.percentile(original, [0.5, 99.5])
    np.testing.assert_allclose(np.asarray(image.dataobj), np.interp(original, [low, high], [0, 255]), atol=0.51)
    np.testing.assert_allclose(image.affine, np.diag([1, 0.8, 1.2, 1.0]), atol=1e-6)
    assert b"Mary" not in data


def test_volumes_that_cannot_be_read_are_told_by_reason(index: Index, hits: list[Hit]) -> None:
    root = index.archives["archive"].root
    for hit in hits[:4]:
        (root / hit.record["path"]).unlink()
    (root / hits[4].record["path"]).write_bytes(b"no NIfTI")
    volumes, notes = embedded(hits, index)
    ids = [hit.record["series_id"] for hit in hits]
    assert list(volumes) == [ids[5]]
    assert len(notes) == 2
    assert f"{ids[0]}, {ids[1]}, {ids[2]} and 1 more" in notes[0]
    assert ids[4] in notes[1]
    assert not [note for note in notes if "Mary" in note]


def test_the_first_volumes_are_on_the_page_and_no_more(index: Index, hits: list[Hit], tmp_path: Path) -> None:
    assert "6 of 6 series have no picture" in write_gallery(tmp_path / "x.html", hits, index, Question(), volumes=2)[0]
    text = (tmp_path / "x.html").read_text()
    on_page = re.findall(r'id="volume-([0-9a-f]{16})"', text)
    assert on_page == [hit.record["series_id"] for hit in hits[:2]]
    assert text.count('class="view"') == 2
    script = gzip.decompress(base64.b64decode(re.search(r'id="niivue">([^<]*)<', text).group(1)))
    assert script.decode() == niivue()
    allowed = f"&#39;sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}&#39;"
    assert allowed in text
    assert "Mary-" not in text
    assert "_T1w.nii" not in text


def test_without_a_volume_there_is_no_viewer(index: Index, hits: list[Hit], tmp_path: Path) -> None:
    for hit in hits:
        (index.archives["archive"].root / hit.record["path"]).unlink()
    assert write_gallery(tmp_path / "x.html", hits, index, Question(), volumes=6)[0].startswith("Without a volume")
    assert (tmp_path / "x.html").stat().st_size < 60_000


PIXELS = """viewer.then(nv => {
  nv.drawScene();
  const gl = nv.gl, [wide, high] = [gl.drawingBufferWidth, gl.drawingBufferHeight], all = new Uint8Array(4 * wide * high);
  gl.readPixels(0, 0, wide, high, gl.RGBA, gl.UNSIGNED_BYTE, all);
  const bright = [];
  for (let row = 0; row < high; row += 2) for (let column = 0; column < wide; column += 2)
    if (all[4 * (row * wide + column)] > 230) bright.push([column / wide, 1 - row / high]);
  const mean = axis => bright.reduce((sum, one) => sum + one[axis], 0) / bright.length;
  return [4 * bright.length / (wide * high), mean(0), mean(1)];
})"""
OPENED = "document.getElementById('viewer').open && document.getElementById('telling').textContent === ''"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_in_a_browser_a_key_opens_the_volume_as_radiologists_expect(
    index: Index, hits: list[Hit], tmp_path: Path
) -> None:
    write_gallery(tmp_path / "x.html", hits, index, Question("x"), volumes=3)
    with Browser(tmp_path, width=700, height=500) as browser:
        browser.open(tmp_path / "x.html")
        browser.press("ArrowRight", "ArrowRight", "v")
        browser.until(OPENED)
        assert browser.run("document.activeElement.id") == "canvas"
        share, _, _ = browser.run(PIXELS)
        assert share > 0.02, "four views, none of them blank"
        for key, plane in (("2", "Axial"), ("3", "Coronal"), ("4", "Sagittal")):
            browser.press(key)
            browser.until(f"document.querySelector('#views [aria-pressed=true]').innerText.startsWith('{plane}')")
            browser.press("ArrowUp")
            share, right, down = browser.run(PIXELS)
            assert share > 0.05
            assert right < 0.5, f"{plane}: the patient's right or front is at the viewer's left"
            assert down < 0.5, f"{plane}: the patient's front or head is up"
        browser.run("document.activeElement.blur()")
        browser.press("5")
        browser.until("document.querySelector('#views [aria-pressed=true]').innerText.startsWith('3D')")
        browser.press("ArrowLeft", "?", "ArrowRight", "ArrowRight", "ArrowRight")
        browser.until(f"{OPENED} && document.getElementById('viewer-title').textContent.startsWith('3')")
        assert json.loads(browser.run("JSON.stringify([$('previous').disabled, $('next').disabled])")) == [False, True]
        browser.press("Escape")
        browser.until("!document.getElementById('viewer').open")
        browser.until("shown.indexOf(document.activeElement.closest('li')) === 2")
        assert browser.said == []


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_in_a_browser_without_webgl_it_is_said(index: Index, hits: list[Hit], tmp_path: Path) -> None:
    write_gallery(tmp_path / "x.html", hits, index, Question("x"), volumes=1)
    with Browser(tmp_path, width=700, height=500) as browser:
        browser.open(tmp_path / "x.html")
        browser.run("HTMLCanvasElement.prototype.getContext = () => null; undefined")
        browser.run("document.querySelector('.view').click()")
        browser.until("document.getElementById('telling').textContent.startsWith('This browser cannot show it')")
        browser.press("Escape")
        browser.until("!document.getElementById('viewer').open")
