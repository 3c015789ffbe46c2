"""Plain DICOM files, cut into elements without pydicom: Part 10, one image, text in ASCII.

Design: an archive's millions of headers are nearly all of this kind, and each costs 40 microseconds here and a millisecond
in pydicom. Bytes are only cut, never mended: what is not plain (deflated, functional groups, other alphabets, a nesting or
length that does not add up, no pixel data at the end) is refused with None, and pydicom reads that file.
Sequences are walked over element by element, so that no nesting costs recursion.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from index.finding import HEAD_BYTES, read_at

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_TEXT = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UI UC UR UT".split())
_BYTES = (b"UN", b"OB", b"OW")
_NUMBERS = {b"US": "H", b"SS": "h", b"UL": "I", b"SL": "i", b"FL": "f", b"FD": "d"}
_PIXELS, _SYNTAX = 0x7FE00010, 0x00020010
_ITEM_GROUP, _ITEM, _SEQUENCE_END = 0xFFFE, 0xE000, 0xE0DD
_UNDEFINED = 0xFFFFFFFF
_LONGEST_VALUE = 1 << 20
_LONGEST_HEADER = 1 << 24
_CUTTERS = {
    order: (struct.Struct(f"{order}HH2sH").unpack_from, struct.Struct(f"{order}I").unpack_from) for order in "<>"
}


class Plain(dict[int, tuple[bytes, bytes]]):
    """The wanted elements of one file, tag -> (VR, raw bytes); its transfer syntax; offset and stated length of its pixels.

    `image` (rows, columns) is there where index.pixels has read it.
    """

    syntax = EXPLICIT
    pixels_at = 0
    pixels_stated = 0
    image: np.ndarray


def values_of(vr: bytes, raw: bytes) -> list[Any]:
    """The values of one little-endian element: text split at backslashes, numbers, or the bytes; empty where it has none."""
    if vr in _TEXT:
        text = raw.decode("ascii").strip(" \0")
        return text.split("\\") if text else []
    if kind := _NUMBERS.get(vr):
        return list(struct.unpack_from(f"<{len(raw) // struct.calcsize(kind)}{kind}", raw))
    return [raw] if raw else []


def read_plain(place: str | Path, head: bytes, wanted: Mapping[int, bytes]) -> Plain | None:
    """The elements `wanted` (tag -> VR, for elements stored as mere bytes) of a file that begins with `head`.

    None for what is not plain.
    """
    try:
        syntax, at = _syntax(head)
        known = syntax == IMPLICIT or syntax.startswith(f"{IMPLICIT}.")
        return _cut(place, head, at, syntax, wanted) if known and syntax != _DEFLATED else None
    except (struct.error, UnicodeDecodeError):
        return None


def _syntax(head: bytes) -> tuple[str, int]:
    """The transfer syntax, and where the data set begins; '' where the file is not Part 10."""
    at, syntax = 132, ""
    element, length_at = _CUTTERS["<"]
    if head[128:132] != b"DICM":
        return "", at
    while head[at : at + 2] == b"\2\0":
        group, number, vr, length = element(head, at)
        start = at + 8
        if vr in _LONG:
            (length,), start = length_at(head, at + 8), at + 12
        if group << 16 | number == _SYNTAX:
            syntax = head[start : start + length].decode("ascii").strip(" \0")
        at = start + length
    return syntax, at


def _cut(place: str | Path, window: bytes, at: int, syntax: str, wanted: Mapping[int, bytes]) -> Plain | None:
    """Element after element up to the pixels; `window` is what is at hand of the file, from `base` on."""
    found, base, depth, implicit = Plain(), 0, 0, syntax == IMPLICIT
    last = len(window) - 12
    found.syntax, order = syntax, ">" if syntax == BIG_ENDIAN else "<"
    element, length_at = _CUTTERS[order]
    while base + at < _LONGEST_HEADER:
        if at > last:
            base, at = base + at, 0
            window = read_at(place, base, HEAD_BYTES)
            last = len(window) - 12
        group, number, vr, length = element(window, at)
        if depth and group == _ITEM_GROUP:
            (length,) = length_at(window, at + 4)
            depth -= number == _SEQUENCE_END
            at += 8 + (length if number == _ITEM and length != _UNDEFINED else 0)
            continue
        if implicit:
            (length,), vr = length_at(window, at + 4), b"UN"
            at += 8
        elif vr in _SHORT:
            at += 8
        elif vr in _LONG:
            (length,) = length_at(window, at + 8)
            at += 12
        else:
            return None
        tag = group << 16 | number
        if depth == 0 and tag == _PIXELS:
            found.pixels_at, found.pixels_stated = base + at, length
            return found
        if length == _UNDEFINED:
            if tag in wanted or (vr == b"UN" and not implicit):
                return None
            depth += 1
            continue
        if depth == 0 and tag in wanted:
            vr = wanted[tag] if vr in _BYTES else vr
            if vr == b"SQ" or length > _LONGEST_VALUE:
                return None
            raw = window[at : at + length] if at + length <= len(window) else read_at(place, base + at, length)
            if len(raw) != length or (vr in _TEXT and (not raw.isascii() or b"\x1b" in raw)):
                return None
            found[tag] = vr, raw if order == "<" else _little_endian(vr, raw)
        at += length
    return None


def _little_endian(vr: bytes, raw: bytes) -> bytes:
    kind = _NUMBERS.get(vr)
    if kind is None:
        return raw
    count = len(raw) // struct.calcsize(kind)
    return struct.pack(f"<{count}{kind}", *struct.unpack_from(f">{count}{kind}", raw))
