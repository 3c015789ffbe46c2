"""What a person asks, turned into vectors: words, a volume on disk, or a series of the index."""

import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.errors import DecipherError

if TYPE_CHECKING:
    from index.store import Index
    from models.decipher import Decipher


@dataclass
class Asked:
    """Vectors (E,) by kind: texts describe, volumes are examples. said: the words, for a page."""

    said: str = ""
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

    def ask(self, query: str) -> Asked:
        """`-` is standard input; an existing path is a volume; an id of the index is that series; all else is text.

        Errors: DecipherError for an empty query.
        """
        text = sys.stdin.read() if query == "-" else query
        if not text.strip():
            raise DecipherError("The query is empty.", 'Say what to look for: decipher search "T2 hyperintense lesion"')
        example = self.example(text.strip())
        if example is not None:
            return Asked(text.strip(), volumes=[example])
        words = " ".join(text.split())
        return Asked(words, texts=[self.model.encode_texts([words])[0].numpy()])

    def example(self, query: str) -> np.ndarray | None:
        """The vector (E,) of a series id or of a volume on disk; None when it is neither."""
        rows = self.index.row_of([query]) if len(query) == 16 else {}
        if rows:
            return self.index.gather(np.array([rows[query]]))[0]
        if len(query) < 1000 and Path(query).exists():
            from index.reading import volume_at

            return self.model.encode_volumes([volume_at(Path(query))[0]])[0].numpy()
        return None

    def must_be_example(self, query: str) -> np.ndarray:
        """As `example`. Errors: DecipherError when there is no such series or volume."""
        found = self.example(query)
        if found is None:
            raise DecipherError(
                f"No series and no volume {query!r}.", "--like takes a series_id of the index or a path."
            )
        return found
