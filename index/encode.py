"""An archive becomes an index: scan, read, prepare, encode, commit; only what is missing or changed.

Decisions:
- Reading and preparing run in threads ahead of the encoder; every block of series is one commit, so an interrupted run
  keeps what it has and the same command goes on.
- A series is known by series_id and unchanged by its files' fingerprint. New labels change rows, not vectors.
- What vanished from the archive is told, not removed: an unmounted disk must not empty an index.
- No folder is made before there is something to put into it.
"""

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl

from index import scanned
from index.archive import LabelledCatalogue, read_archive
from index.caption import caption
from index.catalog import root_of
from index.ledger import Rejection, count_codes, rejects_frame, row
from index.nearest import refresh
from index.options import ScanOptions
from index.reading import read_volume
from index.store import Index, is_index
from index.thumbnails import save_thumbnail
from models.errors import DecipherError

if TYPE_CHECKING:
    from models.decipher import Decipher
    from models.prepare import Prepared

T = TypeVar("T")
BLOCK = 256
"""series a commit"""
MOST_SEGMENTS = 16
"""more of them are compacted into one, since each costs a little at every opening"""
BATCH = 8
"""volumes a forward pass"""
Progress = Callable[[str, int, int], None]
Ready = tuple[dict[str, Any], "Prepared | Rejection"]


@dataclass(frozen=True)
class EncodeOptions:
    """What the person chose; None or 0 leaves the choice to the index, the package or the machine."""

    model: str | None = None
    labels: Path | None = None
    reports: Path | None = None
    scan: ScanOptions = field(default_factory=ScanOptions)
    workers: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class EncodeSummary:
    """Series encoded, unchanged, removed and missing (indexed, but no longer in the archive); files rejected, by code."""

    encoded: int
    unchanged: int
    rejected: int
    removed: int
    missing: int
    seconds: float
    model: str
    index: str
    codes: dict[str, int]
    notes: list[str]


def encode_archive(archive: Path, folder: Path, options: EncodeOptions, progress: Progress) -> EncodeSummary:
    """Make or bring up to date the index in `folder`.

    Errors: DecipherError for a missing archive, one without any MRI, or an index of another encoder.
    """
    from models.folder import lasting_name, passport

    began = time.monotonic()
    index = Index.open(folder) if is_index(folder) else None
    model_name = lasting_name(options.model or (index.card.get("model") if index else None))
    who = passport(model_name)
    if index:
        index.check_passport(who)
    key = _key(archive, index)
    memory = folder / "scan" / "catalogue.parquet"
    known = scanned.load(memory, root_of(archive), options.scan)
    found = read_archive(
        archive,
        options.scan,
        labels=options.labels,
        reports=options.reports,
        key=key,
        known=known,
        progress=lambda done, of: progress("scan", done, of),
    )
    if not found.records.height:
        raise DecipherError(
            f"No MRI series in {archive}: {found.catalogue.files} files, none usable.",
            f"See why: decipher scan {archive}",
        )
    if index is None:
        index = Index.create(folder, who, found.root, key=key)
    with index.writing():
        index.update_card(model=model_name, archive=str(found.root.absolute()))
        if found.catalogue is not known and not scanned.is_catalogue(archive):
            scanned.save(memory, found.catalogue, found.root, options.scan)
        new, missing = _bring_up_to_date(index, found, model_name)
        failed = _encode_new(index, found.root, new, options, progress)
        rejects = pl.concat([found.catalogue.rejects, rejects_frame(r for rows in failed.values() for r in rows)])
        index.write_rejects(rejects)
        if len(index.segments) > MOST_SEGMENTS:
            index.compact()
        refresh(index)
    return EncodeSummary(
        encoded=new.height - len(failed),
        unchanged=found.records.height - new.height,
        rejected=rejects.height,
        removed=0,
        missing=missing,
        seconds=round(time.monotonic() - began, 2),
        model=who["name"],
        index=str(folder),
        codes=count_codes(rejects),
        notes=found.notes,
    )


def _key(archive: Path, index: Index | None) -> bytes:
    """The key of the patient hashes: the index's, else the catalogue's, else a new one. DecipherError where two differ."""
    own = scanned.key_of(archive) if scanned.is_catalogue(archive) else None
    if index and scanned.is_catalogue(archive) and own != index.key:
        raise DecipherError(
            f"The patients of {archive} are hashed with another key than those of {index.folder}.",
            "Encode the archive itself, or the catalogue into a new index with -i.",
        )
    return index.key if index else own or secrets.token_bytes(32)


def _bring_up_to_date(index: Index, found: LabelledCatalogue, model_name: str) -> tuple[pl.DataFrame, int]:
    """Rows whose files are unchanged but whose labels are new are replaced with their vectors kept.

    Returns the records that have to be encoded, and how many series of the index the archive lacks.
    """
    if not len(index):
        return found.records, 0
    stamps = index.columns(["series_id", "fingerprint"]).rename({"fingerprint": "_known"})
    records = found.records.join(stamps, on="series_id", how="left", maintain_order="left")
    same = (pl.col("fingerprint") == pl.col("_known")).fill_null(False)
    kept, new = records.filter(same).drop("_known"), records.filter(~same).drop("_known")
    missing = len(index) - stamps.join(found.records, on="series_id", how="semi").height
    changed = kept.filter(pl.Series(_rows_differ(index, kept), dtype=pl.Boolean))
    if changed.height:
        from models.decipher import load

        rows = index.row_of(changed["series_id"])
        vectors = index.gather(np.array([rows[i] for i in changed["series_id"]]))
        index.replace(changed, vectors, _captions(load(model_name), changed.to_dicts()))
    return new, missing


def _rows_differ(index: Index, records: pl.DataFrame) -> list[bool]:
    rows = index.row_of(records["series_id"])
    known = index.rows(np.array([rows[i] for i in records["series_id"]], dtype=np.int64))
    shared = [{k: v for k, v in one.items() if v is not None} for one in known.iter_rows(named=True)]
    fresh = [{k: v for k, v in one.items() if v is not None} for one in records.iter_rows(named=True)]
    return [a != b for a, b in zip(shared, fresh, strict=True)]


def _encode_new(
    index: Index, root: Path, records: pl.DataFrame, options: EncodeOptions, progress: Progress
) -> dict[str, list[dict[str, str]]]:
    """Encode and commit block by block; returns ledger rows of each series that could not be read."""
    failed: dict[str, list[dict[str, str]]] = {}
    if not records.height:
        return failed
    from models.decipher import load

    model = load(index.card.get("model")).to(_device(options.device))
    done = 0
    stream = _prepared_ahead(index, root, records, model, options.workers or os.cpu_count() or 1)
    for block in _blocks(stream, BLOCK):
        good: list[tuple[dict[str, Any], Prepared]] = []
        for record, ready in block:
            if isinstance(ready, Rejection):
                failed[record["series_id"]] = [row(f, ready.code, ready.detail) for f in record["files"]]
            else:
                good.append((record, ready))
        done += len(block)
        if good:
            rows = [record for record, _ in good]
            frame = pl.DataFrame(rows, schema=records.schema)
            index.replace(frame, _vectors(model, [p for _, p in good]), _captions(model, rows))
        progress("encode", done, records.height)
    return failed


def _prepared_ahead(
    index: Index, root: Path, records: pl.DataFrame, model: "Decipher", workers: int
) -> Iterator[Ready]:
    """Records with their prepared volumes, in order, a few read ahead of the encoder."""

    def ready(record: Mapping[str, Any]) -> Ready:
        from models.prepare import prepare

        try:
            volume = read_volume(root, record)
            prepared = prepare(volume, model.config.prepare)
        except Rejection as rejection:
            return dict(record), rejection
        except DecipherError as empty:
            return dict(record), Rejection("constant_image", empty.message)
        save_thumbnail(index.folder, record["series_id"], volume)
        return dict(record), prepared

    todo = records.iter_rows(named=True)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Ready]] = deque(pool.submit(ready, r) for r in islice(todo, workers + BATCH))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(ready, r) for r in islice(todo, 1))


def _vectors(model: "Decipher", prepared: "list[Prepared]") -> np.ndarray:
    from models.prepare import collate

    device = next(model.parameters()).device
    parts = [model.encode_prepared(collate(part).to(device)).volume.cpu() for part in _blocks(prepared, BATCH)]
    return np.concatenate([part.numpy() for part in parts])


def _captions(model: "Decipher", rows: list[dict[str, Any]]) -> np.ndarray:
    """float32 (n, E); equal captions are encoded once."""
    texts = [caption(one) for one in rows]
    different = sorted(set(texts))
    parts = [model.encode_texts(part).cpu().numpy() for part in _blocks(different, 64)]
    vectors = np.concatenate(parts)
    return vectors[[different.index(text) for text in texts]]


def _blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    left = iter(items)
    while block := list(islice(left, size)):
        yield block


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
