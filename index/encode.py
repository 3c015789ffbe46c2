"""An archive becomes an index: scan, read, prepare, encode, commit; only what is missing or changed.

Decisions:
- Every block of series is one commit, so that an interrupted run keeps what it has and the same command goes on.
- A series is known by series_id and unchanged by its files' fingerprint. New labels change rows, not vectors.
- What vanished from the archive is told, and removed only with `prune`: an unmounted disk must not empty an index.
- Several archives may feed an index; a series that another of them holds already stays that one's.
- No folder is made before there is something to put into it.
- An index keeps patch vectors of all its series or of none, from its first day: half a set is of use to nobody.
"""

import math
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from index import scanned
from index.archive import Archive, archive_at
from index.catalog import Catalogue, root_of
from index.difference import compare, differ
from index.embed import blocks, captions_of, device_for, encoded_ahead, patch_shape, prepared_ahead
from index.labelled import LabelledCatalogue, read_archive
from index.ledger import Rejection, count_codes, rejects_frame, row
from index.lock import writable
from index.nearest import refresh
from index.options import ScanOptions
from index.removal import remove
from index.store import Index, is_index
from models.errors import DecipherError
from models.folder import lasting_name, passport

BLOCK = 256
"""series a commit, or fewer where their patch vectors are large"""
RELABELLED = 16384
"""the same, where vectors stay as they are"""
PATCH_BYTES = 2**28
"""of patch vectors a commit"""
Progress = Callable[[str, int, int], None]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class EncodeOptions:
    """What the person chose; None or 0 leaves the choice to the index, the package or the machine.

    patches: whether a new index keeps patch vectors; one that is there goes on as it began.
    """

    model: str | None = None
    labels: Path | None = None
    reports: Path | None = None
    scan: ScanOptions = field(default_factory=ScanOptions)
    workers: int = 0
    device: str = "auto"
    prune: bool = False
    patches: bool = False


@dataclass(frozen=True)
class EncodeSummary:
    """What a run did, in series but for `rejected`, which counts files.

    missing: indexed, but no longer in the archive, where all of that was named; elsewhere: indexed from another archive;
    codes: rejects by code.
    """

    encoded: int
    unchanged: int
    rejected: int
    removed: int
    missing: int
    elsewhere: int
    seconds: float
    model: str
    index: str
    archive: str
    codes: dict[str, int]
    notes: list[str]


def encode_archive(
    archive: Path, folder: Path, options: EncodeOptions, progress: Progress, tell: Tell = lambda said: None
) -> EncodeSummary:
    """Make or bring up to date the index in `folder`; `tell` is told what should be known before the work.

    Errors: DecipherError for a missing archive, one without any MRI, an index of another encoder, or one without the patch
    vectors that are asked for.
    """
    began = time.monotonic()
    index = Index.open(folder) if is_index(folder) else None
    model = lasting_name(options.model or (index.card.get("model") if index is not None else None))
    who = passport(model)
    if index is not None:
        index.check_passport(who)
        _check_patches(index, archive, options)
        with index.writing():
            pass  # where nothing can be written, that is told now and not after a long scan
    whole = not archive.is_file()
    if options.prune and not whole:
        raise DecipherError(
            f"{archive} may be a part of its archive, so nothing can be told to be missing.",
            "With --prune, name the archive's folder.",
        )
    key = _key(archive, index)
    known = _known(index, root_of(archive), options)
    found = _read(archive, options, key, known, progress)
    if index is None:
        index = Index.create(folder, who, key=key, patches=patch_shape(model) if options.patches else None)
    with index.writing():
        home = _home(index, found)
        index.update_card(model=model, archives=_archives(index, home))
        if found.catalogue is not known and whole:
            with writable(folder):
                scanned.save(_memory(index, home), found.catalogue, home.root, options.scan)
        change = compare(index, home, home.own(found.records))
        _relabel(index, change.kept)
        failed = _encode_new(index, home, change.new, options, progress, tell)
        removed = remove(index, change.missing) if options.prune else 0
        rejects = pl.concat([found.catalogue.rejects, rejects_frame(r for rows in failed.values() for r in rows)])
        _write_rejects(index, home, rejects, None if whole else found.records)
        index.tidy()
        refresh(index)
    return EncodeSummary(
        encoded=change.new.height - len(failed),
        unchanged=change.kept.height,
        rejected=rejects.height,
        removed=removed,
        missing=len(change.missing) - removed if whole else 0,
        elsewhere=change.elsewhere,
        seconds=round(time.monotonic() - began, 2),
        model=who["name"],
        index=str(folder),
        archive=home.name,
        codes=count_codes(rejects),
        notes=found.notes,
    )


def _check_patches(index: Index, archive: Path, options: EncodeOptions) -> None:
    if options.patches and not index.has_patches:
        raise DecipherError(
            f"The index {index.folder} was made without patch vectors.",
            f"Encode into a new one: decipher encode {archive} --patches -i {index.folder}-patches",
        )


def _key(archive: Path, index: Index | None) -> bytes:
    """The key of the patient hashes: the index's, else the catalogue's, else a new one. DecipherError where two differ."""
    own = scanned.key_of(archive) if scanned.is_catalogue(archive) else None
    if index is not None and scanned.is_catalogue(archive) and own != index.key:
        raise DecipherError(
            f"The patients of {archive} are hashed with another key than those of {index.folder}.",
            "Encode the archive itself, or the catalogue into a new index with -i.",
        )
    return own or secrets.token_bytes(32) if index is None else index.key


def _known(index: Index | None, root: Path, options: EncodeOptions) -> Catalogue | None:
    """What the last scan of the archive saw."""
    if index is None:
        return None
    at = [archive for archive in index.archives.values() if archive.lies_at(root)]
    return scanned.load(_memory(index, at[0]), at[0].root, options.scan) if at else None


def _read(
    archive: Path, options: EncodeOptions, key: bytes, known: Catalogue | None, progress: Progress
) -> LabelledCatalogue:
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
    return found


def _home(index: Index, found: LabelledCatalogue) -> Archive:
    stamps = index.columns(["series_id", "fingerprint", "archive"])
    return archive_at(index.archives, found.root, found.records, stamps)


def _archives(index: Index, home: Archive) -> list[dict[str, Any]]:
    return [one.to_json() for one in {**index.archives, home.name: home}.values()]


def _memory(index: Index, home: Archive) -> Path:
    return index.folder / "scan" / f"{home.name}.parquet"


def _relabel(index: Index, kept: pl.DataFrame) -> None:
    """Rows whose files are unchanged but whose labels or tags are new are replaced with their vectors kept."""
    rows = index.row_of(kept["series_id"])
    known = index.rows(np.array([rows[i] for i in kept["series_id"]], dtype=np.int64), index.stored)
    changed = kept.filter(differ(known, kept))
    if not changed.height:
        return
    from models.decipher import load

    model = load(index.card["model"])
    for block in changed.iter_slices(RELABELLED):
        rows = index.row_of(block["series_id"])
        own = np.array([rows[i] for i in block["series_id"]])
        patches = index.patches[own].blocks() if index.has_patches else None
        index.replace(block, index.gather(own), captions_of(model, block.iter_rows(named=True)), patches)
        index.tidy()


def _encode_new(
    index: Index, home: Archive, records: pl.DataFrame, options: EncodeOptions, progress: Progress, tell: Tell
) -> dict[str, list[dict[str, str]]]:
    """Encode and commit block by block; returns ledger rows of each series that could not be read."""
    failed: dict[str, list[dict[str, str]]] = {}
    if not records.height:
        return failed
    from models.decipher import load

    size = _block_size(index, records.height, tell)
    model = load(index.card["model"]).to(device_for(options.device))
    done = 0
    workers = options.workers or os.cpu_count() or 1
    stream = prepared_ahead(home.root, records.iter_rows(named=True), model, index.folder, workers)
    for block in blocks(encoded_ahead(stream, model, index.has_patches), size):
        good = [(record, found) for record, found in block if not isinstance(found, Rejection)]
        for record, found in block:
            if isinstance(found, Rejection):
                failed[record["series_id"]] = [row(f, found.code, found.detail) for f in record["files"]]
        if good:
            rows = [record for record, _ in good]
            frame = pl.DataFrame(rows, schema=records.schema)
            vectors = np.stack([vector for _, (vector, _) in good])
            patches = [np.stack([kept for _, (_, kept) in good if kept is not None])] if index.has_patches else None
            index.replace(frame, vectors, captions_of(model, rows), patches)
            index.tidy()
        done += len(block)
        progress("encode", done, records.height)
    return failed


def _block_size(index: Index, new: int, tell: Tell) -> int:
    """Series a commit; tells what their patch vectors take, where they are kept."""
    if index.patch_shape is None:
        return BLOCK
    each = 2 * math.prod(index.patch_shape)
    free = shutil.disk_usage(index.folder).free
    tell(f"patch vectors: {each / 1e6:.2f} MB a series, {each * new / 1e6:,.1f} MB; {free / 1e9:,.0f} GB are free")
    return max(1, min(BLOCK, PATCH_BYTES // each))


def _write_rejects(index: Index, home: Archive, rejects: pl.DataFrame, part: pl.DataFrame | None) -> None:
    """The ledger of this archive in place of its last one, beside those of the others; of a part, of the same files alone."""
    own = rejects.with_columns(archive=pl.lit(home.name))
    before = index.rejects
    if before is not None:
        stale = pl.col("archive") == home.name
        if part is not None:
            stale &= pl.col("path").is_in([*rejects["path"], *part["files"].explode()])
        own = pl.concat([before.filter(~stale), own])
    index.write_rejects(own)
