"""Finding: every file below a root once, and what its first bytes say it is.

Design: content decides, never the name. Real folders are walked before linked ones, each folder once by device and
inode, so that loops end and a linked copy adds nothing. Names that are not UTF-8 are written with \\xNN escapes and found
again from them. An index folder inside the archive is not archive.
"""

import os
import re
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from index.ledger import Rejection

HEAD_BYTES = 544
GZIP_MAGIC = b"\x1f\x8b"
_COMPANIONS = (".json", ".bval", ".bvec", ".csv", ".tsv", ".txt", ".md")
_PACKED = (b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")


def text_of(path: Path) -> str:
    """The path as text that any file format can hold; bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def path_of(root: Path, text: str) -> Path:
    """The path below `root` that `text_of` wrote down. A `root` that is a file stands for its folder."""
    base = root.parent if root.is_file() else root
    plain = base / text
    if "\\x" not in text or plain.exists():
        return plain
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
    return base / os.fsdecode(raw)


def walk(archive: Path) -> list[Path]:
    """Every entry that is not a folder, relative to `archive`, sorted; links to folders are followed, loops are not.

    For an `archive` that is a file: that file alone, relative to its folder. A folder that cannot be listed is an
    entry, and so is an archive without any file.
    """
    if not archive.is_dir():
        return [Path(archive.name)]
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    real, linked = deque([Path()]), deque[Path]()
    while real or linked:
        folder = real.popleft() if real else linked.popleft()
        try:
            status = (archive / folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(archive / folder))
        except OSError:
            found.append(folder)
            continue
        if {"manifest.json", "segments"} <= {entry.name for entry in entries}:
            continue
        for entry in entries:
            if not _is_folder(entry):
                found.append(folder / entry.name)
            elif entry.is_symlink():
                linked.append(folder / entry.name)
            else:
                real.append(folder / entry.name)
    return sorted(found, key=os.fsencode) or [Path()]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def kind_of(path: Path) -> str:
    """'dicom' or 'nifti', by content. Raises Rejection for every other file."""
    raw = _first_bytes(path)
    zipped = raw.startswith(GZIP_MAGIC)
    head = _unpacked(path) if zipped else raw
    if is_nifti(head) and head[128:132] != b"DICM":
        return "nifti"
    if raw.startswith(_PACKED) or (zipped and is_dicom(head)):
        raise Rejection("packed")
    if not zipped and is_dicom(head):
        return "dicom"
    raise Rejection("companion" if path.suffix.lower() in _COMPANIONS else "not_an_image")


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise Rejection("empty_folder" if os.access(path, os.R_OK | os.X_OK) else "unreadable", "a folder")
    if not path.is_file():
        raise Rejection("unreadable", "not a regular file" if path.exists() else "a link to nowhere")
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise Rejection("unreadable", error.strerror or type(error).__name__) from None
    if not head:
        raise Rejection("empty_file")
    return head


def _unpacked(path: Path) -> bytes:
    with named_damage(), open_unpacked(path) as stream:
        return stream.read(HEAD_BYTES)


def open_unpacked(path: Path) -> BufferedIOBase:
    """The file's bytes, unpacked where they are gzip, whatever the name says."""
    from isal import igzip

    stream = path.open("rb")
    zipped = stream.read(2) == GZIP_MAGIC
    stream.seek(0)
    return igzip.GzipFile(fileobj=stream, mode="rb") if zipped else stream


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
