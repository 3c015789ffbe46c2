"""Series and questions as vectors: of trained models, of the same networks before training, and of what needs no encoder.

Decisions
- What an encoder made of the boxes is kept beside them, known by its weights and the code of `models`.
- 24-cubed intensities go through principal components of these very series; no label is used. 32 of them make the hardest
  rival: with all of them, probes do worse.
- A vector that speaks no language answers nothing that is asked in words.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from boxes import Boxes
from questions import texts
from torch.nn import functional as F

import models.decipher
from index.embed import features_of
from index.spread import unit_length
from models.config import Edges, ModelConfig
from models.decipher import Decipher, load
from models.families import copy_shared
from models.folder import passport
from training.baselines import baseline_features
from training.once import made_once
from training.rivals import intensity_histogram

SMALL = 24
COMPONENTS = 32
"""and never more than one less than there are series"""
RANDOM, PIXELS, HISTOGRAM, GEOMETRY = "random weights", f"{SMALL}³ intensities, PCA", "histogram", "geometry"


@dataclass(frozen=True, eq=False)
class Encoding:
    """vectors (n, E) of unit length; patches (n, N, E), zero where a patch is padding, of `patch` voxels each; words: {text:
    (E,)} of unit length. Without an encoder vectors alone."""

    vectors: np.ndarray
    patches: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    patch: Edges = (0, 0, 0)
    words: dict[str, np.ndarray] = field(default_factory=dict)


def trained(name: str, boxes: Boxes, cache: Path) -> Encoding:
    """What a model, by folder or shipped name, makes of the boxes."""
    return _kept(lambda: load(name), passport(name)["hash"], boxes, cache)


def untrained(config: ModelConfig, seed: int, boxes: Boxes, cache: Path) -> Encoding:
    """What a model of the same size makes of them before it learnt anything; the frozen text base has learnt."""

    def made() -> Decipher:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Decipher(config)
        copy_shared(model.vision)
        return model.eval()

    return _kept(made, f"random {seed} {config.to_json()}", boxes, cache)


def _kept(make: Callable[[], Decipher], of: str, boxes: Boxes, cache: Path) -> Encoding:
    code = b"".join(file.read_bytes() for file in sorted(Path(models.decipher.__file__).parent.glob("*.py")))
    whole = [boxes.name.encode(), of.encode(), "\n".join(texts()).encode(), code]
    name = hashlib.blake2b(b"\0".join(whole), digest_size=8).hexdigest()
    folder = made_once(cache / f"encoding-{name}", lambda part: _write(part, make(), boxes))
    vectors, patches, words, patch = (
        np.load(folder / f"{one}.npy") for one in ("vectors", "patches", "words", "patch")
    )
    return Encoding(vectors, patches, tuple(patch.tolist()), dict(zip(texts(), words, strict=True)))


def _write(part: Path, model: Decipher, boxes: Boxes) -> None:
    vectors, patches = features_of(model, boxes.prepared, patches=True)
    np.save(part / "vectors.npy", vectors)
    np.save(part / "patches.npy", np.concatenate(patches or []))
    np.save(part / "words.npy", model.encode_texts(texts()).numpy())
    np.save(part / "patch.npy", np.array(model.config.vision.patch))


def without_encoder(boxes: Boxes, config: ModelConfig) -> dict[str, Encoding]:
    """Vectors of the pixels and of the grid alone, by name."""
    histograms = np.stack([intensity_histogram(one, config) for one in boxes.prepared])
    geometry = baseline_features(boxes.records)[GEOMETRY]
    spread = geometry.std(axis=0)
    standard = (geometry - geometry.mean(axis=0)) / np.where(spread > 0, spread, 1)
    found = {PIXELS: components(_small(boxes)), HISTOGRAM: histograms, GEOMETRY: standard}
    return {name: Encoding(unit_length(vectors)) for name, vectors in found.items()}


def _small(boxes: Boxes) -> np.ndarray:
    """(n, 24³) of the boxes, averaged down."""
    return np.stack([F.adaptive_avg_pool3d(one.pixels[None], SMALL).flatten().numpy() for one in boxes.prepared])


def components(values: np.ndarray) -> np.ndarray:
    """Scores (n, 32) of values (n, F) on their principal components."""
    u, s, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    return (u * s)[:, : min(COMPONENTS, len(values) - 1)]
