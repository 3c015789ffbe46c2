"""What each stage of pretraining brings: python tests/benchmarks/pretraining.py OUT [--data ARCHIVE] [--hold WORD,WORD]

Trains every arm from several seeds with `decipher train`'s own code and prints Markdown: stage 1 against random
initialisation, stage 2 against stage 1, region-aware batches against plain ones, masked language modelling against none.
Judged on frozen vectors of patients that no arm saw: phantoms of other seeds and, with --data, the series whose `source`
in labels.csv names one of the words in --hold. Figures: balanced accuracy of linear probes (patients apart) and report to
volume recall@5. Values are means over seeds; intervals are 95 % over patients, with the seeds as they are. OUT keeps
runs and vectors: the same command goes on where it stopped. --curves PICTURE draws the learning curves of seed 0.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from judged import Judged, Test, arguments, gain, left_out, making, retrieval, value

from models.decipher import Decipher, load
from training.config import load_config
from training.metrics import balanced_accuracy
from training.probe import fit_probe
from training.run import fresh_model, open_run, train
from training.shards import open_shard, phantom_shard
from training.source import Source

TEST_SEED = 900_000
ARMS: dict[str, tuple[str, list[str]]] = {
    "random": ("", []),
    "vision": ("", ["stages=vision"]),
    "align": ("", ["stages=align"]),
    "vision, align": ("vision", ["stages=align"]),
    "vision, align, plain batches": ("vision", ["stages=align", "region_share=0"]),
    "vision, text, align": ("vision", ["stages=text,align"]),
}
"""{arm: (the arm it starts from, its settings)}"""
CONTRASTS = [
    ("stage 1 against random initialisation", "vision", "random"),
    ("stage 2 against stage 1", "vision, align", "vision"),
    ("stage 2 after stage 1 against stage 2 alone", "vision, align", "align"),
    ("region-aware against plain batches", "vision, align", "vision, align, plain batches"),
    ("masked language modelling against none", "vision, text, align", "vision, align"),
]
TASKS = {"probe of sequence": "sequence", "probe of region": "body_region", "probe of lesion": "lesion"}


def main() -> None:
    parser = arguments(__doc__, 120, 60)
    parser.add_argument("--curves", type=Path)
    asked = parser.parse_args()
    out = asked.out.absolute()
    tests = [Test("phantom", open_shard(phantom_shard(asked.test_patients, making(out, TEST_SEED))))]
    if asked.data:
        tests.append(left_out(asked.data, asked.hold, making(out, TEST_SEED)))
    figures: dict[tuple[str, str, str, int], Judged] = {}
    for seed in range(asked.seeds):
        for arm in ARMS:
            model = _model(arm, seed, asked, out)
            for test in tests:
                for name, judged in _judge(test, model, with_text="align" in arm).items():
                    figures[arm, test.name, name, seed] = judged
    _print_values(figures, tests, asked.seeds)
    _print_contrasts(figures, tests, asked.seeds)
    if asked.curves:
        _draw_curves(out, asked.curves)


def _model(arm: str, seed: int, asked: argparse.Namespace, out: Path) -> Decipher:
    """The model of an arm, trained now or before."""
    before, settings = ARMS[arm]
    common = [f"seed={seed}", f"phantom_patients={asked.patients}", f"skip_sources={asked.hold}", "holdout=0",
              f"cache={out / 'shards'}", *asked.settings]  # fmt: skip
    init = [f"init={_folder(out, before, seed) / 'model'}"] if before else []
    config = load_config("decipher", [*common, *init, *settings])
    if arm == "random":
        return fresh_model(config).eval()
    run = _folder(out, arm, seed)
    if not (run / "model").is_dir():
        source = Source(asked.data)
        open_run(run, config, source, fresh=False)
        print(f"<!-- {arm}, seed {seed} -->", flush=True)
        train(config, source, run, lambda *_: None, lambda row: None, lambda text: None)
    return load(str(run / "model"))


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"


def _judge(test: Test, model: Decipher, with_text: bool) -> dict[str, Judged]:
    vectors = test.vectors(model)
    found = {name: _probe(test, vectors, column) for name, column in TASKS.items()}
    if with_text:
        found["report to volume recall@5"] = retrieval(test, vectors, model)
    return {name: judged for name, judged in found.items() if judged is not None}


def _probe(test: Test, vectors: np.ndarray, column: str) -> Judged | None:
    values = test.rows[column].to_list()
    known = [value for value in values if value not in (None, "unknown", "OTHER")]
    if len(set(known)) < 2:
        return None
    cleaned = [None if value in ("unknown", "OTHER") else value for value in values]
    result = fit_probe(vectors, cleaned, list(test.groups), task=column)
    names = np.array([cleaned[row] for row in result.rows])
    said = np.array(result.classes)[result.outputs.argmax(axis=1)]
    return Judged(test.groups[result.rows], lambda w: balanced_accuracy(names, said, w))


def _print_values(figures: dict, tests: list[Test], seeds: int) -> None:
    for test in tests:
        names = [
            name for name in (*TASKS, "report to volume recall@5") if any(k[1:3] == (test.name, name) for k in figures)
        ]
        print(f"\n{test.name}: {test.rows.height} series of {len(set(test.groups))} patients, {seeds} seeds\n")
        print(f"| arm | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        for arm in ARMS:
            print(f"| {arm} | {' | '.join(_value(figures, arm, test.name, name, seeds) for name in names)} |")


def _value(figures: dict, arm: str, test: str, name: str, seeds: int) -> str:
    if (arm, test, name, 0) not in figures:
        return "-"
    return value([figures[arm, test, name, seed] for seed in range(seeds)])


def _print_contrasts(figures: dict, tests: list[Test], seeds: int) -> None:
    print("\n| comparison | tested on | figure | gain | by seed |\n|---|---|---|---|---|")
    for title, new, old in CONTRASTS:
        for test in tests:
            for name in (*TASKS, "report to volume recall@5"):
                if (new, test.name, name, 0) in figures and (old, test.name, name, 0) in figures:
                    pairs = [
                        (figures[new, test.name, name, seed], figures[old, test.name, name, seed])
                        for seed in range(seeds)
                    ]
                    print(f"| {title} | {test.name} | {name} | {gain(pairs)} |")


def _draw_curves(out: Path, picture: Path) -> None:
    """Losses of seed 0: stage 1, and stage 2 with and without it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    for axis, key, arms in (
        (left, "vision", ["vision"]),
        (right, "align", ["align", "vision, align", "vision, text, align"]),
    ):
        for arm in arms:
            log = _folder(out, arm, 0) / "metrics.jsonl"
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            names = ("dino", "ibot") if key == "vision" else ("contrast",)
            for name in names:
                seen = [(row["step"], row[name]) for row in rows if row["stage"] == key and name in row]
                axis.plot(*zip(*seen, strict=True), label=name if key == "vision" else arm)
        axis.set(xlabel="step", title={"vision": "stage 1", "align": "stage 2: contrast with texts"}[key])
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main()
