"""The model that ships: small, whole, and better than chance on patients it has not seen."""

from collections import Counter

import numpy as np

from models.decipher import load
from models.folder import SHIPPED, shipped_models
from training.phantom.series import make_patient

PROMPTS = {
    "T1": "T1-weighted MRI", "T2": "T2-weighted MRI", "FLAIR": "FLAIR MRI", "PD": "proton density weighted MRI",
}  # fmt: skip
UNSEEN = 10_000_019


def test_it_is_small_and_has_a_card() -> None:
    assert "mini" in shipped_models()
    assert sum(f.stat().st_size for f in (SHIPPED / "mini").iterdir()) < 20e6
    assert "not a medical device" in (SHIPPED / "mini" / "card.md").read_text().lower()


def test_zero_shot_beats_chance_on_unseen_phantoms() -> None:
    model = load()
    series = [s for n in range(6) for s in make_patient(UNSEEN + n, "brain", list(PROMPTS), max_voxels=64)]
    volumes = model.encode_volumes([s.volume for s in series]).numpy()
    texts = model.encode_texts(list(PROMPTS.values())).numpy()
    said = [list(PROMPTS)[i] for i in (volumes @ texts.T).argmax(axis=1)]
    right = Counter(s.labels["sequence"] for s, name in zip(series, said, strict=True) if s.labels["sequence"] == name)
    assert np.mean([right[name] / 6 for name in PROMPTS]) > 0.5
