"""What a person asks, as it was typed and turned into vectors: words, a volume on disk, or a series of the index."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from index.finding import is_there
from models.errors import DecipherError

if TYPE_CHECKING:
    from index.store import Index
    from models.decipher import Decipher

SERIES_ID = re.compile(r"[0-9a-f]{16}")
FILE = re.compile(r"(\.{0,2}|~)/.*|.*\.(nii|nii\.gz|dcm)")


@dataclass(frozen=True)
class Question:
    """What was asked, as it was typed: words, series ids or paths.

    among: how many series were searched; remark: what there is to say of the answer.
    """

    query: str | None = None
    like: Sequence[str] = ()
    unlike: Sequence[str] = ()
    where: Sequence[str] = ()
    evidence: str = "both"
    by: str = "series"
    cohort: str = ""
    among: int = 0
    remark: str = ""

    @property
    def ranks(self) -> bool:
        """Whether something is asked for, so that hits have scores."""
        return bool(self.query is not None or self.like or self.unlike)

    @property
    def is_empty(self) -> bool:
        return not (self.ranks or self.where or self.cohort)


def typed(query: str | None) -> str | None:
    """The query itself, or what stands on standard input where it is `-`."""
    return sys.stdin.read() if query == "-" else query


@dataclass
class Asked:
    """Vectors (E,) by kind: texts describe, volumes are examples."""

    texts: list[np.ndarray] = field(default_factory=list)
    volumes: list[np.ndarray] = field(default_factory=list)


class QueryEncoder:
    """Reads queries against one index; loads the encoder only when a query needs it."""

    def __init__(self, index: "Index") -> None:
        self.index = index

    @cached_property
    def model(self) -> "Decipher":
        from models.decipher import load
        from models.folder import passport

        name = self.index.card.get("model")
        self.index.check_passport(passport(name))
        return load(name)

    def ask(self, queries: Sequence[str]) -> Asked:
        """An existing path is a volume, an id of the index is that series, all else is text.

        Errors: DecipherError for an empty query, and for an id or a file that is not there.
        """
        asked = Asked()
        for query in queries:
            words = " ".join(query.split())
            if not words:
                raise DecipherError("The query is empty.", 'Say what to look for: decipher search "T2 lesion"')
            example = self.example(words)
            if example is None:
                asked.texts.append(self.text(words))
            else:
                asked.volumes.append(example)
        return asked

    def text(self, words: str) -> np.ndarray:
        """The vector (E,) of words; says so where they are more than the encoder reads."""
        from decipher_cli.output import say

        if self.model.text.is_cut(words):
            say("The query is longer than what the encoder reads: its beginning counts.")
        return self.model.encode_texts([words])[0].numpy()

    def example(self, query: str) -> np.ndarray | None:
        """The vector (E,) of a series id or of a volume on disk; None where the query reads like words."""
        if SERIES_ID.fullmatch(query):
            rows = self.index.row_of([query])
            if not rows:
                raise DecipherError(
                    f"There is no series {query} in {self.index.folder}.", "Ids come with: decipher search ... --ids"
                )
            return self.index.gather(np.array([rows[query]]))[0]
        if is_there(query):
            from index.reading import volume_at

            return self.model.encode_volumes([volume_at(Path(query).expanduser())[0]])[0].numpy()
        if FILE.fullmatch(query):
            raise DecipherError(f"There is no file or folder {query}.", "Check the path, or put words in quotes.")
        return None

    def examples(self, queries: Sequence[str]) -> list[np.ndarray]:
        """The vectors of series and volumes. Errors: DecipherError for words."""
        found = []
        for query in queries:
            example = self.example(query)
            if example is None:
                raise DecipherError(f"No series and no volume {query!r}.", "--like takes a series_id or a path.")
            found.append(example)
        return found
