"""Captions written from what they mention: keywords, sentences and queries as people type them, in any order.

Decisions:
- Half of the mentions are true of some series that is trained on, where those are given; the others are drawn value by
  value, all of an attribute equally often, and only attributes of which something is known.
- A word of part or sex says the region too, and takes its place; bright or dark lesions are lesions.
- T1C is written as one word, or as T1 here and contrast there.
- What is denied is denied in many grammars, by the words that affirm it.
"""

import numpy as np

from index.caption import TERMS
from training.captions import ATTRIBUTES, DENIAL, SAID, VALUES, Captions
from training.wordings import AFFIRMED, DENIED, GROUPS, WORDS

LIKELY = {
    "sequence": 0.65, "body_region": 0.5, "plane": 0.25, "contrast": 0.18, "lesion": 0.12, "finding": 0.18, "age": 0.1,
    "part": 0.04, "sex": 0.04, "fat_suppressed": 0.08, "skull_stripped": 0.06, "fluid": 0.05, "signal": 0.07,
}  # fmt: skip
"""how often an attribute is mentioned"""
IMPLIED = {"part": ("body_region", "spine"), "sex": ("body_region", "pelvis"), "signal": ("lesion", "yes")}
IMAGES = (
    "MRI",
    "MR image",
    "scan",
    "MRI series",
    "image",
    "MR",
    "MRI scan",
    "images",
    "study",
    "picture",
    "MR sequence",
)
ASKED = (
    "find {}",
    "show me {}",
    "{} please",
    "looking for {}",
    "any {}",
    "all {}",
    "{} wanted",
    "search {}",
    "i need {}",
)
JOINTS = (" ", " ", ", ", " - ", "; ", " / ")


def make_captions(count: int, seed: int = 0, known: np.ndarray | None = None) -> Captions:
    """`count` different captions, each about one to four attributes.

    known (n, A): attributes of the series that they are for; without them all that can be said is said.
    """
    rng = np.random.default_rng([seed, 11])
    kinds = np.zeros((0, len(ATTRIBUTES)), np.int16) if known is None else np.unique(known, axis=0)
    there = np.ones(len(ATTRIBUTES), dtype=bool) if known is None else np.asarray((kinds >= 0).any(axis=0))
    found: dict[str, np.ndarray] = {}
    while len(found) < count:
        true = len(kinds) > 0 and rng.random() < 0.5
        mention = draw_mention(rng, there, kinds[rng.integers(len(kinds))] if true else None)
        if (mention >= 0).any():
            found.setdefault(write_caption(mention, rng), mention)
    return Captions(list(found), np.stack(list(found.values())))


def make_wordings(count: int, ways: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """`count` mentions, each in so many different `ways`: texts (count * ways), and what each mentions, (count * ways, A)."""
    rng = np.random.default_rng([seed, 13])
    texts: list[str] = []
    mentions: list[np.ndarray] = []
    there = np.ones(len(ATTRIBUTES), dtype=bool)
    while len(mentions) < count * ways:
        mention = draw_mention(rng, there)
        said = dict.fromkeys(write_caption(mention, rng) for _ in range(3 * ways))
        if len(said) >= ways and not any(np.array_equal(mention, one) for one in mentions):
            texts += list(said)[:ways]
            mentions += [mention] * ways
    return texts, np.stack(mentions)


def draw_mention(rng: np.random.Generator, there: np.ndarray, kind: np.ndarray | None = None) -> np.ndarray:
    """(A,) int16 of SAID: attributes of those that are `there` (A,), as `kind` (A,) has them or drawn."""
    mention = np.full(len(ATTRIBUTES), -1, dtype=np.int16)
    chosen = there & (rng.random(len(ATTRIBUTES)) < np.array([LIKELY[name] for name in ATTRIBUTES]))
    if not chosen.any():
        chosen[rng.integers(0, 2)] = True
    for a in np.flatnonzero(chosen):
        name = ATTRIBUTES[a]
        mention[a] = rng.integers(len(SAID[name])) if kind is None else _wider(name, int(kind[a]), rng)
    return _agreeing(mention)


def _wider(name: str, value: int, rng: np.random.Generator) -> int:
    """The value (of VALUES), now and then a group that holds it, and of nothing found, a denial."""
    if value < 0 or rng.random() < 0.5:
        return value
    groups = GROUPS.get(name, {})
    options = [SAID[name].index(group) for group, (_, true, _) in groups.items() if VALUES[name][value] in true]
    if name == "finding" and VALUES[name][value] == "none":
        options = [i for i, said in enumerate(SAID[name]) if said.startswith(DENIAL)]
    return int(rng.choice(options)) if options else value


def _agreeing(mention: np.ndarray) -> np.ndarray:
    """The same, where what is said twice is said once, and a contradiction of two attributes is none."""

    def get(name: str) -> str | None:
        place = mention[ATTRIBUTES.index(name)]
        return SAID[name][place] if place >= 0 else None

    def put(name: str, value: str | None) -> None:
        mention[ATTRIBUTES.index(name)] = -1 if value is None else SAID[name].index(value)

    if get("part"):
        put("sex", None)
    if get("finding"):
        put("lesion", None)
        put("signal", None)
    for name, (other, value) in IMPLIED.items():
        if get(name):
            put(other, value)
    if get("sequence") == "T1" and get("contrast") == "yes":
        put("sequence", "T1C")
    if get("sequence") in ("T1C", "DCE"):
        put("contrast", "yes")
    if get("sequence"):
        put("fluid", None)
    return mention


def write_caption(mention: np.ndarray, rng: np.random.Generator) -> str:
    """A sentence, a query or a heap of keywords that says just what `mention` (A,) holds."""
    said = {name: SAID[name][value] for name, value in zip(ATTRIBUTES, mention, strict=True) if value >= 0}
    words = {name: _words(name, value, rng) for name, value in said.items()}
    if said.get("sequence") == "T1C":
        apart = rng.random() < 0.5
        words["sequence"] = _words("sequence", "T1", rng) if apart else words["sequence"]
        if not apart and rng.random() < 0.8:
            words.pop("contrast", None)
    for name, (other, _) in IMPLIED.items():
        if name in words:
            words[other] = words.pop(name)
    text = _keywords(list(words.values()), rng) if rng.random() < 0.35 else _sentence(words, rng)
    text = " ".join(text.split()).replace(" ,", ",").strip(" ,")
    style = rng.random()
    return text[0].upper() + text[1:] if style < 0.35 else text.lower() if style < 0.7 else text


def _words(name: str, said: str, rng: np.random.Generator) -> str:
    """One way to say a value, a group or a denial."""
    if said.startswith(DENIAL) and said not in VALUES[name]:
        return _pick(DENIED, rng).format(_noun(name, said.removeprefix(DENIAL), rng))
    noun = _noun(name, said, rng)
    affirmed = name == "signal" or (name, said) == ("lesion", "yes") or (name == "finding" and said != "none")
    return _pick(AFFIRMED, rng).format(noun) if affirmed and noun != "abnormal" else noun


def _noun(name: str, said: str, rng: np.random.Generator) -> str:
    canonical = TERMS.get(name, {}).get(said)
    options = GROUPS[name][said][0] if said in GROUPS.get(name, {}) else WORDS[name][said]
    return _pick([*options, canonical] if canonical else options, rng)


def _pick(options: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _keywords(words: list[str], rng: np.random.Generator) -> str:
    mixed = [*words, *[["MRI"], ["MR"], []][rng.integers(3)]]
    return _pick(JOINTS, rng).join(mixed[i] for i in rng.permutation(len(mixed)))


def _sentence(words: dict[str, str], rng: np.random.Generator) -> str:
    """One of several grammars; what is neither plane, sequence nor region comes before or after in any order."""
    image, region = _pick(IMAGES, rng), words.get("body_region", "")
    what = [words[name] for name in ("plane", "sequence") if name in words]
    what = what[::-1] if rng.random() < 0.3 else what
    tail = [f"of {words[n]}" if n == "age" and words[n][:2] in ("a ", "an") else words[n] for n in _tails(words)]
    tail = [tail[i] for i in rng.permutation(len(tail))]
    head, of = " ".join(what), f"of the {region}" if region else ""
    cores = (
        f"{head} {image} {of}", f"{region} {image} {head}", f"{head} {region} {image}", f"{image} {of} {head}",
        f"{head or image} {of}", f"{region} {head} {image}", f"{image} {region}, {head}",
    )  # fmt: skip
    core = _pick(cores, rng).strip(" ,")
    form = rng.random()
    if form < 0.15 and tail:
        return ". ".join([core, *tail]) + "."
    if form < 0.3 and tail:
        return " ".join([*tail, core])
    text = _pick((" ", ", "), rng).join([core, *tail])
    return _pick(ASKED, rng).format(text) if form > 0.88 else text


def _tails(words: dict[str, str]) -> list[str]:
    return [name for name in words if name not in ("plane", "sequence", "body_region")]
