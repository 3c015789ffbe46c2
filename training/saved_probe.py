"""Saved probes: a linear probe as files, and its predictions for vectors that have no label yet.

Decisions
- safetensors and JSON, nothing is ever unpickled; the JSON names the hash of the arrays, so that damage is told.
- A probe goes with the encoder whose vectors it was fitted on: its passport is saved, and compared before use.
- An older probe is replaced file by file; whatever else lies in its folder stays.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import DecipherError
from models.folder import titled
from training.heads import activated
from training.probe import Probe, ProbeResult

FORMAT = "decipher-probe-1"
JSON_NAME, ARRAYS_NAME = "probe.json", "probe.safetensors"
ARRAYS = ("mean", "scale", "weight", "bias")


def save_probe(result: ProbeResult, folder: Path, passport: dict[str, Any]) -> None:
    """Write probe.json and probe.safetensors; `passport` is that of the encoder whose vectors were probed.

    An older probe in `folder` is replaced, any other folder that holds something is refused with DecipherError.
    """
    from safetensors.numpy import save

    if result.probe is None:
        raise DecipherError(f"A probe with head {result.head!r} cannot be saved.", "use --head linear")
    if folder.exists() and not (folder / JSON_NAME).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DecipherError(f"{folder} holds something else than a probe.", "name a new folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = save({name: np.ascontiguousarray(getattr(result.probe, name)) for name in ARRAYS})
    card = {"format": FORMAT, "passport": passport, "arrays_hash": _hash(arrays), **result.to_json()}
    for name, content in ((ARRAYS_NAME, arrays), (JSON_NAME, (json.dumps(card, indent=2) + "\n").encode())):
        written = folder / f".{name}.tmp"
        written.write_bytes(content)
        written.replace(folder / name)


def load_probe(folder: Path) -> Probe:
    """The probe that `save_probe` wrote. Raises DecipherError where `folder` holds none, or a damaged one."""
    from safetensors.numpy import load

    try:
        card = json.loads((folder / JSON_NAME).read_text())
        content = (folder / ARRAYS_NAME).read_bytes()
        if (card["format"], card["arrays_hash"]) != (FORMAT, _hash(content)):
            raise ValueError("another format, or not the arrays that were saved")
        mean, scale, weight, bias = (load(content)[name] for name in ARRAYS)
        described = (card["task"], card["kind"], card["classes"])
        return Probe(*described, mean, scale, weight, bias, passport=card["passport"], report=card)
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "fit one with `decipher probe --task COLUMN -o FOLDER`"
        raise DecipherError(f"{folder} holds no readable probe.", hint) from error


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def check_passport(probe: Probe, passport: dict[str, Any]) -> None:
    """Raise DecipherError unless vectors of the encoder with `passport` are those the probe was fitted on."""
    differing = [key for key in probe.passport.keys() | passport.keys() if probe.passport.get(key) != passport.get(key)]
    if set(differing) - {"name", "version"}:
        raise DecipherError(
            f"The probe was fitted on vectors of model {titled(probe.passport)}; these are of model {titled(passport)}.",
            "fit the probe again on this index, or encode the archive with the probe's model",
        )


def apply_probe(probe: Probe, vectors: np.ndarray) -> np.ndarray:
    """Predictions (n,) of regression, or probabilities (n, K) in the order of probe.classes, for vectors (n, E)."""
    if vectors.ndim != 2 or vectors.shape[1] != len(probe.mean):
        raise DecipherError(
            f"The probe takes vectors (n, {len(probe.mean)}); got {vectors.shape}.",
            "encode with the model the probe was fitted on",
        )
    outputs = activated((vectors - probe.mean) / probe.scale @ probe.weight + probe.bias, len(probe.classes))
    return outputs if probe.classes else outputs[:, 0]
