"""The commit point of an index: which segments live, and which of their rows were removed.

    manifest.json  {"format": 2, "commit": 7, "next_segment": 9, "segments": [{"name", "rows", "removed", "files"}], "blake2b"}

Decisions: replaced by one atomic rename. It holds the checksums of all else and so carries its own: a byte that changed in
a list of removed rows would otherwise bring back what was removed. A name of a segment is never given twice.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from index.segment import DAMAGED, read_json, write_json
from models.errors import DecipherError

FORMAT = 2
NAME = "manifest.json"
SEAL = "blake2b"
EMPTY = {"format": FORMAT, "commit": 0, "next_segment": 1, "segments": []}


def read(folder: Path) -> dict[str, Any]:
    """The last commit of the index in `folder`; DecipherError where it is damaged or of another format."""
    manifest = read_json(folder / NAME)
    if manifest.get("format") != FORMAT:
        raise DecipherError(
            f"The index {folder} was written by another version of decipher.",
            "Update decipher, or encode the archive into a new folder with -i.",
        )
    if manifest.pop(SEAL, None) != _seal(manifest):
        raise DecipherError(f"{folder / NAME} differs from its checksum.", DAMAGED)
    return manifest


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Make `manifest` the last commit."""
    write_json(folder / NAME, {**manifest, SEAL: _seal(manifest)})


def after(manifest: dict[str, Any], segments: list[dict[str, Any]]) -> dict[str, Any]:
    """The commit that follows `manifest`, with these segments."""
    free = max([manifest["next_segment"], *(int(one["name"]) + 1 for one in segments)])
    return {"format": FORMAT, "commit": manifest["commit"] + 1, "next_segment": free, "segments": segments}


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16).hexdigest()
