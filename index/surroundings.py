"""What stands around a NIfTI file in a BIDS dataset: the sidecars and b-values it inherits, and who the participant is.

Design: a name counts only where it is built as BIDS says (key-value pairs joined by underscores, then a suffix); other
names give words, not facts. Made from names alone, and small enough to be sent to every worker: a sidecar that is some
image's own is found by that image's name, so only those that are nobody's own are kept, by folder, suffix and subject.
An image's own sidecar speaks for that image alone; images without one inherit from those of their folder too. Files are
read when asked for and, where several images share them, kept. What cannot be parsed is as good as none.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from index.finding import place_of
from index.patient import OLDEST_TOLD, age_of_string, capped, sex_of

MOST_BYTES, MOST_TABLE_BYTES = 4_000_000, 64_000_000
MOST_KEPT = 1024
MOST_FREE_WORDS = 5
_READ_BYTES = 1 << 16
_ENDINGS = re.compile(r"\.(nii|hdr|img)(\.gz)?$", re.IGNORECASE)
_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)$")
_MARKS = ("dataset_description.json", "participants.tsv")
_TABLES = ("participants.tsv", "sessions.tsv")
Row = tuple[float | None, str | None]
Shared = dict[tuple[str, str, str, str | None], list[tuple[frozenset[tuple[str, str]], str]]]


class Person(NamedTuple):
    """Age and sex as the catalogue may hold them; `*_from` is 'participants' or 'sessions'."""

    age_years: float | None = None
    age_from: str | None = None
    sex: str | None = None
    sex_from: str | None = None


def stem_of(path: str) -> str:
    """The file name without folders and without NIfTI endings."""
    name = path.rpartition("/")[2]
    return name[:-7] if name.endswith(".nii.gz") else _ENDINGS.sub("", name)


@lru_cache(maxsize=256)
def entities(path: str) -> dict[str, str]:
    """The BIDS entities of a path: {'sub': '01', 'ses': '2', 'suffix': 'T1w'}; not to be changed. No suffix without `sub`.

    `sub` and `ses` may also come from the folders sub-XX/ and ses-XX/ above the file.
    """
    *folders, _ = path.split("/")
    *pairs, suffix = stem_of(path).split("_")
    found = {match[1]: match[2] for pair in pairs if (match := _ENTITY.match(pair))}
    if "sub" in found and not _ENTITY.match(suffix):
        found["suffix"] = suffix
    for folder in folders:
        if folder.startswith(("sub-", "ses-")) and (match := _ENTITY.match(folder)):
            found.setdefault(match[1], match[2])
    return found


@dataclass(frozen=True)
class Surroundings:
    """The datasets of one archive, by the paths (relative, as text) of all its files."""

    root: Path
    datasets: frozenset[str]
    tables: frozenset[str]
    beside: bool
    shared: Shared
    _kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, root: Path, paths: Iterable[str]) -> "Surroundings":
        """Sorts the names of an archive's files; opens none."""
        paths = list(paths)
        marks = [path.rpartition("/") for path in paths if path.endswith(_MARKS)]
        beside = [path for path in paths if path.endswith((".json", ".bval"))]
        images = {_ENDINGS.sub("", path) for path in paths} if beside else set()
        return cls(
            root.parent if root.is_file() else root,
            frozenset(folder for folder, _, name in marks if name in _MARKS),
            frozenset(path for path in paths if path.endswith(_TABLES)),
            bool(beside),
            _shared(path for path in beside if path[:-5] not in images),
        )

    def dataset(self, path: str) -> str:
        """The dataset that an image's subject belongs to, where the archive holds several; '' where it holds one."""
        own = [folder for folder in self.datasets if "derivatives" not in folder.split("/")]
        return self._around(path)[-1] if len(own) > 1 else ""

    def sidecar(self, path: str) -> dict[str, Any]:
        """The JSON fields that apply to an image: of nearer folders and closer names before others, key by key."""
        merged: dict[str, Any] = {}
        for one in self._inherited(path, ".json"):
            merged.update(self._once(one, self._json) or {})
        own = self._json(_beside(path, ".json"))
        for one in self._neighbours(path, ".json") if own is None else ():
            merged.update(self._json(one) or {})
        merged.update(own or {})
        return merged

    def b_values(self, path: str) -> tuple[float, ...]:
        """The diffusion weighting in s/mm2 of each volume, by the .bval file that is closest; empty where none tells."""
        others = [*self._inherited(path, ".bval"), *self._neighbours(path, ".bval")]
        for one in (_beside(path, ".bval"), *reversed(others)):
            if found := _numbers(self._bytes(one)):
                return found
        return ()

    def person(self, path: str) -> Person:
        """Age and sex by the tables of the dataset around; for a dataset below `derivatives`, of the one around that too."""
        named = entities(path)
        if not self.tables or "sub" not in named:
            return Person()
        rows = [*self._rows(path, named["sub"], named.get("ses", ""))]
        age = next(((age, source) for source, (age, _) in rows if age is not None), (None, None))
        sex = next(((sex, source) for source, (_, sex) in rows if sex is not None), (None, None))
        return Person(*age, *sex)

    def _rows(self, path: str, sub: str, ses: str) -> Iterator[tuple[str, Row]]:
        """What the tables say of a participant's session, the strongest first."""
        for dataset in self._around(path):
            start = dataset and dataset + "/"
            for name in (
                f"{start}sub-{sub}/sub-{sub}_sessions.tsv",
                f"{start}sessions.tsv",
                f"{start}participants.tsv",
            ):
                if name in self.tables:
                    source = "sessions" if name.endswith("sessions.tsv") else "participants"
                    rows = self._once(name, self._table)
                    yield from ((source, rows[key]) for key in ((sub, ses), ("", ses), (sub, "")) if key in rows)

    def _around(self, path: str) -> list[str]:
        """The dataset of an image and, for one below `derivatives`, the dataset around that."""
        dataset = self._folders(path.rpartition("/")[0])[0]
        return [dataset, *(self._around(dataset) if "derivatives" in dataset.split("/") else ())]

    def _folders(self, folder: str) -> list[str]:
        """From the dataset's root (else the archive's) down to `folder`."""
        found = [folder]
        while folder and folder not in self.datasets:
            folder = folder.rpartition("/")[0]
            found.append(folder)
        return found[::-1]

    def _inherited(self, path: str, ending: str) -> list[str]:
        """The shared files that apply to an image, the strongest last."""
        named = entities(path)
        if not self.shared or "suffix" not in named:
            return []
        have, found = named.items(), list[str]()
        for folder in self._folders(path.rpartition("/")[0]):
            keys = [(folder, ending, named["suffix"], sub) for sub in (None, named["sub"])]
            near = [(len(pairs), one) for key in keys for pairs, one in self.shared.get(key, ()) if have >= pairs]
            found += [one for _, one in sorted(near)]
        return found

    def _neighbours(self, path: str, ending: str) -> list[str]:
        """Where other images' files that apply to this one would lie in its folder, the strongest last."""
        *words, suffix = stem_of(path).split("_")
        free = [word for word in words if not word.startswith("sub-")]
        if not self.beside or "suffix" not in entities(path) or len(free) > MOST_FREE_WORDS:
            return []
        fixed = [word for word in words if word.startswith("sub-")]
        kept = (some for count in range(len(free)) for some in combinations(free, count))
        folder, slash, _ = path.rpartition("/")
        return [folder + slash + "_".join((*fixed, *some, suffix)) + ending for some in kept]

    def _once(self, path: str, read: Callable[[str], Any]) -> Any:
        if path not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[path] = read(path)
        return self._kept[path]

    def _json(self, path: str) -> dict[str, Any] | None:
        raw = self._bytes(path)
        try:
            content = json.loads(raw.decode("utf-8", "replace").removeprefix("\ufeff")) if raw else None
        except (ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    def _table(self, path: str) -> dict[tuple[str, str], Row]:
        """(participant, session) to age and sex; of rows that say the same, the first."""
        try:
            first, *lines = self._bytes(path, MOST_TABLE_BYTES).decode("utf-8-sig").split("\n")
        except UnicodeDecodeError:
            return {}
        names = [name.strip().lower() for name in first.split("\t")]
        rows: dict[tuple[str, str], Row] = {}
        for line in lines:
            cells = dict(zip(names, map(str.strip, line.split("\t")), strict=False))
            sub, ses = cells.get("participant_id", ""), cells.get("session_id", "")
            key = (sub.removeprefix("sub-"), ses.removeprefix("ses-"))
            rows.setdefault(key, (_age(cells.get("age", "")), sex_of(cells.get("sex") or cells.get("gender"))))
        rows.pop(("", ""), None)
        return rows

    def _bytes(self, path: str, most: int = MOST_BYTES) -> bytes:
        """A file's content; empty where there is none or more than `most`. A pipe is not waited for."""
        try:
            number = os.open(place_of(self.root, path), os.O_RDONLY | os.O_NONBLOCK)
            try:
                content = os.read(number, _READ_BYTES)
                content += os.read(number, most) if len(content) == _READ_BYTES else b""
            finally:
                os.close(number)
        except OSError:
            return b""
        return content if len(content) <= most else b""


def _beside(path: str, ending: str) -> str:
    folder, slash, _ = path.rpartition("/")
    return folder + slash + stem_of(path) + ending


def _shared(paths: Iterable[str]) -> Shared:
    """The files whose names are built as BIDS says, by folder, ending, suffix and subject."""
    found: Shared = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        *pairs, suffix = name[:-5].split("_")
        if all(map(_ENTITY.match, pairs)) and not _ENTITY.match(suffix):
            named = dict(pair.split("-", 1) for pair in pairs)
            key = (folder, path[-5:], suffix, named.get("sub"))
            found.setdefault(key, []).append((frozenset(named.items()), path))
    return found


def _numbers(raw: bytes) -> tuple[float, ...]:
    try:
        return tuple(map(float, raw.split()))
    except ValueError:
        return ()


def _age(text: str) -> float | None:
    """Years; "89+" says an age over those that are told."""
    age = age_of_string(text.removesuffix("+"))
    return capped(OLDEST_TOLD + 1) if age is not None and age >= OLDEST_TOLD and "+" in text else age
