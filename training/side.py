"""Whether a text names a side of the body, so that its volume must not be mirrored."""

import re

SIDED = re.compile(r"\b(left|right|lt|rt|sinistral|dextral)(-sided|ward)?\b", re.IGNORECASE)
NOT_A_SIDE = re.compile(r"\b(right|left) (away|now|after)\b", re.IGNORECASE)


def names_side(text: str | None) -> bool:
    """True for `a lesion in the left frontal lobe`, false for `normal brain`."""
    return bool(text) and bool(SIDED.search(NOT_A_SIDE.sub("", text or "")))
