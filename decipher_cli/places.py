"""Where things are by default: the index that a command means when none is named."""

import os
from pathlib import Path

DEFAULT_INDEX = "decipher-index"


def index_folder(asked: Path | None) -> Path:
    """`-i`, else $DECIPHER_INDEX, else decipher-index in the current folder."""
    return asked or Path(os.environ.get("DECIPHER_INDEX") or DEFAULT_INDEX)
