"""Saved probes: a linear probe as files, and its predictions for vectors that have no label yet.

Decisions
- safetensors and JSON, nothing is ever unpickled; the JSON names the hash of the arrays, so that damage is told.
- A probe goes with the encoder whose vectors it was fitted on: its passport is saved, and compared before use.
- An older probe is replaced file by file; whatever else lies in its folder stays.
- What it says of new vectors is as honest as its figures: calibrated on patients that the fit did not see, with an
  interval around a number. A probe that was saved without them still predicts, without.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import DecipherError
from models.folder import titled
from training.calibration import Calibration
from training.heads import activated
from training.intervals import honest_outputs, log_odds
from training.probe import Probe, ProbeResult
from training.target import MULTILABEL
from training.units import means

FORMAT = "decipher-probe-1"
JSON_NAME, ARRAYS_NAME = "probe.json", "probe.safetensors"
ARRAYS = ("mean", "scale", "weight", "bias")


def check_savable(head: str, folder: Path) -> None:
    """DecipherError unless a probe with `head` may be saved in `folder`, told before anything is fitted."""
    if head != "linear":
        raise DecipherError(f"A probe with head {head!r} cannot be saved.", "use --head linear, or leave out -o")
    if folder.exists() and not (folder / JSON_NAME).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DecipherError(f"{folder} holds something else than a probe.", "name a new folder with -o")


def save_probe(result: ProbeResult, folder: Path, passport: dict[str, Any], model: str | None = None) -> dict[str, Any]:
    """Write probe.json and probe.safetensors; returns what probe.json says.

    passport: of the encoder whose vectors were probed; model: where that encoder is. An older probe in `folder` is
    replaced, any other folder that holds something is refused with DecipherError.
    """
    from safetensors.numpy import save

    check_savable(result.head, folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = save({name: np.ascontiguousarray(getattr(result.probe, name)) for name in ARRAYS})
    stamp = {"format": FORMAT, "passport": passport, "model": model, "arrays_hash": _hash(arrays)}
    card = {**stamp, **result.to_json(), **honest_outputs(result)}
    for name, content in ((ARRAYS_NAME, arrays), (JSON_NAME, (json.dumps(card, indent=2) + "\n").encode())):
        written = folder / f".{name}.tmp"
        written.write_bytes(content)
        written.replace(folder / name)
    return card


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


def apply_probe(probe: Probe, vectors: np.ndarray, unit: np.ndarray | None = None) -> np.ndarray:
    """Predictions (n,) of regression, or probabilities (n, K) in the order of probe.classes, for vectors (n, E).

    unit (n,): codes from 0 of what is judged at once, for a probe of studies or patients: then there are as many rows as
    units. Probabilities are calibrated where the probe was saved with a calibration; of several labels each has its own.
    """
    if vectors.ndim != 2 or vectors.shape[1] != len(probe.mean):
        raise DecipherError(
            f"The probe takes vectors (n, {len(probe.mean)}); got {vectors.shape}.",
            "encode with the model the probe was fitted on",
        )
    own = np.arange(len(vectors)) if unit is None else unit
    if probe.report.get("pool") == "mean":
        vectors, own = means(vectors, own), np.arange(len(np.unique(own)))
    outputs = means(_raw(probe, vectors), own)
    return _calibrated(probe, outputs) if probe.classes else outputs[:, 0]


def _raw(probe: Probe, vectors: np.ndarray) -> np.ndarray:
    raw = (vectors - probe.mean) / probe.scale @ probe.weight + probe.bias
    return (1 + np.tanh(raw / 2)) / 2 if probe.kind == MULTILABEL else activated(raw, len(probe.classes))


def _calibrated(probe: Probe, outputs: np.ndarray) -> np.ndarray:
    """Probabilities (n, K) as experience corrects them; as they are where there was too little of it."""
    saved = probe.report.get("calibrations") or [None] * outputs.shape[1]
    learnt = [Calibration(one["scale"], np.array(one["bias"])) if one else None for one in saved]
    if probe.kind != MULTILABEL:
        return learnt[0].probabilities(log_odds(outputs)) if learnt[0] else outputs
    both = [np.stack([1 - positive, positive], axis=1) for positive in outputs.T]
    return np.stack(
        [(one.probabilities(log_odds(two)) if one else two)[:, 1] for one, two in zip(learnt, both, strict=True)],
        axis=1,
    )


def half_width_of(probe: Probe) -> float | None:
    """Half of the 95 % interval around a number; None where it is not known."""
    return (probe.report.get("interval") or {}).get("half_width")
