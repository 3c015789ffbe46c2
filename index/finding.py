"""Finding: every file below a root once, and what its first bytes say it is.

Design: content decides, never the name; a file is opened once for that, and its head is handed on. Real folders are walked
before linked ones, each folder once by device and inode, so that loops end and a linked copy adds nothing. Names that are
not UTF-8 are written with \\xNN escapes and found again from them. An index or a catalogue inside the archive is no part of
it.
"""

import os
import re
import stat
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from index.ledger import Rejection, row

HEAD_BYTES = 65536
"""what is read of a file to tell what it is; most DICOM headers end within"""
SIGNATURE_BYTES = 544
"""what tells the kind of a file: a NIfTI-2 header, the longest"""
MOST_WHOLE = 4 << 20
GZIP_MAGIC = b"\x1f\x8b"
REJECTS, KEY, STAMPS = ".rejects.parquet", ".key", ".files.parquet"
CATALOGUE = (".parquet", REJECTS, KEY, STAMPS)
"""endings of the files that a scan leaves, the last one only once it is done"""
_COMPANIONS = (".json", ".bval", ".bvec", ".csv", ".tsv", ".txt", ".md")
_PACKED = (b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")


class File(NamedTuple):
    """A regular file: its path relative to the archive as text (see `text_of`), and what tells that it has changed."""

    path: str
    size_bytes: int
    mtime_ns: int


def text_of(path: Path | str) -> str:
    """The path as text that any file format can hold; bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def place_of(root: str | Path, path: str) -> str:
    """Where the file lies that `text_of` named `path`, below `root`. Text: a path object takes as long as reading the file."""
    place = f"{root}/{path}"
    if "\\x" not in path or os.path.lexists(place):
        return place
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), path.encode())
    return f"{root}/{os.fsdecode(raw)}"


def path_of(root: Path, path: str) -> Path:
    """`place_of` as a path object."""
    return Path(place_of(root, path))


def walk(archive: Path) -> tuple[list[File], list[dict[str, str]]]:
    """Every regular file below `archive` that has bytes, sorted by path, and a ledger row for every other entry.

    Links to folders are followed, loops are not. An `archive` that is a file: that file alone, relative to its folder.
    A folder that cannot be listed has a row, and so has an archive without any file.
    """
    files: list[File] = []
    rows: list[dict[str, str]] = []
    if not archive.is_dir():
        _take(archive.stat, archive.name, files, rows)
        return files, rows
    seen: set[tuple[int, int]] = set()
    real, linked = deque([""]), deque[str]()
    while real or linked:
        folder = real.popleft() if real else linked.popleft()
        try:
            entries = _unseen_entries(f"{archive}/{folder}", seen)
        except OSError:
            rows.append(row(text_of(folder or "."), "unreadable", "a folder"))
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if not _is_folder(entry):
                _take(entry.stat, name, files, rows)
            else:
                (linked if entry.is_symlink() else real).append(name)
    if not files and not rows:
        rows.append(row(".", "empty_folder"))
    return sorted(files, key=itemgetter(0)), rows


def _unseen_entries(folder: str, seen: set[tuple[int, int]]) -> "list[os.DirEntry[str]]":
    """The folder's entries, less catalogues of scans; none where it was seen already, or where it is an index."""
    status = os.stat(folder)  # noqa: PTH116
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as listing:
        entries = list(listing)
    names = {entry.name for entry in entries}
    scans = [name.removesuffix(STAMPS) for name in names if name.endswith(STAMPS)]
    if scans:
        own = {scan + ending for scan in scans for ending in CATALOGUE}
        entries = [entry for entry in entries if entry.name not in own]
    return [] if {"manifest.json", "segments"} <= names else entries


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _take(look_up: Callable[[], os.stat_result], name: str, files: list[File], rows: list[dict[str, str]]) -> None:
    path = name if name.isascii() else text_of(name)
    try:
        status = look_up()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        rows.append(row(path, "unreadable", "a link to nowhere" if missing else error.strerror or ""))
        return
    if not stat.S_ISREG(status.st_mode):
        rows.append(row(path, "unreadable", "not a regular file"))
    elif status.st_size == 0:
        rows.append(row(path, "empty_file"))
    else:
        files.append(File(path, status.st_size, status.st_mtime_ns))


def read_head(place: str | Path) -> bytes:
    """The first HEAD_BYTES of a file as they lie on disk. Raises Rejection unreadable."""
    try:
        return read_at(place, 0, HEAD_BYTES)
    except OSError as error:
        raise Rejection("unreadable", error.strerror or type(error).__name__) from None


def read_at(place: str | Path, offset: int, count: int) -> bytes:
    """`count` bytes of a file from `offset`, or fewer at its end. Raises OSError."""
    descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return os.pread(descriptor, count, offset)
    finally:
        os.close(descriptor)


class Opened(NamedTuple):
    """A file by its place and size, whether it is gzip, its first bytes unpacked, and whether they are all it holds."""

    place: str
    size_bytes: int
    packed: bool
    start: bytes
    whole: bool


def opened(place: str, size_bytes: int | None = None) -> Opened:
    """The file's first bytes, unpacked; all of them where they are few. Raises Rejection unreadable, corrupt, truncated."""
    head = read_head(place)
    size_bytes = os.path.getsize(place) if size_bytes is None else size_bytes  # noqa: PTH202
    if not head.startswith(GZIP_MAGIC):
        return Opened(place, size_bytes, False, head, len(head) >= size_bytes)
    if len(head) >= size_bytes and (whole := _unpacked_whole(head)) is not None:
        return Opened(place, size_bytes, True, whole, True)
    return Opened(place, size_bytes, True, unpacked_start(place, head), False)


def _unpacked_whole(packed: bytes) -> bytes | None:
    """What a gzip of one member holds; None where it holds more than MOST_WHOLE, or there are more members."""
    from isal import isal_zlib

    reader = isal_zlib.decompressobj(wbits=31)
    with named_damage():
        whole = reader.decompress(packed, MOST_WHOLE)
    return whole if reader.eof and not reader.unused_data.strip(b"\0") else None


def unpacked_start(place: str | Path, head: bytes) -> bytes:
    """The first SIGNATURE_BYTES of an unpacked file by its head; it is opened where the head's first member has fewer."""
    if not head.startswith(GZIP_MAGIC):
        return head[:SIGNATURE_BYTES]
    with named_damage():
        start = zlib.decompressobj(wbits=31).decompress(head, SIGNATURE_BYTES)  # isal takes longer to begin
        if len(start) == SIGNATURE_BYTES:
            return start
        with open_unpacked(place) as stream:
            return stream.read(SIGNATURE_BYTES)


def kind_of(start: bytes, path: str) -> str:
    """'dicom' or 'nifti', by the first unpacked bytes alone. Raises Rejection for every other file."""
    if is_nifti(start) and start[128:132] != b"DICM":
        return "nifti"
    if is_dicom(start):
        return "dicom"
    if start.startswith(_PACKED):
        raise Rejection("packed")
    raise Rejection("companion" if path.lower().endswith(_COMPANIONS) else "not_an_image")


def open_unpacked(place: str | Path) -> BufferedIOBase:
    """The file's bytes, unpacked where they are gzip, whatever the name says."""
    from isal import igzip

    stream = open(place, "rb")  # noqa: SIM115, PTH123
    zipped = stream.read(2) == GZIP_MAGIC
    stream.seek(0)
    return igzip.GzipFile(fileobj=stream, mode="rb") if zipped else stream


def unpacked_size(place: str | Path) -> int:
    """Bytes of the file when it is unpacked; of gzip what its last four bytes say, which is right below 4 GiB."""
    size = os.stat(place).st_size  # noqa: PTH116
    if read_at(place, 0, 2) != GZIP_MAGIC:
        return size
    return int.from_bytes(read_at(place, max(0, size - 4), 4), "little")


@contextmanager
def named_damage() -> Iterator[None]:
    """Turn what reading a damaged, compressed or unreadable file raises into a Rejection."""
    from isal import igzip_lib

    packing_error: Any = igzip_lib.error
    try:
        yield
    except EOFError:
        raise Rejection("truncated", "the compressed data end too early") from None
    except (packing_error, zlib.error) as error:
        raise Rejection("corrupt", str(error)) from None
    except OSError as error:
        code = "corrupt" if error.errno is None else "unreadable"
        raise Rejection(code, error.strerror or str(error)) from None


def is_image(start: bytes) -> bool:
    """True for DICOM and NIfTI."""
    return is_nifti(start) or is_dicom(start)


def is_nifti(head: bytes) -> bool:
    """True for a NIfTI-1, NIfTI-2 or ANALYZE header of either byte order, by its size field."""
    return len(head) >= 4 and {348, 540} & {*struct.unpack("<i", head[:4]), *struct.unpack(">i", head[:4])} != set()


def is_dicom(head: bytes) -> bool:
    """True for DICOM Part 10, or for a bare data set that begins with a plausible element of group 0002 or 0008."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        explicit = head[4:6].isalpha() and head[4:6].isupper()
        if group in (0x0002, 0x0008) and element < 0x0100 and (explicit or length < 256):
            return True
    return False


def is_there(text: str) -> bool:
    """Whether a text is the path of a file or folder; it may be words, and longer than any name."""
    try:
        return bool(text.strip()) and Path(text.strip()).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
