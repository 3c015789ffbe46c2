"""Is an index whole? Everything is read and held against what was written down."""

import stat
from collections.abc import Callable, Iterator

import polars as pl

from index.segment import Segment, digest, normalised
from index.store import Index


def verify(index: Index, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """One sentence for each thing that is wrong; `progress` is called with segments read and segments in all."""
    wrong = [*_secret(index), *_pictures(index)]
    whole = True
    for done, (segment, stamps) in enumerate(index.stamped(), start=1):
        found = [*_files(segment, stamps)] or [*_contents(segment, index)]
        whole = whole and not found
        wrong += found
        if progress:
            progress(done, len(index.segments))
    if whole and index.columns(["series_id"])["series_id"].is_duplicated().any():
        wrong.append("A series stands in the index twice.")
    return wrong


def _secret(index: Index) -> Iterator[str]:
    path = index.folder / "key"
    if not path.is_file() or path.stat().st_size != 32:
        yield "key is missing or not of 32 bytes: patients of what is encoded from now on would get other hashes."
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield "key can be read by others: whoever has it can test whether a patient is in the index."


def _pictures(index: Index) -> Iterator[str]:
    pictures = {path.stem for path in (index.folder / "thumbnails").glob("*.png")}
    left = pictures - set(index.columns(["series_id"])["series_id"])
    if left:
        yield f"thumbnails/ holds {len(left)} pictures of series that are not here; decipher index compact removes them."


def _files(segment: Segment, stamps: dict[str, dict[str, int | str]]) -> Iterator[str]:
    for name, stamp in stamps.items():
        if digest(segment.folder / name) != stamp["blake2b"]:
            yield f"segments/{segment.name}/{name} differs from its checksum."


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
