"""A report's text without the persons that its own header names.

Design: nothing is guessed: what is removed are the names, identifiers and birth date that stand in the header, in the ways in
which people write them. Whole words only, so that a short name does not eat the words it is part of.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from index.vocabulary import unaccented

REMOVED = "[removed]"
_IDENTIFIERS = (
    "PatientID",
    "OtherPatientIDs",
    "AccessionNumber",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "AdmissionID",
)
_MONTHS = ("jan", "feb", "m[aä]r", "apr", "ma[yi]", "jun", "jul", "aug", "sep", "o[ck]t", "nov", "de[cz]")


def without_person(text: str, dataset: Any) -> str:
    """The text with what the header says of persons replaced: names, identifiers, accession number, birth date."""
    patterns = [_whole(re.escape(one)) for one in _identifiers(dataset)]
    patterns += [pattern for name in _persons(dataset) for pattern in _patterns_of_name(name)]
    patterns += [_whole(one) for one in _patterns_of_date(str(dataset.get("PatientBirthDate") or ""))]
    patterns.sort(key=len, reverse=True)
    return re.sub("|".join(patterns), REMOVED, text, flags=re.IGNORECASE) if patterns else text


def _whole(pattern: str) -> str:
    return rf"(?<![^\W_])(?:{pattern})(?![^\W_])"


def _identifiers(dataset: Any) -> set[str]:
    """Identifiers of three characters or more; a patient who is called 1 would take all numbers along."""
    found: set[str] = set()
    for holder in _headers(dataset):
        for keyword in _IDENTIFIERS:
            value = holder.get(keyword) or ()
            found |= {str(one).strip() for one in ([value] if isinstance(value, str) else value)}
    return {unicodedata.normalize("NFC", one) for one in found if len(one) > 2}


def _persons(dataset: Any) -> set[str]:
    """Names of the patient and of all others in the header."""
    found: set[str] = set()
    for holder in _headers(dataset):
        for element in holder:
            if element.VR == "PN" and element.value:
                several = [element.value] if element.VM == 1 else element.value
                found |= {unicodedata.normalize("NFC", str(one)) for one in several}
    return found


def _headers(dataset: Any, depth: int = 0) -> Iterator[Any]:
    """The data set and the items of its sequences, less the report's content."""
    yield dataset
    for element in dataset:
        if element.VR == "SQ" and element.keyword != "ContentSequence" and depth < 3:
            for item in element.value[:100]:
                yield from _headers(item, depth + 1)


def _patterns_of_name(name: str) -> Iterator[str]:
    """The parts of three letters or more; shorter ones together, in either order; scripts without blanks anywhere."""
    for group in name.split("="):
        parts = [part for part in re.split(r"[\s^,.'’-]+", group) if part]
        unspaced = any(ord(letter) >= 0x2E80 for letter in group)
        for part in parts:
            if unspaced and len(part) > 1:
                yield re.escape(part)
            elif len(part) > 2:
                yield _whole("|".join(_spellings(part)))
        if len(parts) > 1 and min(map(len, parts)) < 3:
            gap = r"[\s^,.]*" if unspaced else r"[\s^,.]+"
            for order in (parts, parts[::-1]):
                joined = gap.join(map(re.escape, order))
                yield joined if unspaced else _whole(joined)


def _spellings(part: str) -> set[str]:
    """A name with its accents, without them, and with umlauts as one letter or as two."""
    bare = "".join(one for one in unicodedata.normalize("NFD", part) if not unicodedata.combining(one))
    spelt = {re.escape(one) for one in (part, bare, unaccented(part))}
    for two, one in (("ae", "ä"), ("oe", "ö"), ("ue", "ü")):
        spelt = {re.sub(two, f"(?:{two}|{one})", spelling, flags=re.IGNORECASE) for spelling in spelt}
    return spelt


def _patterns_of_date(date: str) -> Iterator[str]:
    """Ways in which people write a DICOM date."""
    match = re.fullmatch(r"(\d{4})[-./]?(\d{2})[-./]?(\d{2}).*", date.strip())
    if not match:
        return
    year, month, day = match.groups()
    months, days, gap = f"0?{int(month)}", f"0?{int(day)}", r"\s?[-./\s]\s?"
    years = f"(?:{year}|{year[2:]})"
    yield f"{year}{month}{day}"
    yield f"{year}{gap}{months}{gap}{days}"
    yield f"{days}{gap}{months}{gap}{years}"
    yield f"{months}{gap}{days}{gap}{years}"
    if 1 <= int(month) <= 12:
        name = _MONTHS[int(month) - 1] + "[a-zä]*"
        yield rf"{days}(?:\.|st|nd|rd|th)?(?:\s+of)?[\s-]*{name}\.?,?[\s-]*{years}"
        yield rf"{name}\.?\s*{days}(?:st|nd|rd|th)?,?\s*{years}"
