"""Plain DICOM files, cut into elements without pydicom: Part 10, one image, text in ASCII.

Design: an archive's millions of headers are nearly all of this kind, and each costs 40 microseconds here and a millisecond
in pydicom. Bytes are only cut, never mended: what is not plain (deflated, functional groups, other alphabets, a nesting or
length that does not add up, no pixel data at the end) is refused with None, and pydicom reads that file.
Sequences are walked over element by element, so that no nesting costs recursion.
"""

import struct
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index.finding import HEAD_BYTES, read_at

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN)
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_TEXT = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UI UC UR UT".split())
_BYTES = (b"UN", b"OB", b"OW")
_NUMBERS = {b"US": "H", b"SS": "h", b"UL": "I", b"SL": "i", b"FL": "f", b"FD": "d"}
_PIXELS, _SYNTAX = 0x7FE00010, 0x00020010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONGEST_VALUE = _LONGEST_SEQUENCE = 1 << 20
_LONGEST_HEADER = 1 << 24


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


class _Order(NamedTuple):
    """How a byte order is cut. Tags are read as one number, in which the halves of little-endian files change places."""

    sign: str
    element: Callable[[bytes, int], tuple[Any, ...]]
    number: Callable[[bytes, int], tuple[Any, ...]]
    wanted: dict[int, int]
    pixels: int
    syntax: int
    item: int
    item_end: int
    sequence_end: int


@cache
def _order(sign: str, wanted: tuple[int, ...]) -> _Order:
    def read(tag: int) -> int:
        return tag if sign == ">" else (tag & 0xFFFF) << 16 | tag >> 16

    element, number = struct.Struct(f"{sign}I2sH").unpack_from, struct.Struct(f"{sign}I").unpack_from
    marks = map(read, (_PIXELS, _SYNTAX, _ITEM, _ITEM_END, _SEQUENCE_END))
    return _Order(sign, element, number, {read(tag): tag for tag in wanted}, *marks)


def _syntax(head: bytes) -> tuple[str, int]:
    """The transfer syntax, and where the data set begins; '' where the file is not Part 10."""
    at, syntax, order = 132, "", _order("<", ())
    if head[128:132] != b"DICM":
        return "", at
    while head[at : at + 2] == b"\2\0":
        tag, vr, length = order.element(head, at)
        start = at + 8
        if vr in _LONG:
            (length,), start = order.number(head, at + 8), at + 12
        if tag == order.syntax:
            syntax = head[start : start + length].decode("ascii").strip(" \0")
        at = start + length
    return syntax, at


def _cut(place: str | Path, window: bytes, at: int, syntax: str, wanted: Mapping[int, bytes]) -> Plain | None:
    """Element after element up to the pixels; `window` is what is at hand of the file, from `base` on."""
    order = _order(">" if syntax == BIG_ENDIAN else "<", tuple(wanted))
    element, number, tags, implicit = order.element, order.number, order.wanted, syntax == IMPLICIT
    found, base, last = Plain(), 0, len(window) - 12
    found.syntax = syntax
    while base + at < _LONGEST_HEADER:
        if at > last:
            base, at = base + at, 0
            window = read_at(place, base, HEAD_BYTES)
            last = len(window) - 12
        tag, vr, length = element(window, at)
        if implicit:
            (length,), vr = number(window, at + 4), b"UN"
            at += 8
        elif vr in _SHORT:
            at += 8
        elif vr in _LONG:
            (length,) = number(window, at + 8)
            at += 12
        else:
            return None
        if tag == order.pixels:
            found.pixels_at, found.pixels_stated = base + at, length
            return found
        if length == _UNDEFINED:
            if tag in tags or (vr == b"UN" and not implicit):
                return None
            at = _after_sequence(place, window, base, at, order, implicit)
            continue
        if tag in tags:
            vr = wanted[tags[tag]] if vr in _BYTES else vr
            if vr == b"SQ" or length > _LONGEST_VALUE:
                return None
            raw = window[at : at + length] if at + length <= len(window) else read_at(place, base + at, length)
            if len(raw) != length or (vr in _TEXT and (not raw.isascii() or b"\x1b" in raw)):
                return None
            found[tags[tag]] = vr, raw if order.sign == "<" else _little_endian(vr, raw)
        at += length
    return None


def _after_sequence(place: str | Path, window: bytes, base: int, at: int, order: _Order, implicit: bool) -> int:
    """Where the sequence of undefined length ends whose first item is at `at`, in bytes from `base`."""
    try:
        return _end(window, at, order, implicit)
    except struct.error:
        return at + _end(read_at(place, base + at, _LONGEST_SEQUENCE), 0, order, implicit)


def _end(window: bytes, at: int, order: _Order, implicit: bool) -> int:
    depth = 1
    while depth:
        tag, vr, length = order.element(window, at)
        marks = tag in (order.item, order.item_end, order.sequence_end)
        if marks or implicit:
            (length,) = order.number(window, at + 4)
        elif vr in _LONG:
            (length,) = order.number(window, at + 8)
        elif vr not in _SHORT:
            raise struct.error("no value representation")
        at += 12 if not (marks or implicit) and vr in _LONG else 8
        depth += length == _UNDEFINED and not marks
        depth -= tag == order.sequence_end
        if length == _UNDEFINED and vr == b"UN" and not (marks or implicit):
            raise struct.error("elements without value representations among those with")
        at += 0 if length == _UNDEFINED else length
    return at


def _little_endian(vr: bytes, raw: bytes) -> bytes:
    kind = _NUMBERS.get(vr)
    if kind is None:
        return raw
    count = len(raw) // struct.calcsize(kind)
    return struct.pack(f"<{count}{kind}", *struct.unpack_from(f">{count}{kind}", raw))
