"""The gallery: the hits of a search as one HTML file that can be handed on.

Decisions: everything is inlined and the page forbids itself to load anything, so that it works from disk with no network
and tells nobody that it was opened. Scripts and styles run by their hash alone, so that nothing that came from an archive
could run even if it were not escaped; all text is escaped by the template. It carries no path and no identity unless
asked: of records by allow-list (see cards), of the question by leaving out what names a file or a person.
Pictures past the first few hundred are half as large, and cards past the first few hundred are drawn when one comes near
them, so that ten thousand hits are one page.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decipher_cli.cards import card, cohort, decades, facets
from decipher_cli.query import FILE, SERIES_ID, Question
from index.finding import is_there
from index.record import SCHEMA
from index.search import Hit
from index.segment import replace_file
from index.store import Index
from index.thumbnails import halved
from models.errors import DecipherError

if TYPE_CHECKING:
    from jinja2 import Environment

FULL_PICTURES = 500
DRAWN_AT_ONCE = 200
LONG_QUERY = 160
TELLING_COLUMNS = {"path", "files", "study_id", "patient_id", "fingerprint", "archive", "report"}
TELLING_WORDS = {
    "accession", "address", "birth", "birthday", "born", "case", "date", "day", "dob", "email", "file", "filename", "files",
    "folder", "hospital", "id", "identifier", "ids", "initials", "mail", "mrn", "name", "names", "nr", "number",
    "participant", "path", "patient", "person", "phone", "pid", "report", "subject", "text", "uid",
}  # fmt: skip
PASSPORT = {"name": "model", "hash": "weights", "dim": "vector length", "prepare": "preparation", "version": "version"}
EVIDENCE = {"both": "pixels and tags", "pixels": "pixels alone", "tags": "tags alone"}
Progress = Callable[[int, int], None]


def write_gallery(
    path: Path,
    hits: Sequence[Hit],
    index: Index,
    asked: Question,
    *,
    volumes: int = 0,
    paths: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write `hits` to the HTML file `path`, atomically; the sentences returned tell what is not on it.

    volumes: how many of the first hits can be opened in the viewer; paths: show where each series lies; progress is called
    with (volumes read, of how many). Pictures come from the index folder. DecipherError when `path` cannot be written.
    """
    from decipher_cli.viewer import embedded, niivue

    opened, notes = embedded(hits[:volumes], index, progress)
    pictures, more = pictures_of(hits, index.folder / "thumbnails")
    page = render(hits, pictures, index, asked, opened, niivue() if opened else "", paths)
    try:
        replace_file(path, page.encode("utf-8"))
    except OSError as error:
        raise DecipherError(
            f"{path} cannot be written: {error.strerror}.", "Choose another file for --html."
        ) from error
    return notes + more


def pictures_of(hits: Sequence[Hit], folder: Path) -> tuple[list[str | None], list[str]]:
    """Each hit's thumbnail in base64, None where there is none; and sentences on what is missing or smaller."""
    pictures = [_picture(folder / f"{hit.record['series_id']}.png", at >= FULL_PICTURES) for at, hit in enumerate(hits)]
    notes = []
    if without := pictures.count(None):
        notes.append(f"{without:,} of {len(hits):,} series have no picture in the index.")
    if len(hits) > FULL_PICTURES:
        notes.append(f"Pictures after the first {FULL_PICTURES} are half as large, to keep the page light.")
    return pictures, notes


def _picture(path: Path, small: bool) -> str | None:
    try:
        image = path.read_bytes()
        return b64encode(halved(image) if small else image).decode()
    except (OSError, ValueError):
        return None


def render(
    hits: Sequence[Hit],
    pictures: Sequence[str | None],
    index: Index,
    asked: Question,
    opened: Mapping[str, str],
    niivue: str,
    paths: bool,
) -> str:
    """The page as text. opened: packed volumes by series_id; niivue: the viewer's JavaScript, "" for none."""
    from decipher_cli.viewer import packed

    environment = _environment()
    style = environment.get_template("gallery.css.jinja").render()
    script = environment.get_template("gallery.js.jinja").render(drawn_at_once=DRAWN_AT_ONCE)
    records = [hit.record for hit in hits]
    archives = {name: name if paths else f"archive {at}" for at, name in enumerate(index.archives, start=1)}
    narrow = facets(records, archives)
    cards = (
        card(hit, picture, hit.record["series_id"] in opened, paths)
        for hit, picture in zip(hits, pictures, strict=True)
    )
    return environment.get_template("gallery.html.jinja").render(
        cards=cards,
        total=len(hits),
        drawn_at_once=DRAWN_AT_ONCE,
        facets=narrow,
        codes=[facet["of"] for facet in narrow],
        cohort=cohort(records),
        decades=decades(records),
        heading=heading(asked, paths),
        asked=asked_lines(asked, list(index.schema), paths),
        by=asked.by,
        among=asked.among,
        remark=asked.remark,
        how=how(index.passport, asked),
        style=style,
        script=script,
        policy=policy([style], [script, niivue] if niivue else [script]),
        niivue=packed(niivue.encode("utf-8")) if niivue else "",
        volumes=opened,
        long_query=LONG_QUERY,
        today=date.today().isoformat(),
    )


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """A Content-Security-Policy that loads nothing and runs what is given here alone; pictures are inline."""
    allowed = {"img-src": "data:", "style-src": _hashes(styles), "script-src": _hashes(scripts)}
    shut = ("default-src", "base-uri", "form-action")
    return "; ".join([*(f"{name} 'none'" for name in shut), *(f"{name} {what}" for name, what in allowed.items())])


def _hashes(texts: Sequence[str]) -> str:
    return " ".join(f"'sha256-{b64encode(sha256(text.encode('utf-8')).digest()).decode()}'" for text in texts)


def heading(asked: Question, paths: bool) -> str:
    """The page's name: the words asked for, else the example, else the cohort."""
    if asked.query and not is_example(asked.query):
        return asked.query
    examples = [one for one in (asked.query, *asked.like) if one]
    return f"Like {spoken(examples[0], paths)}" if examples else asked.cohort or "Cohort"


def asked_lines(asked: Question, columns: Sequence[str], paths: bool) -> list[tuple[str, list[str]]]:
    """What else was asked: (word before it, the things)."""
    lines = [
        ("like", [spoken(one, paths) for one in asked.like]),
        ("not", [spoken(one, paths) for one in asked.unlike]),
        ("where", [condition(one, columns, paths) for one in asked.where]),
        ("within", [asked.cohort] if asked.cohort else []),
    ]
    return [line for line in lines if line[1]]


def spoken(asked: str, paths: bool) -> str:
    """A query as it may be shown: words as they are, a series by its id, a path only when asked for."""
    if SERIES_ID.fullmatch(asked):
        return f"series {asked}"
    return "an example volume" if is_path(asked) and not paths else asked


def is_example(asked: str) -> bool:
    """Whether a query is a series or a volume and not words."""
    return bool(SERIES_ID.fullmatch(asked)) or is_path(asked)


def is_path(asked: str) -> bool:
    """Whether a query names a file or folder, there or not."""
    return bool(FILE.fullmatch(asked)) or is_there(asked)


def condition(expression: str, columns: Sequence[str], paths: bool) -> str:
    """A filter as it may be shown: one on a column that may tell a path or a person is only said to be there."""
    words = re.findall(r'"([^"]+)"|(\w+)', re.sub(r"'[^']*'", "", expression.lower()))
    named = {quoted or plain for quoted, plain in words}
    telling = [column for column in columns if column.lower() in named and is_telling(column)]
    return expression if paths or not telling else f"a condition on {', '.join(telling)}"


def is_telling(column: str) -> bool:
    """Whether a column may tell who or where: of the catalogue's own those named above, of labels by their words."""
    if column in SCHEMA or column in TELLING_COLUMNS:
        return column in TELLING_COLUMNS
    words = re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", column)
    return not TELLING_WORDS.isdisjoint(word.lower() for word in words)


def how(passport: Mapping[str, Any], asked: Question) -> list[tuple[str, str]]:
    """How the hits were found: the encoder's passport and the evidence."""
    told = [(name, str(passport[key])) for key, name in PASSPORT.items() if passport.get(key) is not None]
    return [
        *told,
        ("matched with", EVIDENCE.get(asked.evidence, asked.evidence)),
        ("program", f"decipher {_version()}"),
    ]


def _version() -> str:
    try:
        return metadata.version("decipher-mri")
    except metadata.PackageNotFoundError:
        return ""
