"""Saved decoders: config.json, decoder.safetensors and metrics.json in a folder of their own.

Decisions:
- safetensors and JSON, nothing is ever unpickled; single precision, since a decoder is small.
- A decoder goes with the encoder whose patches it was fitted on: its passport is saved, and compared before use.
- What it was fitted on is saved too, so that it need not be asked about a knee when it has seen brains alone.
- The folder is written beside its place and renamed, so that it is whole or not there; nothing else is overwritten.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.decoder import Decoder, DecoderConfig
from models.errors import DecipherError
from models.folder import titled
from training.decode import Fit

FORMAT = "decipher-decoder-2"
JSON_NAME, WEIGHTS_NAME, METRICS_NAME = "config.json", "decoder.safetensors", "metrics.json"
FITTED_ON = ("sequence", "body_region")
REFIT = "fit one with `decipher decode fit --masks CSV -o FOLDER`"


@dataclass(frozen=True)
class SavedDecoder:
    """decoder in evaluation mode; model: name or folder of its encoder, passport: who that was; task, threshold, labels;
    fitted_on: what the catalogue knew of its series, for each of FITTED_ON."""

    decoder: Decoder
    model: str
    passport: dict[str, Any]
    task: str
    threshold: float
    labels: list[str]
    fitted_on: dict[str, list[str]]


def check_free(folder: Path) -> None:
    """Errors: DecipherError where `folder` holds something else than a decoder."""
    if folder.exists() and not _is_ours(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise DecipherError(f"{folder} holds something else than a decoder.", "Name a new folder with -o.")


def _is_ours(folder: Path) -> bool:
    return (folder / WEIGHTS_NAME).is_file() and {path.name for path in folder.iterdir()} <= {
        JSON_NAME, WEIGHTS_NAME, METRICS_NAME,
    }  # fmt: skip


def save_decoder(
    fit: Fit, folder: Path, model: str, passport: dict[str, Any], records: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write the fit to `folder`, replacing an older decoder there.

    model: name or folder of the encoder; passport: the encoder's; records: the series that it was fitted on. Errors:
    DecipherError as `check_free` has.
    """
    from safetensors.torch import save_file

    check_free(folder)
    folder = folder.absolute()
    part = folder.parent / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in fit.decoder.state_dict().items()}, part / WEIGHTS_NAME)
    config = {
        "format": FORMAT, "task": fit.report["task"], "labels": fit.labels, "threshold": fit.threshold,
        "decoder": fit.decoder.config.to_json(), "model": model, "passport": passport,
        "fitted_on": {name: sorted({one[name] for one in records} - {None}) for name in FITTED_ON},
    }  # fmt: skip
    for name, content in ((JSON_NAME, config), (METRICS_NAME, fit.report)):
        (part / name).write_text(json.dumps(content, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load_decoder(folder: Path) -> SavedDecoder:
    """The decoder that `save_decoder` wrote. Errors: DecipherError where `folder` holds none, or a damaged one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        card = json.loads((folder / JSON_NAME).read_text())
        if card["format"] != FORMAT:
            raise ValueError("another format")
        decoder = Decoder(DecoderConfig.from_json(card["decoder"]))
        decoder.load_state_dict(load_file(folder / WEIGHTS_NAME))
        said = (card["model"], card["passport"], card["task"], float(card["threshold"]), card["labels"])
        fitted_on = {name: list(card["fitted_on"][name]) for name in FITTED_ON}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, DecipherError, SafetensorError) as error:
        raise DecipherError(f"{folder} holds no readable decoder.", REFIT) from error
    return SavedDecoder(decoder.eval(), *said, fitted_on)


def check_encoder(saved: SavedDecoder, passport: dict[str, Any]) -> None:
    """Errors: DecipherError unless the encoder with `passport` is the one that the decoder was fitted on."""
    if any(saved.passport.get(key) != passport.get(key) for key in ("hash", "dim", "prepare")):
        raise DecipherError(
            f"The decoder was fitted on model {titled(saved.passport)}; this is model {titled(passport)}.",
            "Name its model with -m, or fit the decoder again on this one.",
        )
