"""Is an index whole? Everything is read and held against what was written down.

Decisions: what is damaged is not looked into any further. What a writer leaves that works, or was stopped, is nothing wrong:
the next one clears it away.
"""

import stat
from collections.abc import Callable, Iterator

import polars as pl

from index import saving
from index.covered import is_whole, read_stamp
from index.lock import is_at_rest
from index.segment import Segment, changed, normalised
from index.store import Index
from models.errors import DecipherError


def verify(index: Index, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """One sentence for each thing that is wrong; `progress` is called with segments read and segments in all."""
    wrong = [*_secret(index), *_ledger(index), *_encoder(index), *_nearest(index), *saving.wrong(index)]
    whole = True
    for done, (segment, stamps) in enumerate(index.stamped(), start=1):
        found = [*changed(segment.folder, stamps)] or [*_contents(segment, index)]
        whole = whole and not found
        wrong += found
        if progress:
            progress(done, len(index.segments))
    return [*wrong, *_series(index)] if whole else wrong


def _secret(index: Index) -> Iterator[str]:
    path = index.folder / "key"
    if not path.is_file() or path.stat().st_size != 32:
        yield "key is missing or not of 32 bytes: patients of what is encoded from now on would get other hashes."
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield "key can be read by others: whoever has it can test whether a patient is in the index."


def _ledger(index: Index) -> Iterator[str]:
    try:
        _ = index.rejects
    except DecipherError as error:
        yield f"{error.message} {error.hint}"


def _encoder(index: Index) -> Iterator[str]:
    """Whether the model that the card names is still the one that made these vectors, where it is there at all."""
    from models.folder import passport

    model = index.card.get("model")
    try:
        now = passport(model)["hash"] if model else None
    except (DecipherError, OSError, KeyError, ValueError):
        return
    if now not in (None, index.passport.get("hash")):
        yield f"The model {model} is no longer the one that made these vectors."


def _nearest(index: Index) -> Iterator[str]:
    """Whether nearest.faiss is what its stamp says; where there is no stamp nobody looks at it."""
    stamp = read_stamp(index.folder)
    if (index.folder / "nearest.json").is_file() and (
        not stamp or ("bytes" in stamp and not is_whole(index.folder, stamp))
    ):
        yield "nearest.faiss is missing or damaged, so that all vectors are looked at; decipher index build makes it anew."


def _contents(segment: Segment, index: Index) -> Iterator[str]:
    if not normalised(segment.vectors):
        yield f"segments/{segment.name}/vectors.npy holds vectors that are not of length 1."
    if segment.rows and not 0 <= segment.caption_of.min() <= segment.caption_of.max() < len(segment.captions):
        yield f"segments/{segment.name}/caption_of.npy names captions that are not there."
    records = segment.scan()
    if index.card["archives"] and "archive" in records.collect_schema():
        unknown = set(records.select(pl.col("archive").unique()).collect()["archive"]) - set(index.archives)
        if unknown:
            yield f"segments/{segment.name} holds series of archives that card.json does not name: {sorted(map(str, unknown))}."


def _series(index: Index) -> Iterator[str]:
    here = index.columns(["series_id"])["series_id"]
    if here.is_duplicated().any():
        yield "A series stands in the index twice."
    left = {path.stem for path in (index.folder / "thumbnails").glob("*.png")} - set(here)
    if left and is_at_rest(index.folder):
        yield f"thumbnails/ holds {len(left)} pictures of series that are not here; decipher index compact removes them."
