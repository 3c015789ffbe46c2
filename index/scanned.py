"""A scan on disk: the catalogue and, beside it, the ledger, the stamps of every file, and the key of the patient hashes.

    catalogue.parquet           one row a series, with the archive that paths are relative to
    catalogue.rejects.parquet   every other file: path, code, reason, detail
    catalogue.files.parquet     size, time and group of every file: what the next scan needs to look at changes only
    catalogue.key               secret of the patient hashes, readable by its owner alone

Design: the stamps are removed first and written last, so that they never stand beside another scan's catalogue. They count
for one archive, one set of options and one state of the rules, which are this package's own sources.
"""

import os
from functools import cache
from pathlib import Path

import polars as pl

from index.archive import Archive
from index.catalog import Catalogue
from index.changes import SEEN
from index.finding import KEY, REJECTS, STAMPS
from index.ledger import REJECT_SCHEMA, rejects_frame
from index.options import ScanOptions
from index.record import SCHEMA, hash_of
from models.errors import DecipherError


def is_catalogue(path: Path) -> bool:
    """True for a catalogue that `save` wrote, or a selection of its rows."""
    if path.suffix != ".parquet" or not path.is_file():
        return False
    try:
        return {"archive", "series_id", "files", "affine_mm"} <= set(pl.read_parquet_schema(path))
    except (OSError, pl.exceptions.PolarsError):
        return False


def check_free(path: Path) -> None:
    """Raise DecipherError where a file stands at `path` that is no catalogue, or its folder cannot be."""
    if path.exists() and not is_catalogue(path):
        raise DecipherError(f"{path} exists and is no catalogue of a scan.", "Name another file: -o FILE.parquet")
    if path.suffix != ".parquet":
        raise DecipherError(
            f"A catalogue is a Parquet file, and {path} does not end so.", f"Try: -o {path.stem}.parquet"
        )
    if not path.parent.is_dir():
        raise DecipherError(
            f"There is no folder {path.parent}.", "Make it first, or name another file: -o FILE.parquet"
        )


def beside(path: Path, ending: str) -> Path:
    """The file of this ending that belongs to the catalogue at `path`."""
    return path.with_suffix(ending)


def save(path: Path, found: Catalogue, root: Path, options: ScanOptions) -> None:
    """Write the scan of `root` at `path`, each file whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    stamps = beside(path, STAMPS)
    stamps.unlink(missing_ok=True)
    _write(path, found.records.with_columns(archive=pl.lit(str(root.absolute()))))
    _write(beside(path, REJECTS), found.rejects)
    _write(stamps, found.seen.with_columns(settings=pl.lit(_settings(root, options))))


def load(path: Path, root: Path, options: ScanOptions) -> Catalogue | None:
    """The scan of `root` with these options that was saved at `path`; None where there is none, or other rules made it."""
    try:
        seen = pl.read_parquet(beside(path, STAMPS))
        if seen["settings"].unique().to_list() != [_settings(root, options)]:
            return None
        rejects = pl.read_parquet(beside(path, REJECTS)).select(REJECT_SCHEMA.keys())
        records = pl.read_parquet(path).select(SCHEMA.keys())
    except (OSError, pl.exceptions.PolarsError):
        return None
    odd = rejects.join(seen, on="path", how="anti").height
    return Catalogue(records, rejects, seen.select(SEEN.keys()), seen.height + odd)


def forget(path: Path, archive: Archive, living: set[str]) -> None:
    """Drop the series from the scan of `archive` at `path` that are not `living`, so that its next scan looks at them again."""
    stamps = beside(path, STAMPS)
    if not path.is_file() or not stamps.is_file():
        return
    records, seen = pl.read_parquet(path), pl.read_parquet(stamps)
    stays = archive.own(records)["series_id"].is_in(list(living))
    if stays.all():
        return
    gone = records.filter(~stays).select(path="files").explode("path")
    stamps.unlink()
    _write(path, records.filter(stays))
    _write(stamps, seen.join(gone, on="path", how="anti", maintain_order="left"))


def read_catalogue(path: Path) -> tuple[Catalogue, Path]:
    """A catalogue, or a selection of one, and the archive that its paths are relative to.

    The ledger is empty where its file is not there. Errors: DecipherError.
    """
    records = pl.read_parquet(path)
    roots = records["archive"].unique().to_list()
    if len(roots) != 1:
        raise DecipherError(
            f"{path} holds series of {len(roots)} archives, and one is needed.", "Scan: decipher scan ARCHIVE"
        )
    if not Path(roots[0]).is_dir():
        raise DecipherError(f"{path} was made of {roots[0]}, which is not there.", "Mount it, or scan where it is now.")
    ledger = beside(path, REJECTS)
    rejects = pl.read_parquet(ledger) if ledger.is_file() else rejects_frame([])
    files = records["files"].explode().n_unique() + rejects.height
    return Catalogue(records.drop("archive"), rejects, pl.DataFrame(schema=SEEN), files), Path(roots[0])


def own_key(path: Path) -> bytes | None:
    """The key that belongs to the catalogue at `path`, where there is one."""
    own = beside(path, KEY)
    return own.read_bytes() if own.is_file() else None


def key_of(path: Path) -> bytes | None:
    """The key of a catalogue: its own, or the only one in its folder, where a selection lies beside what it was taken from."""
    keys = list(path.parent.glob(f"*{KEY}"))
    return own_key(path) or (keys[0].read_bytes() if len(keys) == 1 else None)


def save_key(path: Path, key: bytes) -> None:
    """Keep the key of the catalogue at `path`, readable by its owner alone."""
    own = beside(path, KEY)
    own.unlink(missing_ok=True)
    with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(key)


def _write(path: Path, frame: pl.DataFrame) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        frame.write_parquet(partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _settings(root: Path, options: ScanOptions) -> str:
    chosen = (str(options.min_slices), str(options.parts), *sorted(options.include))
    return hash_of(str(root.absolute()), *chosen, _rules())


@cache
def _rules() -> str:
    return hash_of(*(source.read_text("utf-8") for source in sorted(Path(__file__).parent.glob("*.py"))))
