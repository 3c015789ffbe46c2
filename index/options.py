"""What a scan lets into the catalogue, as one value that travels to every reader."""

from dataclasses import dataclass

MAX_PARTS = 4
INCLUDABLE = ("localizer", "projection", "secondary_capture", "burned_in", "mask", "not_mr")
"""ledger codes that a person may overrule; every other code names what can't be read as a volume"""


@dataclass(frozen=True)
class ScanOptions:
    """Fewest slices of a DICOM stack, most parts of one series, and the codes of INCLUDABLE that are let in."""

    min_slices: int = 5
    parts: int = MAX_PARTS
    include: frozenset[str] = frozenset()
