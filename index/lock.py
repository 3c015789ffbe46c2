"""Who may write, and what is still read: one writer, any number of readers.

Decisions: advisory flocks, which the kernel lets go when their holder dies, so that a killed writer never leaves a folder
shut. A second writer is refused at once and does not queue. Readers share a lock on each file they need to stay; it
keeps nobody from writing, only from deleting that file.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models.errors import DecipherError


class SharedLock:
    """Says, for as long as it lives, that the file at `path` is being read."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with suppress(OSError):  # a file system without locks: nothing is deleted under a reader there but by bad luck
            fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


def is_read(path: Path) -> bool:
    """Whether anybody holds a SharedLock on the file at `path`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the right to write below `folder`; DecipherError when another process (or another handle) holds it."""
    try:
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DecipherError(
            f"{folder} cannot be written to: {error.strerror}.", "Check the folder's permissions and the disk."
        ) from error
    try:
        _take(handle, folder)
        yield
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(handle, 32, 0).decode(errors="replace") or "unknown"
        raise DecipherError(
            f"Another process ({holder}) is writing to {folder}.",
            "Wait until it has ended and type the same again; searching needs no lock.",
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
