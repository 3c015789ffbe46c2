"""Whom the phantom is: age, sex, build. Everything that makes one digital patient's anatomy unlike another's begins here."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Person:
    """age_years; sex "F" or "M"; scale: body size against the average adult; fat: 0 lean to 1 obese; decline: 0 to 1.2,
    how far the tissue has aged (atrophy of the brain, loss of water in discs)."""

    age_years: float
    sex: str
    scale: float
    fat: float
    decline: float


def draw_person(rng: np.random.Generator, young: float = 18.0, old: float = 90.0, female_share: float = 0.5) -> Person:
    """A person with age uniform between `young` and `old` years and a build that depends on sex and age."""
    age_years = float(np.round(rng.uniform(young, old), 0))
    sex = "F" if rng.random() < female_share else "M"
    scale = float(np.clip(rng.normal(0.955 if sex == "F" else 1.01, 0.03), 0.87, 1.1))
    fat = float(np.clip(rng.beta(2.2, 3.5) + (0.06 if sex == "F" else 0.0), 0.03, 1.0))
    decline = float(np.clip((age_years - 25) / 60 + rng.normal(0, 0.09), 0.0, 1.2))
    return Person(age_years, sex, scale, fat, decline)
