"""The gallery: one file that says what was found, loads nothing, and gives no one away."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from browser import CHROMIUM, Browser
from hypothesis import given
from hypothesis import strategies as st

from decipher_cli import gallery
from decipher_cli.cards import age_band, age_text, card, cohort, decades, facets, field_strength, standing_text
from decipher_cli.gallery import condition, heading, is_telling, spoken, write_gallery
from decipher_cli.query import Question
from index.archive import Archive
from index.search import Hit
from index.store import Index
from index.thumbnails import grey_of, halved, save_thumbnail
from models.errors import DecipherError
from models.volume import Volume

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
WHERE = ("age_years < 90 OR age_years IS NULL", "path LIKE '%Mary%'", "mrn = 4711")
SCORES = (0.5, 0.412345, 0.4, -0.25, -0.5)
STANDINGS = (1.0, 0.99963, 0.95, 0.5, None)


class Page(HTMLParser):
    """Elements with their attributes, the text of each script and style, and all text outside of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.code: list[tuple[str, str | None, str]] = []
        self._in: str = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self._in in ("script", "style"):
            self.code.append((self._in, self.elements[-1][1].get("type"), data))
        else:
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
            "archive": ["Saint-Mary", "Saint-Mary", "Saint-Mary", "Other", "Other"],
            "sequence": ["T1", "T2", "T2", HOSTILE, None],
            "body_region": ["brain", "brain", "brain", "knee", "knee"],
            "plane": ["axial"] * 5,
            "sex": ["F", "F", "M", None, None],
            "age_years": [34.4, 34.4, 0.75, None, 71.0],
            "field_strength_t": [2.89, 1.494, 1.5, None, None],
            "vendor": ["Siemens", "GE", "GE", None, None],
            "spacing_mm": [[0.9, 0.9, 5.5]] * 5,
            "shape": [[256, 256, 26]] * 5,
            "report": ["Mary has a lesion"] * 5,
            "mrn": [4711] * 5,
        }
    )
    archives = [Archive("Saint-Mary", tmp_path / "Saint-Mary"), Archive("Other", tmp_path)]
    made = Index.create(tmp_path / "index", {"name": "small-model", "hash": "abcdef" * 8, "dim": 8}, archives)
    made.append(records, np.eye(5, 8, dtype=np.float32))
    for row in range(4):
        save_thumbnail(made.folder, f"{row:016x}", Volume(rng.random((1, 8, 8, 8), np.float32), np.eye(4)))
    return made


@pytest.fixture
def hits(index: Index) -> list[Hit]:
    records = index.records.iter_rows(named=True)
    triples = zip(SCORES, records, STANDINGS, strict=True)
    return [Hit(rank, *triple) for rank, triple in enumerate(triples, start=1)]


ASKED = Question(
    f"lesion {HOSTILE}", like=("00ff00ff00ff00ff", "Mary.nii.gz"), unlike=("knee",), where=WHERE, among=1234,
    remark="Nothing is closer than chance.",
)  # fmt: skip


@pytest.fixture
def written(index: Index, hits: list[Hit], tmp_path: Path) -> Path:
    assert write_gallery(tmp_path / "cohort.html", hits, index, ASKED) == [
        "1 of 5 series have no picture in the index."
    ]
    return tmp_path / "cohort.html"


def words_of(path: Path) -> str:
    return re.sub(r"\s+", " ", Page(path.read_text()).text)


def test_it_shows_the_hits_the_question_and_the_model(written: Path) -> None:
    text = words_of(written)
    for said in (
        f"lesion {HOSTILE}", "5 series, among 1,234 searched", "age_years < 90 OR age_years IS NULL", "small-model",
        "abcdef" * 8, "pixels and tags", "T2 brain", "axial · 34 years · female", "axial · 9 months · male",
        "3 T Siemens · 0.9 × 0.9 × 5.5 mm · 256 × 256 × 26", "1.5 T GE", "0000000000000003", "no picture",
        "like series 00ff00ff00ff00ff an example volume", "not knee", "Not for diagnosis.",
        "Nothing is closer than chance.",
    ):  # fmt: skip
        assert said in text, said
    assert re.findall(r'title="Score">([^<]+)<', written.read_text()) == ["0.500", "0.412", "0.400", "−0.250", "−0.500"]
    assert re.findall(r"closer than ([\d.]+) %", text) == ["100.0", "99.9", "95.0", "50.0"]


def test_images_are_the_thumbnails_byte_for_byte(written: Path, index: Index) -> None:
    sources = [image["src"] or "" for image in Page(written.read_text()).named("img")]
    assert len(sources) == 4
    for row, source in enumerate(sources):
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (index.folder / "thumbnails" / f"{row:016x}.png").read_bytes()


def test_pictures_past_the_first_are_half_as_large_and_that_is_told(
    index: Index, hits: list[Hit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "FULL_PICTURES", 2)
    notes = write_gallery(tmp_path / "x.html", hits, index, Question())
    assert notes[1] == "Pictures after the first 2 are half as large, to keep the page light."
    images = Page((tmp_path / "x.html").read_text()).named("img")
    pngs = [base64.b64decode((image["src"] or "").split(",")[1]) for image in images]
    assert [grey_of(png).shape for png in pngs] == [(128, 384), (128, 384), (64, 192), (64, 192)]
    assert pngs[2] == halved((index.folder / "thumbnails" / f"{2:016x}.png").read_bytes())


def test_a_picture_that_is_damaged_is_told_not_shown(
    index: Index, hits: list[Hit], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(gallery, "FULL_PICTURES", 0)
    (index.folder / "thumbnails" / f"{0:016x}.png").write_bytes(b"no PNG")
    notes = write_gallery(tmp_path / "x.html", hits, index, Question())
    assert notes[0] == "2 of 5 series have no picture in the index."


def test_cards_past_the_first_wait_in_a_template(index: Index, hits: list[Hit], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gallery, "DRAWN_AT_ONCE", 3)
    write_gallery(tmp_path / "x.html", hits, index, Question())
    text = (tmp_path / "x.html").read_text()
    at_once, rest = text.split('<template id="rest">')
    assert (at_once.count("<li "), rest.split("</template>")[0].count("<li ")) == (3, 2)
    assert "const AT_ONCE = 3;" in rest


def test_nothing_is_loaded_and_nothing_is_run_that_is_not_ours(written: Path) -> None:
    page = Page(written.read_text())
    assert {name for name, _ in page.elements} & {"iframe", "object", "embed", "base", "link"} == {"link"}
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert not [attributes for _, attributes in page.elements if "style" in attributes]
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"url\(|@import|https?://", written.read_text())


def test_the_policy_lets_run_the_pages_own_scripts_and_styles_alone(written: Path) -> None:
    page = Page(written.read_text())
    (content,) = [meta["content"] for meta in page.named("meta") if meta.get("http-equiv")]
    policy = {name: values for name, *values in (part.split() for part in (content or "").split(";"))}
    running = [(tag, text) for tag, kind, text in page.code if kind is None]
    hashes = {
        tag: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for tag, text in running
    }
    assert len(running) == 2
    none = ["'none'"]
    assert policy == {
        "default-src": none, "base-uri": none, "form-action": none, "img-src": ["data:"],
        "style-src": [hashes["style"]], "script-src": [hashes["script"]],
    }  # fmt: skip


def test_it_carries_no_path_and_no_identity(written: Path, tmp_path: Path) -> None:
    text = written.read_text()
    for secret in ("Mary", "hospital", "secret-1", "study-a", "nii.gz", "4711", str(tmp_path)):
        assert secret not in text
    assert "a condition on path" in text
    assert "a condition on mrn" in text
    assert "archive 1" in text


def test_paths_are_shown_when_asked_for_and_identities_not_even_then(
    index: Index, hits: list[Hit], tmp_path: Path
) -> None:
    write_gallery(tmp_path / "x.html", hits, index, ASKED, paths=True)
    text = words_of(tmp_path / "x.html")
    for said in ("hospital/Mary/0.nii.gz", "Saint-Mary", "path LIKE '%Mary%'", "like series 00ff00ff00ff00ff Mary.nii"):
        assert said in text
    for secret in ("secret-1", "study-a", "Mary has a lesion", str(tmp_path)):
        assert secret not in text


def test_a_volume_that_was_asked_for_is_not_named(index: Index, tmp_path: Path) -> None:
    asked = tmp_path / "Mary"
    asked.mkdir()
    for question in (Question(str(asked)), Question(like=[str(asked)]), Question("x", unlike=["~/Mary/1.nii"])):
        write_gallery(tmp_path / "x.html", [], index, question)
        assert "an example volume" in (tmp_path / "x.html").read_text()
        assert "Mary" not in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        (Question("T2", like=["0" * 16]), "T2"),
        (Question("0123456789abcdef"), "Like series 0123456789abcdef"),
        (Question("/no/Mary.nii", like=["0" * 16]), "Like an example volume"),
        (Question(like=["0" * 16, "1" * 16]), f"Like series {'0' * 16}"),
        (Question(cohort="a & b"), "a & b"),
        (Question(where=["sex = 'F'"]), "Cohort"),
    ],
)
def test_the_page_is_called_what_was_asked(question: Question, shown: str) -> None:
    assert heading(question, False) == shown


def test_a_conflict_says_what_the_tags_and_the_pixels_say() -> None:
    conflict = {"field": "sequence", "tagged": "T1", "suggested": "FLAIR", "votes": 9, "of": 10}
    shown = card(Hit(1, 0.9, {"series_id": "ab", "sequence": "T1", "conflict": conflict}), None, False, False)
    assert shown["conflict"] == "tagged T1, looks like FLAIR"


@pytest.mark.parametrize("words", ["T1/T2 of the head", "x" * 5000, "zero\0byte", "", " ", "0123456789abcdeg"])
def test_words_are_shown_as_they_are(words: str) -> None:
    assert spoken(words, False) == words


def test_a_long_query_is_cut_in_the_heading_and_whole_below(index: Index, tmp_path: Path) -> None:
    query = " ".join(f"word{i}" for i in range(1000))
    write_gallery(tmp_path / "x.html", [], index, Question(query))
    text = (tmp_path / "x.html").read_text()
    assert len(re.search(r"<h1>(.*?)</h1>", text).group(1)) <= 160
    assert len(re.search(r"<title>(.*?)</title>", text).group(1)) <= 100
    assert f"<p>{query}</p>" in text


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("sequence = 'path'", "sequence = 'path'"),
        ("PATH = 'x'", "a condition on path"),
        ("\"Patient Name\" = 'Mary'", "a condition on Patient Name"),
        ("sequence_name = 'a' AND model_name = 'b'", "sequence_name = 'a' AND model_name = 'b'"),
        ("diagnosis = 'glioma'", "diagnosis = 'glioma'"),
        ("age_years > 3 AND subjectID = 4 AND report LIKE '%Mary%'", "a condition on subjectID, report"),
    ],
)
def test_a_filter_that_may_name_someone_is_not_shown(expression: str, shown: str) -> None:
    columns = ["path", "Patient Name", "sequence", "sequence_name", "model_name", "diagnosis", "subjectID", "report"]
    assert condition(expression, columns, False) == shown
    assert condition(expression, columns, True) == expression


def test_columns_that_tell_who_are_known_by_their_words() -> None:
    assert [
        name for name in ("MRN", "birth_date", "participant_id", "siteName", "Case No") if not is_telling(name)
    ] == []
    assert [
        name for name in ("grade", "idh_status", "side", "notable", "pathology", "series_id") if is_telling(name)
    ] == []


def test_the_cohort_is_counted() -> None:
    records = [
        {"study_id": "a", "patient_id": "p", "age_years": 3.2, "sex": "F", "sequence": "T1"},
        {"study_id": "a", "patient_id": "p", "age_years": 60.0, "sex": "F", "sequence": "T2"},
        {"study_id": "b", "patient_id": None, "age_years": None, "sex": "M", "sequence": "T2"},
        *({"study_id": f"s{i}", "age_years": 50.0, "sequence": f"X{i}"} for i in range(6)),
    ]
    assert cohort(records) == [
        ("series", "9"),
        ("studies", "8"),
        ("known patients", "1"),
        ("median age", "50 years, 3 to 60"),
        ("sexes", "female 2, male 1"),
        ("sequences", "T2 2, T1 1, X0 1, X1 1, X2 1, X3 1, 2 more"),
    ]
    assert cohort([]) == [("series", "0"), ("studies", "0"), ("known patients", "0")]


def test_decades_have_no_gap_and_are_drawn_by_their_share() -> None:
    records = [{"age_years": age} for age in (9.99, 10.0, 19.0, 35.5, None)]
    assert decades(records) == [
        {"from": 0, "count": 1, "share": 0.5},
        {"from": 10, "count": 2, "share": 1.0},
        {"from": 20, "count": 0, "share": 0.0},
        {"from": 30, "count": 1, "share": 0.5},
    ]
    assert decades([{"age_years": 50.0}] * 3) == []


def test_facets_are_the_values_that_part_the_hits() -> None:
    records = [
        {"sequence": "T2", "sex": "F", "age_years": 64.0, "archive": "Mary"},
        {"sequence": None, "sex": "F", "age_years": 1.0, "archive": "Mary"},
        {"sequence": "T1", "sex": "F", "age_years": 9.0, "archive": None},
        {"sequence": "T1", "sex": "F", "age_years": None, "archive": "Mary"},
    ]
    assert facets(records, {"Mary": "archive 1"}) == [
        {"name": "sequence", "title": "Sequence", "values": ["T1", "T2", "unknown"], "counts": [2, 1, 1], "of": [1, 2, 0, 0]},
        {
            "name": "age",
            "title": "Age in years",
            "values": ["under 2", "2 to 11", "60 to 79", "unknown"],
            "counts": [1, 1, 1, 1],
            "of": [2, 0, 1, 3],
        },
        {"name": "archive", "title": "Archive", "values": ["archive 1", "unknown"], "counts": [3, 1], "of": [0, 0, 1, 0]},
    ]  # fmt: skip


@given(st.floats(0, 130))
def test_a_band_of_age_holds_the_age(age: float) -> None:
    band = age_band({"age_years": age}) or ""
    words = [int(word) for word in re.findall(r"\d+", band)]
    low, high = (0, words[0]) if "under" in band else (words[0], words[1] + 1) if len(words) == 2 else (words[0], 1e9)
    assert low <= age < high


@given(st.floats(0, 1))
def test_a_standing_is_never_rounded_up(standing: float) -> None:
    shown = float((standing_text(standing) or "").removesuffix(" %"))
    assert shown <= standing * 100 + 1e-6
    assert shown > standing * 100 - 0.1001


@pytest.mark.parametrize(
    ("measured", "shown"),
    [(None, None), (2.89, "3 T"), (1.494, "1.5 T"), (0.55, "0.55 T"), (6.98, "7 T"), (4.7, "4.7 T")],
)
def test_field_strengths_are_nominal_where_they_are_near(measured: float | None, shown: str | None) -> None:
    assert field_strength({"field_strength_t": measured}) == shown


@pytest.mark.parametrize(
    ("age", "text"), [(None, None), (0.0, "0 months"), (1.5, "18 months"), (2.0, "2 years"), (34.4, "34 years")]
)
def test_ages_are_said_as_people_say_them(age: float | None, text: str | None) -> None:
    assert age_text(age) == text


def test_little_known_is_little_said(index: Index, tmp_path: Path) -> None:
    bare = Hit(1, None, {"series_id": "ab"}, None)
    shown = card(bare, None, False, True)
    assert (shown["title"], shown["tags"], shown["score"], shown["standing"], shown["path"]) == (
        "MRI",
        [],
        None,
        None,
        None,
    )
    write_gallery(tmp_path / "x.html", [bare], index, Question(where=["true"]))
    text = (tmp_path / "x.html").read_text()
    assert "<h1>Cohort</h1>" in text
    assert 'title="Score"' not in text
    assert "closer than" not in text
    assert "<dialog" not in text
    write_gallery(tmp_path / "x.html", [], index, Question("x"))
    assert "Nothing was found." in (tmp_path / "x.html").read_text()


def test_a_file_that_cannot_be_written_is_told_and_an_old_one_stays(index: Index, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(DecipherError, match="cannot be written"):
        write_gallery(tmp_path / "no" / "where.html", [], index, Question())
    old = tmp_path / "old.html"
    old.write_text("old")
    monkeypatch.setattr("decipher_cli.gallery.render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_gallery(old, [], index, Question())
    assert old.read_text() == "old"


in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
STATE = """({
  at: shown.indexOf(document.activeElement.closest("li")), count: document.getElementById("count").textContent,
  wide: document.querySelectorAll(".wide").length, tabs: document.querySelectorAll("#grid [tabindex='0']").length,
})"""


@in_a_browser
def test_in_a_browser_keys_move_mark_and_narrow(written: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open(written)
        columns, at = browser.run("columns()"), []
        for keys in (
            ["ArrowRight"],
            ["ArrowRight", "ArrowRight"],
            ["ArrowLeft"],
            ["ArrowUp"],
            ["End"],
            ["ArrowDown"],
            ["Home"],
        ):
            browser.press(*keys)
            at.append(browser.run(STATE)["at"])
        assert columns == 2
        assert at == [0, 2, 1, 0, 4, 4, 0]
        browser.press("ArrowDown", "Enter")
        assert browser.run(STATE) == {"at": 2, "count": "5 series", "wide": 1, "tabs": 2}
        assert browser.run("document.activeElement.getAttribute('aria-expanded')") == "true"
        browser.press("x")
        assert browser.run(STATE)["count"] == "5 series, 1 set aside"
        browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        browser.press("c")
        browser.until("document.getElementById('count').textContent.endsWith('4 ids copied')")
        copied = browser.run("navigator.clipboard.readText()")
        assert copied.split() == [f"{i:016x}" for i in (0, 1, 3, 4)]
        browser.press("f", " ")
        assert browser.run("document.activeElement.closest('label').innerText.trim()").startswith("T2")
        assert browser.run(STATE)["count"] == "2 of 5 series, 1 set aside"
        browser.press("Escape")
        assert browser.run(STATE) == {"at": 2, "count": "5 series, 1 set aside", "wide": 0, "tabs": 2}
        assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth === 384)")
        assert browser.said == []


@in_a_browser
def test_in_a_browser_facets_combine_and_count_what_they_would_leave(written: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open(written)
        browser.run("""window.choose = (facet, value) => [...document.querySelectorAll("#facets fieldset")]
            .find(f => f.querySelector("legend").textContent === facet).querySelectorAll("label").forEach(label => {
              if (label.querySelector("span").textContent === value) label.click(); })""")
        browser.run("""window.counts = facet => Object.fromEntries([...[...document.querySelectorAll("#facets fieldset")]
            .find(f => f.querySelector("legend").textContent === facet).querySelectorAll("label")]
            .map(label => [label.querySelector("span").textContent, Number(label.querySelector("small").textContent)]))""")
        ids = "shown.map(card => Number(card.dataset.id))"
        browser.run("choose('Sequence', 'T2')")
        assert browser.run(ids) == [1, 2]
        assert browser.run("counts('Sex')") == {"female": 1, "male": 1, "unknown": 0}
        assert browser.run("counts('Sequence')") == {"T1": 1, "T2": 2, HOSTILE: 1, "unknown": 1}
        browser.run("choose('Sequence', 'T1')")
        assert browser.run(ids) == [0, 1, 2]
        browser.run("choose('Sex', 'male')")
        assert browser.run(ids) == [2]
        assert browser.run("counts('Sequence')") == {"T1": 0, "T2": 1, HOSTILE: 0, "unknown": 0}
        browser.run("choose('Region', 'knee')")
        assert browser.run(ids) == []
        assert browser.run("document.querySelector('#none').innerText") == "None of the hits is all of this."
        browser.run("document.querySelector('#facets form > button').click()")
        browser.until(f"({ids}).length === 5")
        assert browser.said == []


@in_a_browser
def test_in_a_browser_thousands_of_hits_are_drawn_as_one_comes_near(
    index: Index, hits: list[Hit], tmp_path: Path
) -> None:
    many = [Hit(rank, 0.1, {**hits[rank % 4].record, "sex": "F" if rank % 10 else "M"}, 0.5) for rank in range(1, 1001)]
    write_gallery(tmp_path / "x.html", many, index, Question("x"))
    with Browser(tmp_path) as browser:
        browser.open(tmp_path / "x.html")
        drawn = "document.querySelectorAll('#grid > li').length"
        assert browser.run("[cards.length, shown.length]") == [1000, 1000]
        assert browser.run(drawn) == 200
        browser.run("window.scrollTo(0, document.body.scrollHeight)")
        browser.until(f"{drawn} === 400")
        browser.press("End")
        assert browser.run(STATE)["at"] == 999
        assert browser.run(drawn) == 1000
        browser.run("boxes.find(box => box.closest('label').innerText.startsWith('male')).click()")
        assert browser.run("document.getElementById('count').textContent") == "100 of 1,000 series"
        assert browser.run(drawn) == 100
        assert browser.said == []


@in_a_browser
@pytest.mark.parametrize(("width", "open_at_first"), [(1280, True), (420, False)])
def test_in_a_browser_nothing_is_wider_than_the_screen(
    written: Path, tmp_path: Path, width: int, open_at_first: bool
) -> None:
    with Browser(tmp_path, width=width) as browser:
        browser.open(written)
        assert browser.run("document.getElementById('facets').open") is open_at_first
        browser.run("document.getElementById('facets').open = true")
        assert browser.run("document.documentElement.scrollWidth") == width
        assert json.loads(browser.run("JSON.stringify(codes)"))[0] == [2, 0, 0, 1, 3]
