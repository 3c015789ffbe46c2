"""Age and sex as the catalogue may hold them.

Design: ages over 89 read 90, because rarer ages name people. A birth date is used to find an age and then forgotten.
"""

import re
from datetime import date

_UNIT_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
OLDEST_TOLD = 89.0


def capped(age_years: float | None) -> float | None:
    """The age in years, 90.0 for everyone over 89; None for what is no age."""
    if age_years is None or not 0 <= age_years < 130:
        return None
    return 90.0 if age_years > OLDEST_TOLD else age_years


def age_of_string(text: str) -> float | None:
    """Years from a DICOM age string ('026Y', '006M', '012W', '030D') or a plain number of years; None otherwise."""
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*([DWMY]?)\s*", str(text).upper())
    if not match:
        return None
    return capped(round(float(match[1]) * _UNIT_DAYS[match[2] or "Y"] / 365.25, 3))


def age_between(birth: str, study: str) -> float | None:
    """Years, floored to one decimal, between two DICOM dates (YYYYMMDD); None where one is not a date."""
    try:
        days = (_date(study) - _date(birth)).days
    except ValueError:
        return None
    return capped(int(days / 365.25 * 10) / 10) if days >= 0 else None


def _date(text: str) -> date:
    digits = re.sub(r"\D", "", str(text))[:8]
    if len(digits) != 8:
        raise ValueError(text)
    return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))


def sex_of(text: str | None) -> str | None:
    """'F', 'M' or 'O' from a tag or a word; None for everything else."""
    return {"F": "F", "FEMALE": "F", "W": "F", "M": "M", "MALE": "M", "O": "O", "OTHER": "O"}.get(
        str(text or "").strip().upper()
    )
