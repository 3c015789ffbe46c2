"""Who may write, and what is still read: one writer, any number of readers.

Decisions: advisory flocks, which the kernel lets go when their holder dies, so that a killed writer never leaves a folder
shut. A second writer is refused at once and does not queue. The lock's file names its holder for as long as it works, and
stays so when that is stopped, so that the next one knows that there may be things to clear away. Readers share a lock on
each file they need to stay; it keeps nobody from writing, only from deleting that file.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl

from models.errors import DecipherError


class SharedLock:
    """Says, for as long as it lives, that the file at `path` is being read. OSError where it is gone or about to go."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:  # a file system without locks: nothing is deleted under a reader there but by bad luck
            if isinstance(error, BlockingIOError):
                raise

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


@contextmanager
def unread(path: Path) -> Iterator[bool]:
    """Whether nobody holds a SharedLock on the file at `path`; while the block runs, nobody gets one either."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # some network file systems want it for a lock of one's own
    except OSError as error:
        yield isinstance(error, FileNotFoundError)
        return
    try:
        yield _is_free(handle)
    finally:
        os.close(handle)


def _is_free(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def writer_lock(folder: Path) -> Iterator[bool]:
    """Hold the right to write below `folder`; gives whether the last holder came to its end.

    Errors: DecipherError when another process (or another handle) holds it, or `folder` cannot be written to.
    """
    with writable(folder):
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        with writable(folder):
            before = _take(handle, folder)
        yield not before
        with suppress(OSError):
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> str:
    """Take the lock and put one's name into it; who stood there before."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DecipherError(
            f"Another process ({_name_in(handle) or 'unknown'}) is writing to {folder}.",
            "Wait until it has ended and type the same again; searching needs no lock.",
        ) from error
    before, own = _name_in(handle), str(os.getpid()).encode()
    os.pwrite(handle, own, 0)
    os.ftruncate(handle, len(own))
    return before


def _name_in(handle: int) -> str:
    return os.pread(handle, 32, 0).decode(errors="replace")


def is_at_rest(folder: Path) -> bool:
    """Whether nobody writes below `folder`, and the last one who did came to its end."""
    try:
        return (folder / "lock").stat().st_size == 0
    except OSError:
        return True


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """What keeps the block from writing (a full disk, no permission) becomes one sentence about `folder`."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DecipherError(
            f"{folder} cannot be written to: {_reason(error)}.",
            "Check the disk's space and the folder's permissions; what was committed before stands.",
        ) from error


def _reason(error: Exception) -> str:
    """The system's word for what happened, which polars hides at the end of its own, or, for the end of a table, drops."""
    if "transport error" in str(error):
        return "the disk is full, or a file may not grow as large"
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number:
        return os.strerror(int(number[1]))
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
