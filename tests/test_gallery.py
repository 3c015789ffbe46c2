"""The gallery: one file that says what was found, loads nothing, and gives no one away."""

import base64
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from decipher_cli.gallery import age_text, card, cohort, facets, render, write_gallery
from index.search import Hit, search
from index.store import Index
from index.thumbnails import save_thumbnail
from models.errors import DecipherError
from models.volume import Volume

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--window-size=1280,900",
]  # fmt: skip


class Page(HTMLParser):
    """Elements with their attributes, and all text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in ("script", "style"):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator) -> Index:
    """Five series, thumbnails for all but the last."""
    records = pl.DataFrame(
        {
            "series_id": [f"{i:016x}" for i in range(5)],
            "study_id": ["study-a", "study-a", "study-b", "study-c", "study-c"],
            "patient_id": ["secret-1", "secret-1", "secret-2", None, None],
            "path": [f"hospital/Mary/{i}.nii.gz" for i in range(5)],
            "files": [[f"hospital/Mary/{i}.nii.gz"] for i in range(5)],
            "sequence": ["T1", "T2", "T2", HOSTILE, None],
            "body_region": ["brain", "brain", "brain", "knee", "knee"],
            "plane": ["axial"] * 5,
            "sex": ["F", "F", "M", None, None],
            "age_years": [34.4, 34.4, 0.75, None, 71.0],
            "spacing_mm": [[0.9, 0.9, 5.5]] * 5,
            "shape": [[256, 256, 26]] * 5,
            "report": ["Mary has a lesion"] * 5,
        }
    )
    made = Index.create(tmp_path / "index", {"name": "small-model", "hash": "abcdef" * 8, "dim": 8}, tmp_path)
    made.append(records, np.eye(5, 8, dtype=np.float32))
    for row in range(4):
        save_thumbnail(made.folder, f"{row:016x}", Volume(rng.random((1, 8, 8, 8), np.float32), np.eye(4)))
    return made


@pytest.fixture
def written(index: Index, tmp_path: Path) -> Path:
    query = np.arange(8, 0, -1, dtype=np.float32)
    where = ["age_years < 90 OR age_years IS NULL"]
    hits = search(index, like=[query / np.linalg.norm(query)], where=where)
    write_gallery(tmp_path / "cohort.html", hits, f"lesion {HOSTILE}", index, where)
    return tmp_path / "cohort.html"


def test_it_shows_the_hits_the_query_the_filter_and_the_model(written):
    page = Page(written.read_text())
    text = re.sub(r"\s+", " ", page.text)
    for said in (
        f"lesion {HOSTILE}", "age_years < 90 OR age_years IS NULL", "small-model", "abcdefabcdef", "T2 brain",
        "34 years", "9 months", "female", "0.9 × 0.9 × 5.5 mm", "256 × 256 × 26 voxels", "0000000000000003", "no thumbnail",
    ):  # fmt: skip
        assert said in text, said
    scores = [float(one) for one in re.findall(r'title="score">([\d.]+)<', written.read_text())]
    length = np.linalg.norm(np.arange(8, 0, -1))
    np.testing.assert_allclose(scores, np.array([8, 7, 6, 5, 4]) / length, atol=5e-4)


def test_images_are_the_thumbnails_byte_for_byte(written, index):
    sources = [image["src"] for image in Page(written.read_text()).named("img")]
    assert len(sources) == 4
    for row, source in enumerate(sources):
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (index.folder / "thumbnails" / f"{row:016x}.png").read_bytes()
    assert all(image["alt"].startswith("Middle slices") for image in Page(written.read_text()).named("img"))


def test_nothing_is_loaded_and_nothing_is_run_that_is_not_ours(written):
    page = Page(written.read_text())
    assert [name for name, _ in page.elements if name in ("script", "iframe", "object", "embed", "base")] == ["script"]
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in written.read_text()
    assert "@import" not in written.read_text()
    policy = next(meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_it_carries_no_path_and_no_identity(written, tmp_path):
    text = written.read_text()
    for secret in ("Mary", "hospital", "secret-1", "study-a", "nii.gz", str(tmp_path)):
        assert secret not in text


def test_a_volume_that_was_asked_for_is_not_named(index, tmp_path):
    asked = tmp_path / "Mary.nii.gz"
    asked.write_bytes(b"")
    write_gallery(tmp_path / "x.html", [], str(asked), index)
    assert "An example volume" in (tmp_path / "x.html").read_text()
    assert "Mary" not in (tmp_path / "x.html").read_text()


def test_the_cohort_is_counted():
    records = [
        {"study_id": "a", "patient_id": "p", "age_years": 3.2, "sex": "F", "sequence": "T1"},
        {"study_id": "a", "patient_id": "p", "age_years": 60.0, "sex": "F", "sequence": "T2"},
        {"study_id": "b", "patient_id": None, "age_years": None, "sex": "M", "sequence": "T2"},
    ]
    assert cohort(records) == [
        ("series", "3"),
        ("studies", "2"),
        ("known patients", "1"),
        ("age", "3 to 60 years"),
        ("sex", "F 2, M 1"),
        ("sequences", "T2 2, T1 1"),
    ]
    assert cohort([]) == [("series", "0"), ("studies", "0"), ("known patients", "0")]


def test_facets_are_the_values_that_part_the_hits():
    records = [{"sequence": "T2", "sex": "F", "plane": "axial"}, {"sequence": None, "sex": "F", "plane": "axial"}] * 2
    records.append({"sequence": "T1", "sex": "F", "plane": "axial"})
    assert facets(records) == [
        {"name": "sequence", "title": "Sequence", "values": [("T2", 2), ("unknown", 2), ("T1", 1)]}
    ]


@pytest.mark.parametrize(
    ("age", "text"), [(None, None), (0.0, "0 months"), (1.5, "18 months"), (2.0, "2 years"), (34.4, "34 years")]
)
def test_ages_are_said_as_people_say_them(age, text):
    assert age_text(age) == text


def test_little_known_is_little_said(tmp_path):
    shown = card(Hit(1, None, {"series_id": "ab"}), tmp_path)
    assert (shown["title"], shown["tags"], shown["score"], shown["image"]) == ("MRI", [], None, None)
    assert 'title="score"' not in render([Hit(1, None, {"series_id": "ab"})], tmp_path, {}, "", [])
    assert "Nothing was found." in render([], tmp_path, {}, "x", [])


def test_a_file_that_cannot_be_written_is_told_and_an_old_one_stays(index, tmp_path, monkeypatch):
    with pytest.raises(DecipherError, match="cannot be written"):
        write_gallery(tmp_path / "no" / "where.html", [], "", index)
    old = tmp_path / "old.html"
    old.write_text("old")
    monkeypatch.setattr("decipher_cli.gallery.render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_gallery(old, [], "", index)
    assert old.read_text() == "old"


DRIVER = """
<script>
const say = [], key = name => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
const at = () => cards.indexOf(document.activeElement);
const press_value = value => buttons.find(b => b.dataset.value === value).click();
key("ArrowRight"); say.push(at());
key("ArrowRight"); key("ArrowRight"); say.push(at());
key("ArrowLeft"); key("ArrowUp"); say.push(at());
key("ArrowDown"); say.push(at());
key("Enter"); say.push(document.querySelectorAll(".wide").length);
press_value("T2"); say.push(shown().length, document.getElementById("count").textContent);
press_value("T1"); say.push(shown().length);
press_value("M"); say.push(shown().length);
key("Escape"); say.push(shown().length, document.querySelectorAll(".wide").length);
document.title = JSON.stringify([say, [...document.images].every(i => i.complete && i.naturalWidth === 384)]);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_in_a_browser_keys_move_and_facets_filter(written, tmp_path):
    driven = tmp_path / "driven.html"
    driven.write_text(written.read_text().replace("</body>", DRIVER + "</body>"))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{driven}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    said, images_shown = json.loads(unescape(re.search(r"<title>(.*?)</title>", done.stdout).group(1)))
    columns = 3
    assert said == [0, 2, 0, columns, 1, 2, "2 of 5 series", 3, 1, 5, 0]
    assert images_shown
