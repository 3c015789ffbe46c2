"""The gallery: the hits of a search as one HTML file that can be handed on.

Decisions: everything is inlined and the page forbids itself to load anything, so that it works from disk with no network
and tells nobody that it was opened. It carries no path and no identity: of each record only the tags below are taken,
by allow-list, and the series_id. All text is escaped by the template.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from index.search import Hit
from index.segment import replace_file
from index.store import Index
from models.errors import DecipherError

FACETS = {"sequence": "Sequence", "body_region": "Region", "plane": "Plane", "sex": "Sex"}
SEXES = {"F": "female", "M": "male", "O": "other sex"}


def write_gallery(path: Path, hits: Sequence[Hit], query: str, index: Index, where: Sequence[str] = ()) -> None:
    """Write `hits` to the HTML file `path`, atomically; `query` and `where` are shown as they were asked.

    Thumbnails come from the index folder; a series without one is shown without. DecipherError when `path` cannot be
    written.
    """
    page = render(hits, index.folder / "thumbnails", index.passport, spoken(query), where)
    try:
        replace_file(path, page.encode("utf-8"))
    except OSError as error:
        raise DecipherError(
            f"{path} cannot be written: {error.strerror}.", "Choose another file for --html."
        ) from error


def spoken(query: str) -> str:
    """The query as it may be shown: words as they are, a path on this disk not at all."""
    return "An example volume" if 0 < len(query) < 1000 and Path(query).exists() else query


def render(hits: Sequence[Hit], thumbnails: Path, passport: Mapping[str, Any], query: str, where: Sequence[str]) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    records = [hit.record for hit in hits]
    return environment.get_template("gallery.html.jinja").render(
        cards=[card(hit, thumbnails) for hit in hits],
        facets=facets(records),
        cohort=cohort(records),
        query=query,
        where=where,
        model=passport.get("name", "unnamed"),
        model_hash=str(passport.get("hash", ""))[:12],
        today=date.today().isoformat(),
    )


def card(hit: Hit, thumbnails: Path) -> dict[str, Any]:
    """What is shown of one hit."""
    record = hit.record
    image = thumbnails / f"{record['series_id']}.png"
    return {
        "rank": hit.rank,
        "score": None if hit.score is None else f"{hit.score:.3f}".replace("-", "\u2212"),
        "series_id": record["series_id"],
        "image": b64encode(image.read_bytes()).decode() if image.is_file() else None,
        "title": " ".join(str(record[name]) for name in ("sequence", "body_region") if record.get(name)) or "MRI",
        "tags": [line for line in (subject_tags(record), grid_tags(record)) if line],
        "facets": {name: shown(record.get(name)) for name in FACETS},
    }


def subject_tags(record: Mapping[str, Any]) -> list[str]:
    """Plane, contrast agent, age and sex in a few words each, as far as known."""
    contrast = "contrast agent" if record.get("contrast") == "yes" else None
    words = [record.get("plane"), contrast, age_text(record.get("age_years")), SEXES.get(record.get("sex") or "")]
    return [word for word in words if word]


def grid_tags(record: Mapping[str, Any]) -> list[str]:
    """Spacing and shape, as far as known."""
    spacing, shape = record.get("spacing_mm"), record.get("shape")
    words = []
    if spacing:
        words.append(" × ".join(f"{edge:.3g}" for edge in spacing) + " mm")
    if shape:
        words.append(" × ".join(str(size) for size in shape) + " voxels")
    return words


def age_text(age_years: float | None) -> str | None:
    """An age as people say it: months below two years."""
    if age_years is None:
        return None
    return f"{age_years * 12:.0f} months" if age_years < 2 else f"{age_years:.0f} years"


def shown(value: str | None) -> str:
    return str(value) if value else "unknown"


def facets(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each facet its values and how many records have them, most frequent first; a facet of one value is left out."""
    found: list[dict[str, Any]] = []
    for name, title in FACETS.items():
        counts = Counter(sorted(shown(record.get(name)) for record in records))
        if len(counts) > 1:
            found.append({"name": name, "title": title, "values": counts.most_common()})
    return found


def cohort(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The cohort in figures: (what, how many or from to). Patients that are unknown are not counted."""
    ages = [record["age_years"] for record in records if record.get("age_years") is not None]
    patients = {record["patient_id"] for record in records if record.get("patient_id")}
    studies = {record["study_id"] for record in records if record.get("study_id")}
    figures = [("series", str(len(records))), ("studies", str(len(studies))), ("known patients", str(len(patients)))]
    if ages:
        figures.append(
            ("age", f"{min(ages):.0f} to {max(ages):.0f} years" if len(ages) > 1 else f"{ages[0]:.0f} years")
        )
    for name, title in (("sex", "sex"), ("sequence", "sequences")):
        counts = Counter(record[name] for record in records if record.get(name))
        if counts:
            figures.append((title, ", ".join(f"{value} {count}" for value, count in counts.most_common())))
    return figures
