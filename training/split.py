"""A cohort in parts for learning and testing that share no patient.

Decisions
- Patients are dealt, not series. A series of no known patient goes with the only patient of its study, else with its
  study. Every part gets its share of patients, within one where there are enough. Sequences, sexes, ages (quartiles) and
  numbers of series are balanced: patients come one by one, those with the rarest sequence or sex first, of these the ones
  with most series, and each goes where the chi-square distance to the wanted shares then is least (minimisation: Pocock
  and Simon, Biometrics 1975; rarest first: Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011).
- The split follows from series and seed alone: the order of rows changes nothing.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import polars as pl

from index.record import subjects
from models.errors import DecipherError

NAMES = {2: ("train", "test"), 3: ("train", "validation", "test")}
EXPECTED = "Shares of the patients, each above 0 and together 1: --split 0.7/0.15/0.15"


def shares(text: str) -> tuple[float, ...]:
    """The numbers of "0.7/0.15/0.15". DecipherError unless they are two or more, above 0, and 1 together."""
    try:
        parts = tuple(float(word) for word in text.split("/"))
    except ValueError:
        raise DecipherError(f"--split cannot be read: {text}", EXPECTED) from None
    if len(parts) < 2 or not all(part > 0 for part in parts):
        raise DecipherError(f"--split takes two shares or more, each above 0: {text}", EXPECTED)
    if not math.isclose(sum(parts), 1, abs_tol=1e-6):
        raise DecipherError(f"The shares of --split add up to {sum(parts):.6g}, not to 1: {text}", EXPECTED)
    return parts


def split(records: pl.DataFrame, parts: Sequence[float], seed: int = 0) -> pl.Series:
    """The part of every row, named "split": train, validation, test of three; train, test of two; else part1, part2, ...

    records: with series_id, study_id, patient_id, sequence, sex, age_years. parts: see `shares`. DecipherError with
    fewer patients than parts.
    """
    names, member = np.unique(people(records), return_inverse=True)
    if len(names) < len(parts):
        raise DecipherError(
            f"{len(parts)} parts need as many patients, and the cohort has {len(names)}.",
            "Ask for fewer parts or more hits (-k); where patients are unknown, encode again with --labels.",
        )
    counts, rarest = _profiles(records, member)
    drawn = np.array([hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).hexdigest() for name in names])
    part = _dealt(counts, np.lexsort((drawn, -np.bincount(member), rarest)), np.array(parts))
    titles = NAMES.get(len(parts)) or [f"part{number}" for number in range(1, len(parts) + 1)]
    return pl.Series("split", [titles[one] for one in part[member]], dtype=pl.String)


def people(records: pl.DataFrame) -> np.ndarray:
    """Whom each row goes with (n,): who it is about, and with no known patient, the only one of its study."""
    known = pl.col("patient_id").drop_nulls()
    alone = pl.col("study_id").is_not_null() & (known.n_unique().over("study_id") == 1)
    patient = pl.coalesce("patient_id", pl.when(alone).then(known.first().over("study_id")))
    return np.array(subjects(records.with_columns(patient)), dtype=str)


def _profiles(records: pl.DataFrame, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each person, counts (people, classes): series by sequence, sex, quartile of age, series; and the total of the
    rarest sequence or sex it has (people,). member (n,): the person of each row."""
    rows = records.select("sex", "age_years", person=pl.Series(member))
    person = rows.group_by("person").agg(pl.col("sex").min(), pl.col("age_years").median()).sort("person")
    ages = person["age_years"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    quartiles = np.nanquantile(ages, (0.25, 0.5, 0.75)) if np.isfinite(ages).any() else np.zeros(0)
    sequences = np.zeros((person.height, records["sequence"].n_unique()))
    np.add.at(sequences, member, _one_hot(records["sequence"].fill_null("").to_numpy()))
    told = np.concatenate([sequences, _one_hot(person["sex"].fill_null("").to_numpy())], axis=1)
    rarest = np.where(told > 0, told.sum(0), np.inf).min(1)
    age = _one_hot(np.where(np.isnan(ages), -1, np.searchsorted(quartiles, ages)))
    return np.concatenate([told, age, sequences.sum(1, keepdims=True)], axis=1), rarest


def _one_hot(values: np.ndarray) -> np.ndarray:
    classes, codes = np.unique(values.astype(str), return_inverse=True)
    return np.eye(len(classes))[codes]


def _dealt(counts: np.ndarray, order: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The part of each person (people,), dealt in this order by the module's rule; counts (people, classes)."""
    room = _places(len(counts), parts)
    weight = 1 / (parts[:, None] * counts.sum(0))
    held = np.zeros_like(weight)
    part = np.zeros(len(counts), dtype=int)
    for person in order:
        own = counts[person]
        rise = ((2 * held * weight - 2 + own * weight) * own).sum(1)
        chosen = int(np.where(room > 0, rise, np.inf).argmin())
        part[person] = chosen
        held[chosen] += own
        room[chosen] -= 1
    return part


def _places(count: int, parts: np.ndarray) -> np.ndarray:
    """How many people each part gets: its share by largest remainder, and one at least."""
    wanted = np.round(parts * count, 9)
    places = np.floor(wanted).astype(int)
    places[np.argsort(places - wanted, kind="stable")[: count - places.sum()]] += 1
    while places.min() < 1:
        places[places.argmin()] += 1
        places[places.argmax()] -= 1
    return places
