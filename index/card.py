"""What an index says of itself, card.json: its encoder, its archives, its patch vectors; and where one may be made.

Decisions: `patches` [N, E] stands in the card of an index that keeps patch vectors and in no other, from the day it is made.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from index import manifest
from index.archive import Archive
from index.part import PatchShape
from index.segment import DAMAGED, read_json
from models.errors import DecipherError

NAME = "card.json"
OWN_NAMES = {NAME, "key", "lock", "segments"}


def new(passport: Mapping[str, Any], archives: Iterable[Archive], patches: PatchShape | None) -> dict[str, Any]:
    """The card of an index that holds nothing yet."""
    return {
        "kind": "decipher index",
        "format": manifest.FORMAT,
        "passport": dict(passport),
        "versions": {"decipher": _version()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "archives": [archive.to_json() for archive in archives],
        "series": 0,
        **({"patches": list(patches)} if patches else {}),
    }


def read(folder: Path) -> dict[str, Any]:
    """The card of the index in `folder`; DecipherError where it lacks what an index says of itself."""
    card = read_json(folder / NAME)
    try:
        int(card["passport"]["dim"])
        _ = [Archive.from_json(entry) for entry in card["archives"]], patch_shape(card)
    except (KeyError, TypeError, ValueError) as error:
        raise DecipherError(f"{folder / NAME} lacks what an index says of itself.", DAMAGED) from error
    return card


def patch_shape(card: Mapping[str, Any]) -> PatchShape | None:
    """(N, E) of the patch vectors that an index keeps, None where it keeps none."""
    if "patches" not in card:
        return None
    tokens, width = card["patches"]
    return int(tokens), int(width)


def is_index(folder: Path) -> bool:
    """Whether `folder` holds an index, whole or damaged."""
    return (folder / manifest.NAME).is_file() and (folder / NAME).is_file()


def check_free(folder: Path) -> None:
    """DecipherError unless an index may be made here: nothing there, or only what a killed `Index.create` left."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DecipherError(f"{folder} is a file, not a folder.", "Choose another folder with -i.")
    if is_index(folder):
        raise DecipherError(f"There is an index in {folder} already.", "Choose another folder with -i, or remove it.")
    names = {path.name for path in folder.iterdir() if not path.name.endswith(".partial")}
    segments = folder / "segments"
    if names - OWN_NAMES or (segments.is_dir() and any(segments.iterdir())):
        raise DecipherError(f"{folder} holds other files and is not an index.", "Choose another folder with -i.")


def _version() -> str:
    try:
        return metadata.version("decipher-mri")
    except metadata.PackageNotFoundError:
        return "unknown"
