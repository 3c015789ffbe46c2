"""Several indexes become one, without their archives: sites share vectors and tags, and no pixels.

Decisions: all must be of one encoder. The new index is made beside its place and renamed when it is whole. A series that
two indexes hold is kept once, from the first; a DICOM series is known by its own identifier, NIfTI series of two archives
are told apart by the archive (see index.archive). Archives at one root are one where the indexes have series in common and
agree on them, or have one key; two sites may both keep theirs in /data. Patients stay known by the hashes they have: where
the indexes have different keys, nobody can tell that two hashes are one person, and the new index gets a key of its own.
Saved columns come along; cohorts and probes do not. Patch vectors come along where all have them; where one site has none,
the new index has none either, and says so: refusing would leave no way to search the sites together, since who merges
seldom has the pixels, and the sources stay as they are.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from index import saving
from index.archive import Archive, free_name, salted
from index.lock import writable, writer_lock
from index.nearest import refresh
from index.part import PatchShape
from index.segment import sync
from index.store import Index, check_free, is_index
from models.errors import DecipherError

BLOCK_ROWS = 16384
MARK = "merging"
"""a file that says that its folder is a merge under way"""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Merged:
    """Series of the new index, series that stood in two and are kept once, and whether all had one key."""

    series: int
    twice: int
    one_key: bool


def merge(
    folders: Sequence[Path],
    target: Path,
    progress: Progress = lambda done, of: None,
    tell: Callable[[str], None] = lambda said: None,
) -> Merged:
    """Make the index `target` of those in `folders`; `tell` is told what cannot come along.

    Errors: DecipherError for another encoder, or a folder in the way.
    """
    sources = [Index.open(folder) for folder in folders]
    _check_encoders(sources)
    target = target.resolve()
    check_free(target)
    partial = target.with_name(f"{target.name}.{MARK}")
    _clear(partial)
    keys = {source.key for source in sources}
    one_key = len(keys) == 1
    key = keys.pop() if one_key else secrets.token_bytes(32)
    made = Index.create(partial, sources[0].passport, key=key, patches=_patches(sources, tell))
    try:
        with made.writing(), writable(partial):
            (partial / MARK).touch()
            made.update_card(model=sources[0].card.get("model"))
            twice = _fill(made, sources, one_key, progress)
            refresh(made)
            _rename(partial, target)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk gets its space back
        raise
    return Merged(len(made), twice, one_key)


def _patches(sources: Sequence[Index], tell: Callable[[str], None]) -> PatchShape | None:
    """(N, E) of the patch vectors that the new index keeps."""
    shapes = {source.patch_shape for source in sources}
    if len(shapes) > 1:
        without = ", ".join(str(source.folder) for source in sources if not source.has_patches)
        tell(f"patch vectors are left behind, since {without} has none; the indexes that have them stay as they are")
        return None
    return shapes.pop()


def _check_encoders(sources: Sequence[Index]) -> None:
    if len(sources) < 2:
        raise DecipherError("Merging takes two indexes or more.", "decipher index merge A B -o C")
    for other in sources[1:]:
        if (other.passport["hash"], other.dim) != (sources[0].passport["hash"], sources[0].dim):
            raise DecipherError(
                f"{other.folder} was made by another encoder ({other.passport['name']}) than {sources[0].folder} "
                f"({sources[0].passport['name']}).",
                "Vectors of two encoders cannot be compared; encode one archive again with -m.",
            )


def _clear(partial: Path) -> None:
    """Remove what a merge left that was stopped; DecipherError where it still runs, or somebody's own index stands there."""
    if not is_index(partial):
        return
    if not (partial / MARK).is_file() and len(Index.open(partial)):
        raise DecipherError(
            f"There is an index in {partial} already.", "Rename it, or merge into another folder with -o."
        )
    with writer_lock(partial), writable(partial):
        shutil.rmtree(partial)


def _fill(made: Index, sources: Sequence[Index], one_key: bool, progress: Progress) -> int:
    """Copy everything; returns how many series stood in two."""
    twice, total = 0, sum(len(source) for source in sources)
    for source in sources:
        source.check_sums()
        homes = _homes(made, source, one_key)
        for own, new in homes.items():
            twice += _copy(made, source, own, new, lambda: progress(len(made), total))
        saving.carry(made, source, homes)
    return twice


def _rename(partial: Path, target: Path) -> None:
    if target.exists():
        check_free(target)
        shutil.rmtree(target)
    partial.rename(target)
    (target / MARK).unlink()
    sync(target.absolute().parent)


def _homes(made: Index, source: Index, one_key: bool) -> dict[Archive, Archive]:
    """What each archive of `source` is called in `made`, which gets to know it."""
    homes: dict[Archive, Archive] = {}
    for own in source.archives.values():
        same = [one for one in made.archives.values() if _same(made, one, source, own, one_key)]
        if same:
            homes[own] = same[0]
            continue
        name = free_name(own.name, made.archives)
        taken = own.salts in {one.salts for one in made.archives.values()}
        homes[own] = Archive(name, own.root, (*own.salts, name) if taken else own.salts)
        made.update_card(archives=[one.to_json() for one in (*made.archives.values(), homes[own])])
    return homes


def _same(made: Index, one: Archive, source: Index, own: Archive, one_key: bool) -> bool:
    """Whether two indexes speak of one archive: the same root, and no series of it that differs between them."""
    if (one.root, one.salts) != (own.root, own.salts):
        return False
    names = ["series_id", "fingerprint", "archive"]
    mine = made.columns(names).filter(pl.col("archive") == one.name)
    theirs = source.columns(names).filter(pl.col("archive") == own.name)
    both = mine.join(theirs, on="series_id")
    agree = both.filter(pl.col("fingerprint") != pl.col("fingerprint_right")).is_empty()
    return agree and (one_key or not both.is_empty())


def _copy(made: Index, source: Index, own: Archive, new: Archive, progress: Callable[[], None]) -> int:
    """Copy one archive's rows and pictures; returns how many were there already."""
    twice = 0
    known = made.columns(["series_id"])["series_id"]
    for rows, records, vectors, captions in source.blocks(BLOCK_ROWS):
        renamed = records
        for salt in new.salts[len(own.salts) :]:
            renamed = salted(renamed, salt)
        mine = (records["archive"] == own.name).to_numpy()
        fresh = mine & ~renamed["series_id"].is_in(known.implode()).to_numpy()
        twice += int((mine & ~fresh).sum())
        patches = source.patches[rows[fresh]].blocks() if made.has_patches else None
        own_rows = renamed.filter(fresh).with_columns(archive=pl.lit(new.name))
        made.append(own_rows, vectors[fresh], captions[fresh], patches)
        made.tidy()
        for before, after in zip(records.filter(fresh)["series_id"], renamed.filter(fresh)["series_id"], strict=True):
            _share(source.folder / "thumbnails" / f"{before}.png", made.folder / "thumbnails" / f"{after}.png")
        progress()
    _copy_rejects(made, source, own, new)
    return twice


def _share(picture: Path, to: Path) -> None:
    """One file under two names where the disk allows, else a copy; pictures are replaced, never written into."""
    to.parent.mkdir(exist_ok=True)
    try:
        os.link(picture, to)
    except FileNotFoundError:
        return
    except OSError:
        shutil.copyfile(picture, to)


def _copy_rejects(made: Index, source: Index, own: Archive, new: Archive) -> None:
    if source.rejects is None:
        return
    rejects = source.rejects.filter(pl.col("archive") == own.name).with_columns(archive=pl.lit(new.name))
    made.write_rejects(
        rejects if made.rejects is None else pl.concat([made.rejects, rejects]).unique(maintain_order=True)
    )
