"""What classes are called and how they are worded, and what their wordings say of a series' vector.

    sequence.yaml   {T1: [T1-weighted MRI, T1w], T2: [T2-weighted MRI, T2w]}                     classes, one of which holds
    findings.yaml   {lesion: {positive: [a hyperintense lesion], negative: [no lesion]}, ...}    findings, each by itself

Decisions
- The vectors of a class's wordings are averaged and brought to length 1.
- Classes compete: softmax of scale times cosine (CLIP). A finding stands by itself, its positive wordings against its
  negative ones: sigmoid of scale times the difference of their cosines (COLIPRI).
- A wording speaks for one class. Two classes that say the same, to a reader or to the encoder, are an error: their
  probabilities would be chance.
- YAML is read as text, so that a class called `no` or `1` keeps its name, and one that stands twice is seen.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import DecipherError

SAME = 1e-6
"""two unit vectors whose cosine is nearer to 1 are one"""
EXAMPLE = 'decipher classify "T1-weighted MRI" "T2-weighted MRI"'
YAML_EXAMPLE = "A line is a class: T1: [T1-weighted MRI, T1w]; or lesion: {positive: [a lesion], negative: [no lesion]}"
YES = frozenset({"yes", "y", "true", "1", "1.0", "present", "positive"})
MISSING = frozenset({"", "unknown", "n/a", "na", "nan", "null"})
NO = frozenset({"no", "n", "false", "0", "0.0", "absent", "negative"})


@dataclass(frozen=True)
class PromptClass:
    """name: what the answer calls it; wordings that say it, and `against`: that deny it, none where classes compete."""

    name: str
    wordings: tuple[str, ...]
    against: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The name, but of several wordings typed as one prompt the first."""
        return self.wordings[0] if "|" in self.name else self.name.strip()


@dataclass(frozen=True)
class PromptSet:
    """Classes of which one holds, or findings, each of which holds or does not."""

    classes: tuple[PromptClass, ...]

    @property
    def findings(self) -> bool:
        return bool(self.classes[0].against)

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.classes]

    def to_json(self) -> dict[str, Any]:
        """As in the YAML file."""
        if self.findings:
            return {c.name: {"positive": [*c.wordings], "negative": [*c.against]} for c in self.classes}
        return {c.name: [*c.wordings] for c in self.classes}


def typed(prompts: Sequence[str], against: Sequence[str] = ()) -> PromptSet:
    """The classes of prompts as typed, wordings parted by |; with `against`, one for each prompt, they are findings."""
    if against and len(against) != len(prompts):
        raise DecipherError(
            f"There are {len(prompts)} prompts and {len(against)} --against.",
            'Each finding has its own: decipher classify "a lesion" --against "no lesion"',
        )
    others = against or [""] * len(prompts)
    pairs = zip(prompts, others, strict=True)
    made = PromptSet(tuple(PromptClass(one, _wordings([one]), _wordings([other])) for one, other in pairs))
    return _checked(made, EXAMPLE, bool(against))


def read_prompts(path: Path) -> PromptSet:
    """The classes or findings of a YAML file. DecipherError for a file that is none, and for what no series could fit."""
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no YAML"
        raise DecipherError(f"{path} cannot be read: {reason}.", YAML_EXAMPLE) from error
    if not isinstance(root, yaml.MappingNode):
        raise DecipherError(f"{path} is no list of classes by name.", YAML_EXAMPLE)
    classes = tuple(_class_of(key, value, path) for key, value in root.value)
    if len({bool(one.against) for one in classes}) > 1:
        raise DecipherError(f"{path} mixes classes with findings.", "Keep them in two files.")
    return _checked(PromptSet(classes), YAML_EXAMPLE, bool(classes and classes[0].against))


def _class_of(key: Any, value: Any, path: Path) -> PromptClass:
    """One line of the file: a wording, a list of them, or positive and negative ones."""
    import yaml

    name = str(key.value).strip() if isinstance(key, yaml.ScalarNode) else ""
    if not isinstance(value, yaml.MappingNode):
        return PromptClass(name, _listed(value, name, path))
    sides = {str(side.value): _listed(words, name, path) for side, words in value.value}
    if set(sides) != {"positive", "negative"} or not all(sides.values()):
        raise DecipherError(f"{path}: {name!r} does not have positive and negative wordings.", YAML_EXAMPLE)
    return PromptClass(name, sides["positive"], sides["negative"])


def _listed(node: Any, name: str, path: Path) -> tuple[str, ...]:
    import yaml

    words = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(one, yaml.ScalarNode) for one in words):
        raise DecipherError(f"{path}: the wordings of {name!r} are not all text.", YAML_EXAMPLE)
    return _wordings([one.value for one in words])


def _wordings(texts: Sequence[str]) -> tuple[str, ...]:
    """The wordings, each once, without what is empty."""
    found: dict[str, str] = {}
    for one in (" ".join(part.split()) for text in texts for part in text.split("|")):
        if one:
            found.setdefault(plain(one), one)
    return tuple(found.values())


def plain(text: str) -> str:
    """A text as it is compared: without case and with single blanks."""
    return " ".join(text.split()).casefold()


def _checked(made: PromptSet, hint: str, findings: bool) -> PromptSet:
    if len(made.classes) < (1 if findings else 2):
        raise DecipherError("There are no two classes to choose between.", hint)
    for one in made.classes:
        if not one.name.strip() or not one.wordings or bool(one.against) != findings:
            raise DecipherError(f"The class {one.name.strip()!r} has no wording.", hint)
        if both := {plain(w) for w in one.wordings} & {plain(w) for w in one.against}:
            raise DecipherError(f"{min(both)!r} stands for {one.name!r} and against it.", "Keep one of them.")
    for one, other in combinations(made.classes, 2):
        shared = {plain(w) for w in one.wordings} & {plain(w) for w in other.wordings}
        if plain(one.name) == plain(other.name) or shared:
            raise DecipherError(
                f"Two classes are the same: {min(shared, default=plain(one.name))!r} stands in both.",
                "Word them differently, or leave one of them out.",
            )
    return made


def encoded(prompts: PromptSet, encode: Callable[[list[str]], np.ndarray]) -> np.ndarray:
    """The class vectors (C, E) of a prompt set; encode: texts to unit vectors (B, E).

    DecipherError where two classes, or a finding's two sides, are one to the encoder.
    """
    sides = [one.wordings for one in prompts.classes] + [one.against for one in prompts.classes if one.against]
    vectors = encode([text for side in sides for text in side])
    parts = np.split(vectors, np.cumsum([len(side) for side in sides])[:-1])
    count = len(prompts.classes)
    means = np.stack([mean_direction(part) for part in parts])
    pairs = [*combinations(range(count), 2), *((row, row + count) for row in range(len(parts) - count))]
    for one, other in pairs:
        if float(means[one] @ means[other]) > 1 - SAME:
            raise DecipherError(
                f"{sides[one][0]!r} and {sides[other][0]!r} are one and the same to the encoder.",
                "Word them differently, or leave one of them out.",
            )
    return class_vectors(parts[:count], parts[count:])


def mean_direction(wordings: np.ndarray) -> np.ndarray:
    """The mean of text vectors (W, E), brought to length 1. DecipherError where they cancel out."""
    mean = wordings.mean(axis=0)
    length = float(np.linalg.norm(mean))
    if not length > SAME:
        raise DecipherError("The wordings of a class cancel out.", "Leave out one of them.")
    return mean / length


def class_vectors(prompts: Sequence[np.ndarray], against: Sequence[np.ndarray] = ()) -> np.ndarray:
    """float32 (C, E): a vector's product with row c is its cosine with class c, less that with what denies it.

    prompts, against: for each class the unit vectors (W, E) of its wordings.
    """
    found = np.stack([mean_direction(one) for one in prompts])
    return found - np.stack([mean_direction(one) for one in against]) if len(against) else found


def probabilities(logits: np.ndarray, findings: bool) -> np.ndarray:
    """(n, C) of logits (n, C), same type: each finding by itself (sigmoid), or classes that compete (softmax)."""
    if findings:
        falling = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1, falling) / (1 + falling)
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    return share / share.sum(axis=1, keepdims=True)


def codes_of(prompts: PromptSet, values: Sequence[object]) -> tuple[np.ndarray, Counter[str]]:
    """Each label's class, -1 where there is none, int (n,); and how often each label stands there that is no class.

    A label means the class of that name, or with that wording; the label of a single finding is 1 or 0: yes or no, its
    name, or a wording of either side. Case and blanks do not matter.
    """
    known = {plain(word): code for code, one in enumerate(prompts.classes) for word in (one.name, *one.wordings)}
    if prompts.findings:
        (only,) = prompts.classes
        known = dict.fromkeys(YES | known.keys(), 1) | {plain(word): 0 for word in (*NO, *only.against)}
    texts = [None if value is None else plain(str(value)) for value in values]
    codes = np.array([-1 if text is None else known.get(text, -1) for text in texts], dtype=np.int64)
    unknown = Counter(str(v) for v, text in zip(values, texts, strict=True) if text not in (None, *MISSING, *known))
    return codes, unknown
