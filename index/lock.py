"""The right to write: one writer, any number of readers.

Decisions: an advisory flock on the file `lock`, which the kernel lets go when its holder dies, so that a killed writer
never leaves a folder shut; a second writer is refused at once and does not queue; reading takes no lock.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import DecipherError


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
    import fcntl

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
