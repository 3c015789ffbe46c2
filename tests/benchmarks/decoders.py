"""Decoders on a frozen encoder against a small U-Net from scratch, one threshold of intensity, and the mean mask.

    python tests/benchmarks/decoders.py OUT --masks MASKS.csv [--data ARCHIVE|INDEX] [--arms resnet unet] [--seeds 3]

Prints Markdown. All arms have the same cases, folds of patients, windows and sampling. `unet` (monai's BasicUNet) and `unetr`
have as many epochs as fit in the processor time that `resnet` took to learn, of the same fold and seed; the others as many
as it. `resnet-blind` has its patches set to zero: what it falls short by is what the encoder knows. `resnet-box` has no
windows. A column `source` of the masks' table gives a table by source. What is done lies in OUT, an arm, seed and fold each:
the same command goes on.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from index.contents import contents_of
from models.decipher import load
from models.decoder import decoder_config
from models.folder import passport
from models.view import View, standardised, standardised_around
from training.decode import FINEST_MM, lesson_of, summary
from training.decoding import (
    Epoch,
    Learning,
    Lesson,
    Maps,
    best_threshold,
    canvas_map,
    fit_windows,
    intensity,
    mean_shape,
    train_decoder,
)
from training.folds import grouped_folds
from training.masks import Cases, read_cases
from training.overlap import case_figures, dice
from training.regrid import to_volume

CPU = torch.device("cpu")
COLUMNS = {"Dice": "dice", "lesion F1": "lesion_f1", "surface, mm": "surface_mm", "found": "found"}
Rows = list[dict[str, Any]]
Told = Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]


@dataclass(frozen=True)
class Arm:
    """kind: of a decoder, or "unet", "intensity", "mean_shape"; blind: without the encoder's patches; windows: or the box;
    timed: as many epochs as fit in the time of `resnet`."""

    kind: str
    blind: bool = False
    windows: bool = True
    timed: bool = False


ARMS = {
    "resnet": Arm("resnet"), "unet": Arm("unet", timed=True), "intensity": Arm("intensity"),
    "mean_shape": Arm("mean_shape"), "linear": Arm("linear"), "resnet-blind": Arm("resnet", blind=True),
    "resnet-box": Arm("resnet", windows=False), "unetr": Arm("unetr", timed=True),
}  # fmt: skip
BASELINES = {"intensity": intensity, "mean_shape": mean_shape}


class SmallUnet(nn.Module):
    """monai's BasicUNet on the picture alone, standardised as decoders are shown it."""

    def __init__(self) -> None:
        super().__init__()
        from monai.networks.nets import BasicUNet

        self.body = BasicUNet(in_channels=2, out_channels=1, features=(16, 16, 32, 64, 128, 16))

    def forward(self, view: View, query: torch.Tensor | None = None) -> torch.Tensor:
        return self.body(torch.cat([standardised(view), standardised_around(view)], dim=1))


@dataclass(frozen=True)
class Bench:
    """What every arm has: lessons by whether there are windows, cases, folds, how long it learns."""

    out: Path
    lessons: dict[bool, Lesson]
    cases: Cases
    folds: list[tuple[np.ndarray, np.ndarray]]
    epochs: int
    model: Any

    def rows(self, name: str, seed: int, fold: int) -> dict[str, Any]:
        """one_epoch and end, a row a test case, and seconds of learning; from OUT where they are there."""
        path = self.out / f"{name}-{seed}-{fold}.json"
        if not path.is_file():
            path.write_text(json.dumps(self.measured(name, seed, fold)))
        return json.loads(path.read_text())

    def measured(self, name: str, seed: int, fold: int) -> dict[str, Any]:
        arm, (train, _) = ARMS[name], self.folds[fold]
        lesson = blinded(self.lessons[arm.windows]) if arm.blind else self.lessons[arm.windows]
        if arm.kind in BASELINES:
            return {"end": self.scored(lesson, BASELINES[arm.kind](lesson, train), fold), "seconds": 0.0, "epochs": 0}
        epochs = self.affordable(arm, lesson, seed, fold) if arm.timed else self.epochs
        found: dict[str, Any] = {"epochs": epochs}
        between, began = 0.0, process_time()

        def after(epoch: int, decoder: nn.Module) -> None:
            nonlocal between
            if epoch == 1:
                stopped = process_time()
                found["one_epoch"] = self.scored(lesson, maps_of(decoder, lesson), fold, only_dice)
                between = process_time() - stopped

        decoder = self.fitted(arm, lesson, fold, Learning(epochs=epochs, seed=seed), after)
        found["seconds"] = process_time() - began - between
        return {**found, "end": self.scored(lesson, maps_of(decoder, lesson), fold)}

    def affordable(self, arm: Arm, lesson: Lesson, seed: int, fold: int) -> int:
        """Epochs that take as long as `resnet` took, by the time of one."""
        began = process_time()
        self.fitted(arm, lesson, fold, Learning(epochs=1, seed=seed), lambda *_: None)
        return max(1, round(self.rows("resnet", seed, fold)["seconds"] / (process_time() - began)))

    def fitted(self, arm: Arm, lesson: Lesson, fold: int, learning: Learning, after: Epoch) -> nn.Module:
        train, _ = self.folds[fold]
        if arm.kind != "unet":
            config = decoder_config(self.model.config, arm.kind, finest_mm=FINEST_MM * arm.windows)
            return train_decoder(config, lesson, train, learning, CPU, after)
        torch.manual_seed(learning.seed)
        decoder = SmallUnet()
        marked = np.array([target.any() for target in lesson.targets])
        fit_windows(decoder, lesson, train, learning, CPU, marked, after)
        return decoder

    def scored(self, lesson: Lesson, maps: Maps, fold: int, told: Told = case_figures) -> Rows:
        """Of each test case, what is `told` of its mask as drawn and what was found on its own grid."""
        train, test = self.folds[fold]
        threshold = best_threshold(maps, lesson, train)
        found = []
        for number in map(int, test):
            case, layout = self.cases.cases[number], lesson.layouts[number]
            affine, truth = np.array(case.record["affine_mm"]).reshape(4, 4), case.read_mask()
            there = to_volume(maps(number), layout.content, affine, layout.affine_mm, truth.shape) > threshold
            found.append({"case": number, **told(truth, there, affine)})
        return found


def maps_of(decoder: nn.Module, lesson: Lesson) -> Maps:
    return lambda case: canvas_map(decoder, lesson, case, CPU)


def blinded(lesson: Lesson) -> Lesson:
    features = lesson.features
    return lesson._replace(features=replace(features, patches=np.zeros_like(features.patches)))


def only_dice(truth: np.ndarray, found: np.ndarray, affine_mm: np.ndarray) -> dict[str, float]:
    return {"dice": dice(truth, found)}


def table(bench: Bench, arms: Sequence[str], seeds: int, of: np.ndarray) -> list[str]:
    """A line an arm: figures of the cases `of` (bool), all seeds together, intervals over patients."""
    who = np.array(bench.cases.patients)
    lines = [f"| | Dice, one epoch | {' | '.join(COLUMNS)} | epochs | s a fold |", "|" + "---|" * (4 + len(COLUMNS))]
    for arm in arms:
        tried = range(1 if arm in BASELINES else seeds)
        done = [bench.rows(arm, seed, fold) for seed in tried for fold in range(len(bench.folds))]
        cells = []
        for part, name in (("one_epoch", "dice"), *(("end", name) for name in COLUMNS.values())):
            rows = [row for one in done for row in one.get(part, []) if of[row["case"]]]
            cells.append(said(summary(name, rows, who[[row["case"] for row in rows]])) if rows else "-")
        epochs, seconds = (np.mean([one[name] for one in done]) for name in ("epochs", "seconds"))
        lines.append(f"| {arm} | {' | '.join(cells)} | {epochs:.0f} | {seconds:.0f} |")
    return lines


def said(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def opened(given: argparse.Namespace, arms: Sequence[str]) -> Bench:
    contents = contents_of(given.data or given.masks.parent)
    cases, model = read_cases(given.masks, contents), load()
    lessons = {}
    for windows in {ARMS[arm].windows for arm in arms}:
        config = decoder_config(model.config, "resnet", finest_mm=FINEST_MM * windows)
        cache = given.out / "features"
        lessons[windows] = lesson_of(model, passport(None), contents, cases, cache, config, lambda *_: None)
    folds = grouped_folds(cases.patients, given.folds, 0, [case.label for case in cases.cases])
    return Bench(given.out, lessons, cases, folds, given.epochs, model)


def sources(masks: Path, cases: Cases) -> np.ndarray:
    """The table's column `source` of each case, "" where there is none."""
    rows = pl.read_csv(masks)
    told = dict(zip(rows["path"], rows["source"], strict=True)) if "source" in rows.columns else {}
    return np.array([told.get(case.record["path"], "") for case in cases.cases])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=Learning.epochs)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    bench = opened(given, given.arms)
    who, by = set(bench.cases.patients), sources(given.masks, bench.cases)
    print(f"{len(by)} masks of {len(who)} patients, {len(bench.folds)} folds, {given.seeds} seeds, processor seconds\n")
    print("\n".join(table(bench, given.arms, given.seeds, np.ones(len(by), bool))))
    for source in sorted(set(by)) if len(set(by)) > 1 else []:
        print(f"\n{source}: {(by == source).sum()} masks\n")
        print("\n".join(table(bench, given.arms, given.seeds, by == source)))


if __name__ == "__main__":
    main()
