"""What models are worth on the labelled series of an archive that they did not see.

    python tests/benchmarks/left_out.py ARCHIVE --cache FOLDER --models MODEL=WORD,WORD [MODEL=WORD ...] [--json]
    python tests/benchmarks/left_out.py ARCHIVE --cache FOLDER --models MODEL --all

ARCHIVE holds labels.csv (path, subject_id, body_region, sequence, plane, age_years, sex, lesion, mask, mask_content,
skull_stripped, source) and the volumes. Each MODEL, a folder or a shipped name, is judged on the series whose source or path
holds one of its words: those it was not trained on. Answers of several models are pooled. With --all one model is judged on
every series, seen or not. Names are opaque and text is matched with pixels alone. Prints Markdown, or JSON.
FOLDER keeps the prepared volumes and what encoders made of them: another model takes seconds.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from boxes import Boxes, boxes_of
from encoded import RANDOM, Encoding, trained, untrained, without_encoder
from figures import figures
from measured import Arm, Fold, Measured, average, judged_rows
from questions import CHOICES
from spoken import answers, listed
from told import markdown

from models.config import ModelConfig
from models.errors import DecipherError
from models.folder import model_folder, passport
from training.judge import with_interval
from training.metrics import mean

Found = dict[str, Any]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["mini"], metavar="MODEL=WORDS")
    parser.add_argument("--all", action="store_true", help="judge one model on every series, seen or not")
    parser.add_argument("--seeds", type=int, default=3, help="networks with random weights; 0 leaves all baselines out")
    parser.add_argument("--json", action="store_true")
    return parser


def main(given: Sequence[str] | None = None) -> None:
    asked = arguments().parse_args(given)
    models = [_named(one) for one in asked.models]
    if asked.all and len(models) > 1:
        raise DecipherError("All series are judged by one model.", "Name one, or say which series each did not see.")
    if not asked.all and not all(words for _, words in models):
        raise DecipherError("It is not said what the model did not see.", "Say --models MODEL=WORD,WORD, or --all.")
    found = measured(asked.archive, asked.cache, models, asked.all, asked.seeds)
    print(json.dumps(found, indent=1) if asked.json else markdown(found))


def _named(model: str) -> tuple[str, list[str]]:
    """A model and the words of what it did not see."""
    name, _, words = model.partition("=")
    return name, [word.strip() for word in words.split(",") if word.strip()]


def measured(archive: Path, cache: Path, models: list[tuple[str, list[str]]], everything: bool, seeds: int) -> Found:
    """All figures of the models on what each did not see, or of the first on everything, as JSON keeps them."""
    config = _common_config([name for name, _ in models])
    boxes = boxes_of(archive, config.prepare, cache)
    masks = [np.ones(len(boxes.labels), bool)] if everything else _left_out(boxes, models)
    arm = [Fold(trained(name, boxes, cache), mask) for (name, _), mask in zip(models, masks, strict=True)]
    rivals: dict[str, list[Arm]] = {}
    if seeds:
        randoms = [untrained(config, seed, boxes, cache) for seed in range(seeds)]
        rivals[RANDOM] = [_instead(one, arm) for one in randoms]
        rivals |= {name: [_instead(one, arm)] for name, one in without_encoder(boxes, config).items()}
    told = [
        {"name": name, "hash": passport(name)["hash"], "words": [] if everything else words, "series": int(mask.sum())}
        for (name, words), mask in zip(models, masks, strict=True)
    ]
    return {
        "models": told,
        "all": everything,
        "series": len(boxes.labels),
        "judged": int(judged_rows(arm).sum()),
        "subjects": len(np.unique(boxes.people[judged_rows(arm)])),
        "unread": boxes.lost,
        "figures": _figures(boxes, arm, rivals),
        "queries": {
            query: {"precision": float(one.precision(None)[0]), "of": one.counted, "chance": one.chance}
            for query, one in listed(boxes, arm).items()
        },
        "parts": _parts(boxes, arm),
        "answers": _answers(boxes, arm),
    }


def _common_config(names: list[str]) -> ModelConfig:
    """The config of the first model. Errors: DecipherError where another takes volumes prepared in another way."""
    configs = [ModelConfig.from_json(json.loads((model_folder(name) / "config.json").read_text())) for name in names]
    if any(one.prepare != configs[0].prepare for one in configs):
        raise DecipherError("The models do not take the same prepared volumes.", "Judge them one by one.")
    return configs[0]


def _left_out(boxes: Boxes, models: list[tuple[str, list[str]]]) -> list[np.ndarray]:
    """bool (n,) for each model: the rows that it did not see. Errors: DecipherError for none, and for a row of two models."""
    places = [f"{row.get('source') or ''} {row['path']}" for row in boxes.labels]
    masks = [np.array([any(word in place for word in words) for place in places]) for _, words in models]
    for (name, words), mask in zip(models, masks, strict=True):
        if not mask.any():
            raise DecipherError(f"No series has {' or '.join(words)} in its source or path.", f"Check {name}=WORDS.")
    if (np.sum(masks, axis=0) > 1).any():
        raise DecipherError("A series is left out by two models.", "Let the words of each name series of its own.")
    return masks


def _instead(encoding: Encoding, arm: Arm) -> Arm:
    """Another encoding, judged on the same rows."""
    return [Fold(encoding, fold.judged) for fold in arm]


def _figures(boxes: Boxes, arm: Arm, rivals: dict[str, list[Arm]]) -> Found:
    """Each figure of the models with its baselines."""
    beside = {name: [figures(boxes, one) for one in arms] for name, arms in rivals.items()}
    found = {}
    for name, one in figures(boxes, arm).items():
        known = {rival: [each[name] for each in many] for rival, many in beside.items() if name in many[0]}
        baselines = {rival: _interval(draws) for rival, draws in known.items()}
        counts = {
            "n": len(one.groups),
            "subjects": len(np.unique(one.groups)),
            "chance": float(one.chance),
            "best": float(one.best),
        }
        found[name] = {**counts, "model": _interval([one]), "baselines": baselines}
    return found


def _interval(draws: list[Measured]) -> Found:
    """The mean over draws with its 95 % interval over subjects."""
    return with_interval(average([one.score for one in draws]), draws[0].groups)


def _parts(boxes: Boxes, arm: Arm) -> Found:
    """For each value of what series differ by: how many of each choice are right, and the share with its interval."""
    labels = {name: boxes.column(name).astype(str) for name in ("sequence", "body_region", "plane", "skull_stripped")}
    found: Found = {}
    for part, values in {"source": boxes.sources.astype(str), **labels}.items():
        for value in np.unique(values[judged_rows(arm)]):
            told = {name: _right(boxes, arm, name, values == value) for name in CHOICES}
            found.setdefault(part, {})[value or "unknown"] = {name: one for name, one in told.items() if one["n"]}
    return found


def _right(boxes: Boxes, arm: Arm, name: str, among: np.ndarray) -> Found:
    choice = CHOICES[name]
    truth, said = boxes.column(choice.column).astype(str), answers(arm, choice)
    rows = np.flatnonzero(judged_rows(arm) & among & np.isin(truth, [*choice.prompts]))
    right = (truth[rows] == said[rows]).astype(float)
    told: Found = {"n": len(rows), "right": int(right.sum())}
    if len(np.unique(boxes.people[rows])) > 1:
        told |= with_interval(partial(mean, right), boxes.people[rows])
    return told


def _answers(boxes: Boxes, arm: Arm) -> list[Found]:
    """What was said of each judged series."""
    said = {name: answers(arm, choice) for name, choice in CHOICES.items()}
    return [
        {"path": label["path"]}
        | {name: {"truth": label[choice.column], "said": str(said[name][row])} for name, choice in CHOICES.items()}
        for row, label in enumerate(boxes.labels)
        if judged_rows(arm)[row]
    ]


if __name__ == "__main__":
    main()
