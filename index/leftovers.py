"""What a writer leaves that was stopped half-way, and how the next one clears it away.

Decisions: what no manifest names is unseen by readers, so it may wait for the next writer. Segments that a compaction
retired go the same way, once nobody reads them; whoever opens an older commit meanwhile finds them shut and opens the last
one. What cannot be deleted now is left to a later writer as well. Pictures are looked through only after a writer that did
not come to its end, since there may be a million.
"""

import shutil
from collections.abc import Container
from pathlib import Path

from index.lock import unread

PARTIAL = ".partial"


def sweep_segments(folder: Path, known: Container[str]) -> None:
    """Delete the segments below the index `folder` that are not `known`, and files that are not whole; only under the lock."""
    for path in (folder / "segments").iterdir():
        if path.name.removesuffix(PARTIAL).isdigit() and path.name not in known:
            with unread(path / "vectors.npy") as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"*{PARTIAL}"):
        path.unlink()


def sweep_pictures(folder: Path, living: Container[str]) -> None:
    """Delete the pictures of series that are not `living`, and files of pictures and scans that are not whole."""
    for picture in (folder / "thumbnails").glob("*.png"):
        if picture.stem not in living:
            picture.unlink()
    for pattern in (f"thumbnails/*{PARTIAL}", "scan/.*"):
        for path in folder.glob(pattern):
            path.unlink()
