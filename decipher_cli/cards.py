"""What a page says of a series, of the hits' facets, and of the cohort as a whole.

Decisions: of each record only the tags named here are taken, by allow-list, and the series_id, so that no path and no
identity can slip in; archives are numbered, since their names come from folders. What is not known is left out on cards
and is "unknown" as a facet's value, last of all.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from index.search import Hit

Record = Mapping[str, Any]
SEXES = {"F": "female", "M": "male", "O": "other"}
AGE_BANDS = (0, 2, 12, 18, 40, 60, 80)
"""years at which the bands of age begin"""
FIELD_STRENGTHS_T = (0.2, 0.35, 0.5, 1.0, 1.5, 3.0, 7.0)
MOST_NAMED = 6
UNKNOWN = "unknown"


def card(hit: Hit, picture: str | None, viewable: bool, paths: bool) -> dict[str, Any]:
    """What is shown of one hit; picture: a PNG in base64; viewable: its volume is on the page; paths: its path, too."""
    record = hit.record
    part = f" [{record['part']}]" if record.get("part") else ""
    return {
        "rank": hit.rank,
        "score": None if hit.score is None else f"{hit.score:.3f}".replace("-", "\u2212"),
        "standing": standing_text(hit.standing),
        "series_id": record["series_id"],
        "picture": picture,
        "viewable": viewable,
        "title": " ".join(str(record[name]) for name in ("sequence", "body_region") if record.get(name)) or "MRI",
        "tags": [" · ".join(line) for line in (subject_tags(record), grid_tags(record)) if line],
        "conflict": conflict_text(record.get("conflict")),
        "path": f"{record['path']}{part}" if paths and record.get("path") else None,
    }


def standing_text(standing: float | None) -> str | None:
    """The share of background pairs that score lower, in percent, never rounded up."""
    return None if standing is None else f"{math.floor(standing * 1000 + 1e-9) / 10:.1f} %"


def conflict_text(conflict: Mapping[str, Any] | None) -> str | None:
    """What a series' tags say, and what its pixels look like, where that was asked for."""
    return f"tagged {conflict['tagged']}, looks like {conflict['suggested']}" if conflict else None


def subject_tags(record: Record) -> list[str]:
    """Plane, contrast agent, age and sex in a few words each, as far as known."""
    contrast = "contrast agent" if record.get("contrast") == "yes" else None
    words = [record.get("plane"), contrast, age_text(record.get("age_years")), SEXES.get(record.get("sex") or "")]
    return [word for word in words if word]


def grid_tags(record: Record) -> list[str]:
    """Scanner, spacing and shape, as far as known."""
    spacing, shape = record.get("spacing_mm"), record.get("shape")
    words = [" ".join(word for word in (field_strength(record), record.get("vendor")) if word)]
    if spacing:
        words.append(" × ".join(f"{edge:.3g}" for edge in spacing) + " mm")
    if shape:
        words.append(" × ".join(str(size) for size in shape))
    return [word for word in words if word]


def age_text(age_years: float | None) -> str | None:
    """An age as people say it: months below two years."""
    if age_years is None:
        return None
    return f"{age_years * 12:.0f} months" if age_years < 2 else f"{age_years:.0f} years"


def age_band(record: Record) -> str | None:
    """The band of age a patient is in: "under 2", "2 to 11", ... "80 and over"."""
    age = record.get("age_years")
    if age is None:
        return None
    for low, high in pairwise(AGE_BANDS):
        if age < high:
            return f"{low} to {high - 1}" if low else f"under {high}"
    return f"{AGE_BANDS[-1]} and over"


def field_strength(record: Record) -> str | None:
    """The magnet's nominal field strength, where the measured one is within 6 % of a usual one."""
    measured = record.get("field_strength_t")
    if not measured:
        return None
    nominal = min(FIELD_STRENGTHS_T, key=lambda one: abs(one - measured))
    return f"{nominal if abs(nominal - measured) < 0.06 * nominal else round(measured, 2):g} T"


def facets(records: Sequence[Record], archive_names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each facet: name, title, values, counts, and `of`, the number of each record's value.

    archive_names: how archives are called on the page. A facet of one value is left out.
    """
    found = []
    for name, (title, value_of) in _facets(archive_names).items():
        words = [value_of(record) or UNKNOWN for record in records]
        counts = Counter(words)
        if len(counts) > 1:
            values = _ordered(counts, by_number=name in ("age", "field"))
            place = {value: at for at, value in enumerate(values)}
            counted, of = [counts[value] for value in values], [place[word] for word in words]
            found.append({"name": name, "title": title, "values": values, "counts": counted, "of": of})
    return found


def _facets(archive_names: Mapping[str, str]) -> dict[str, tuple[str, Callable[[Record], str | None]]]:
    return {
        "sequence": ("Sequence", lambda record: record.get("sequence")),
        "body_region": ("Region", lambda record: record.get("body_region")),
        "plane": ("Plane", lambda record: record.get("plane")),
        "contrast": ("Contrast agent", lambda record: record.get("contrast")),
        "sex": ("Sex", lambda record: SEXES.get(record.get("sex") or "")),
        "age": ("Age in years", age_band),
        "field": ("Field strength", field_strength),
        "vendor": ("Vendor", lambda record: record.get("vendor")),
        "archive": ("Archive", lambda record: archive_names.get(record.get("archive") or "")),
    }


def _ordered(counts: Counter[str], by_number: bool) -> list[str]:
    """A facet's values, the most frequent first, or those of bands in their order; what is unknown is last."""

    def key(word: str) -> tuple[bool, float, str]:
        return word == UNKNOWN, _number(word) if by_number else -counts[word], word

    return sorted(counts, key=key)


def _number(band: str) -> float:
    """The first number in a band's name; "under" comes before all."""
    words = [word for word in band.split() if word[0].isdigit()]
    return -1 if band.startswith("under") or not words else float(words[0])


def cohort(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The cohort in figures: (what, how many or from to). Patients that are unknown are not counted."""
    ages = [record["age_years"] for record in records if record.get("age_years") is not None]
    patients = {record["patient_id"] for record in records if record.get("patient_id")}
    studies = {record["study_id"] for record in records if record.get("study_id")}
    figures = [
        ("series", f"{len(records):,}"),
        ("studies", f"{len(studies):,}"),
        ("known patients", f"{len(patients):,}"),
    ]
    if ages:
        span = (
            f"{median(ages):.0f} years, {min(ages):.0f} to {max(ages):.0f}" if len(ages) > 1 else f"{ages[0]:.0f} years"
        )
        figures.append(("median age" if len(ages) > 1 else "age", span))
    for name, title in (("sex", "sexes"), ("sequence", "sequences"), ("body_region", "regions")):
        counts = Counter(record[name] for record in records if record.get(name))
        if counts:
            figures.append((title, _counted(counts)))
    return figures


def _counted(counts: Counter[str]) -> str:
    """The most frequent values with their counts, and how many more there are."""
    named = [f"{SEXES.get(value, value)} {count:,}" for value, count in counts.most_common(MOST_NAMED)]
    return ", ".join(named + [f"{len(counts) - MOST_NAMED} more"] * (len(counts) > MOST_NAMED))


def decades(records: Sequence[Record]) -> list[dict[str, Any]]:
    """How many series are of each decade of age, from the youngest to the oldest; share: of the fullest decade."""
    counts = Counter(int(record["age_years"] // 10) for record in records if record.get("age_years") is not None)
    if len(counts) < 2:
        return []
    most = max(counts.values())
    every = range(min(counts), max(counts) + 1)
    return [{"from": 10 * one, "count": counts[one], "share": round(counts[one] / most, 3)} for one in every]
