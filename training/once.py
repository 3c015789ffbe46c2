"""Folders that are made once: whole or not there, and never again under the same name."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def made_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, made by write(an empty folder beside it) and renamed when whole, where it is not there yet.

    Of two processes that make it at once, the first one's stays.
    """
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            write(part)
            if not folder.is_dir():
                part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder
