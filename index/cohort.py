"""Cohorts: what a search found, kept under a name in the index, and combined.

    INDEX/cohorts/NAME.json   query as asked, series_id in rank order, scores, the encoder's passport, the index's commit

Decisions
- A cohort is a list of series_id, so that it outlives compacting and another encoder; a series that has gone since is left
  out when the cohort is used, and counted.
- What was asked is kept as it was typed, but for paths on this disk: of those only that they were an example.
- Cohorts combine from left to right, all operators being equal, as on a pocket calculator; the order of the left one stays.
- A name is never taken over by another cohort: who wants it again removes the file.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import filterfalse
from pathlib import Path
from typing import Any

from index.finding import is_there
from index.segment import write_json
from index.store import Index
from models.errors import DecipherError

Ids = list[str]
EXAMPLE = "an example volume"
HOW_TO_COMBINE = 'Names with & (both), | (either) or - (without) between them, in spaces: --cohort "ms & elderly"'
COMBINE: dict[str, Callable[[Ids, Ids], Ids]] = {
    "&": lambda left, right: list(filter(set(right).__contains__, left)),
    "|": lambda left, right: list(dict.fromkeys([*left, *right])),
    "-": lambda left, right: list(filterfalse(set(right).__contains__, left)),
}


@dataclass(frozen=True)
class Cohort:
    """ids: series_id in rank order, scores beside them or None; query: see `asked`; passport: the encoder's name, hash."""

    name: str
    created: str
    query: dict[str, Any]
    ids: Ids
    scores: list[float | None] | None
    passport: dict[str, str]
    commit: int


@dataclass(frozen=True)
class Chosen:
    """The series that an expression of cohorts names, in order; notes: sentences for people."""

    ids: Ids
    notes: list[str]


def asked(
    words: str | None = None,
    like: Sequence[str] = (),
    unlike: Sequence[str] = (),
    where: Sequence[str] = (),
    **more: str | int | None,
) -> dict[str, Any]:
    """What was asked, as it may be kept; more: evidence, by, k, cohort and the like. What was not given is left out."""
    said = {"words": words and _said(words), "like": [*map(_said, like)], "unlike": [*map(_said, unlike)]}
    return {name: value for name, value in (said | {"where": [*where]} | more).items() if value not in (None, [], "")}


def save(
    index: Index, name: str, query: Mapping[str, Any], ids: Sequence[str], scores: Sequence[float | None] | None = None
) -> Path:
    """Keep a cohort under `name`; the same query with the same series again changes nothing. Returns its file.

    DecipherError for a name that is none or is another cohort's, and for an index that cannot be written.
    """
    path = _path(index, name)
    passport = {key: str(index.passport.get(key, "")) for key in ("name", "hash")}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    known = None if scores is None or all(score is None for score in scores) else list(scores)
    made = Cohort(name, created, dict(query), list(ids), known, passport, index.commit)
    with index.writing():
        if not path.exists():
            _write(path, made)
            return path
        there = load_cohort(index, name)
        if (there.ids, there.query) != (made.ids, made.query):
            raise DecipherError(f"There is another cohort {name!r}.", f"Choose another name, or remove {path}.")
        return path


def load_cohort(index: Index, name: str) -> Cohort:
    """The cohort of this name. DecipherError when there is none, naming the nearest, or when its file is damaged."""
    path = _path(index, name)
    if not path.is_file():
        raise DecipherError(f"There is no cohort {name!r} in {index.folder}.", _nearest(index, name))
    try:
        made = Cohort(**json.loads(path.read_text(encoding="utf-8")) | {"name": name})
        whole = isinstance(made.ids, list) and isinstance(made.passport, dict) and isinstance(made.query, dict)
        if not whole or not all(isinstance(one, str) for one in made.ids):
            raise TypeError("not as it was written")
    except (OSError, ValueError, TypeError) as error:
        raise DecipherError(
            f"The cohort {name!r} cannot be read.",
            f"Remove {path}, and save it again: decipher search ... --save {name}",
        ) from error
    return made


def names(index: Index) -> list[str]:
    """The names of all cohorts of an index, sorted."""
    return sorted(path.stem for path in (index.folder / "cohorts").glob("*.json"))


def choose(index: Index, expression: str) -> Chosen:
    """The series that an expression names: `a`, `a & b`, `a | b`, `a - b`, `(a | b) - c`, from left to right.

    They stand in the order of the left cohort, with | those of the right one after them. DecipherError for an expression
    that cannot be read, or a cohort that is not there.
    """
    used: dict[str, Cohort] = {}

    def ids_of(name: str) -> Ids:
        used[name] = used.get(name) or load_cohort(index, name)
        return used[name].ids

    tokens = deque(re.findall(r"[()&|]|[^\s()&|]+", expression))
    try:
        ids = _combination(tokens, ids_of)
    except (IndexError, RecursionError):
        raise _unreadable(expression) from None
    if tokens:
        raise _unreadable(expression)
    here = index.row_of(ids)
    kept = [one for one in ids if one in here]
    gone = len(ids) - len(kept)
    notes = [note for cohort in used.values() if (note := _note(index, cohort))]
    return Chosen(kept, [*notes, f"{gone} of {len(ids)} series are no longer in the index."] if gone else notes)


def _combination(tokens: deque[str], ids_of: Callable[[str], Ids]) -> Ids:
    """Takes from `tokens` what it can read. IndexError where they end too early or an operator stands for a name."""
    left = _operand(tokens, ids_of)
    while tokens and tokens[0] in COMBINE:
        left = COMBINE[tokens.popleft()](left, _operand(tokens, ids_of))
    return left


def _operand(tokens: deque[str], ids_of: Callable[[str], Ids]) -> Ids:
    token = tokens.popleft()
    if token == "(":
        inside = _combination(tokens, ids_of)
        if tokens.popleft() == ")":
            return inside
    elif token != ")" and token not in COMBINE:
        return ids_of(token)
    raise IndexError(token)


def _unreadable(expression: str) -> DecipherError:
    return DecipherError(f"--cohort cannot be read: {expression}", HOW_TO_COMBINE)


def _note(index: Index, cohort: Cohort) -> str:
    if cohort.passport.get("hash") == index.passport.get("hash"):
        return ""
    other = cohort.passport.get("name") or "unnamed"
    return f"The cohort {cohort.name!r} was found with another encoder ({other}); its series stand, its scores do not."


def _said(text: str) -> str:
    """The text as it may be kept: a path on this disk is told by what it was."""
    return EXAMPLE if is_there(text) else text


def _path(index: Index, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise DecipherError(
            f"{name!r} is no name for a cohort.",
            "Letters, digits, _ . and -, up to 100, the first a letter or a digit: --save ms-elderly",
        )
    return index.folder / "cohorts" / f"{name}.json"


def _nearest(index: Index, name: str) -> str:
    close = get_close_matches(name, names(index), n=1, cutoff=0.0)
    if not close:
        return "None is kept yet: decipher search ... --save NAME"
    return f"The nearest is {close[0]}; all of them: decipher info {index.folder}"


def _write(path: Path, cohort: Cohort) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        for left in path.parent.glob("*.partial"):
            left.unlink()
        write_json(path, asdict(cohort))
    except OSError as error:
        raise DecipherError(
            f"{path} cannot be written: {error.strerror}.", "Check the disk's space and the folder's permissions."
        ) from error
