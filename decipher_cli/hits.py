"""Hits as people and programs read them: an aligned table, JSON lines, ids.

Decisions: lines are written as they are made, so that ten thousand hits begin at once and a closed pipe ends them. On a
terminal a line stays a line: the path gives way, from its beginning, since files differ at the end.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from decipher_cli.output import number, put, put_json

if TYPE_CHECKING:
    from index.search import Hit

KEYS = (
    "series_id", "study_id", "patient_id", "archive", "path", "part", "sequence", "body_region", "plane", "contrast",
    "age_years", "sex",
)  # fmt: skip
HEADS = ("#", "score", "stands", "sequence", "region", "plane", "patient", "path")
RIGHT = {"#", "score", "stands"}
LEAST_PATH = 16


def put_hits(hits: "Sequence[Hit]") -> None:
    """The table on stdout."""
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines(hits, room):
        put(line)


def put_ids(hits: "Sequence[Hit]") -> None:
    """One series_id a line on stdout."""
    for hit in hits:
        put(hit.record["series_id"])


def put_hits_json(hits: "Sequence[Hit]") -> None:
    """One JSON object a hit on stdout."""
    for hit in hits:
        put_json(
            {"rank": hit.rank, "score": hit.score, "standing": hit.standing}
            | {key: hit.record.get(key) for key in KEYS}
            | hit.record.get("conflict", {})
        )


def lines(hits: "Sequence[Hit]", room: int | None) -> Iterator[str]:
    """The table's lines; no longer than `room` characters where a path can be cut to fit."""
    cells = [cells_of(hit) for hit in hits]
    widths = [max(map(len, column)) for column in zip(HEADS, *cells, strict=True)]
    left = None if room is None else max(LEAST_PATH, room - sum(widths[:-1]) - 2 * len(widths[:-1]))
    widths[-1] = widths[-1] if left is None else min(left, widths[-1])
    yield _line(HEADS, widths)
    yield "─" * (sum(widths) + 2 * (len(widths) - 1))
    for row in cells:
        yield _line((*row[:-1], tail(row[-1], widths[-1])), widths)


def cells_of(hit: "Hit") -> tuple[str, ...]:
    """What a hit shows under HEADS."""
    record = hit.record
    words = [_tag(record, name) for name in ("sequence", "body_region", "plane")]
    path = f"{record['path']}{' [' + record['part'] + ']' if record.get('part') else ''}"
    return (str(hit.rank), number(hit.score, 2), percent(hit.standing), *words, patient(record), path)


def _tag(record: dict[str, Any], name: str) -> str:
    """A tag, and what the pixels suggest where they disagree."""
    conflict = record.get("conflict", {})
    suggested = f" ({conflict['suggested']}?)" if conflict.get("field") == name else ""
    return (record.get(name) or "-") + suggested


def patient(record: dict[str, Any]) -> str:
    """Sex and age in a few letters."""
    age = f"{record['age_years']:.0f}" if record.get("age_years") is not None else ""
    return f"{record.get('sex') or ''} {age}".strip() or "-"


def percent(share: float | None) -> str:
    """A share rounded down, so that only what stands above all of the background reads 100 %."""
    return "-" if share is None else f"{int(share * 100)} %"


def tail(text: str, width: int) -> str:
    """The end of a text that is too long."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    placed = (
        cell.rjust(width) if head in RIGHT else cell.ljust(width)
        for head, cell, width in zip(HEADS, cells, widths, strict=True)
    )
    return "  ".join(placed).rstrip()
