"""What the parts of MedMAP and COLIPRI bring: python tests/benchmarks/systems.py OUT [--data ARCHIVE] [--hold WORD,WORD]

Trains every arm from several seeds with `decipher train`'s own code and prints Markdown. All arms see the same data: digital
patients with two organs, five findings or none, three sequences each; as many without their reports, for masked
images; and, with --data, the series of an archive but those whose `source` names a word in --hold. Judged on patients of
other seeds, and on the series held out. Values are means over seeds; intervals are 95 % over patients, with the seeds as they
are. OUT keeps the runs: the same command goes on where it stopped.
"""

import argparse
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from judged import Judged, Test, arguments, gain, left_out, making, records_of, retrieval, value

from index.record import subjects
from models.decipher import Decipher, load
from models.fusion import Target
from training.config import load_config
from training.data import IMAGES
from training.detection import study_probabilities
from training.metrics import auroc, mean
from training.report_scores import agreement_f1, label_agreement, text_scores
from training.reporting import Writing, describe, nearest_reports
from training.run import open_run, train
from training.shards import archive_shard, open_shard, phantom_shard
from training.source import Source

SEQUENCES = ("T1", "T2", "DWI")
FINDINGS = {"brain": ("brain tumour", "stroke", "multiple sclerosis"), "abdomen": ("liver cyst", "renal tumour")}
KINDS = [
    {"region": region, "diagnosis": diagnosis, "sequences": list(SEQUENCES)}
    for region, names in FINDINGS.items()
    for diagnosis in (*names, "healthy")
]
MEDMAP = {
    "one encoder": ["families="],
    "adapters": ["families=adapters"],
    "encoders": ["families=encoders"],
    (BEGUN := "adapters on mini"): ["families=adapters", "init=mini"],
}
"""the last one begins with the model that ships, which has seen sources that others here are tested on"""
COLIPRI: dict[str, tuple[str, list[str]]] = {
    "C": ("colipri-c", []),
    "CR": ("colipri-cr", []),
    "CM": ("colipri-cm", []),
    "CRM": ("colipri", []),
    "C without opposites": ("colipri-c", ["opposite_weight=0"]),
}
LESION = ["There is a lesion.", "A focal lesion.", "An abnormality is seen."]
NO_LESION = ["There is no lesion.", "No focal lesion.", "No abnormality is seen."]
TRAINED, IMAGE_ONLY, TESTED = 21, 22, 900_023
"""seeds of the digital patients"""
Figures = dict[tuple[str, str], list[Judged]]
"""{(arm, figure): one a seed}"""


def main() -> None:
    asked = arguments(__doc__, 210, 105).parse_args()
    out = asked.out.absolute()
    shards = _training_shards(out, asked)
    tests = [Test("phantom", open_shard(phantom_shard(asked.test_patients, making(out, TESTED), KINDS)))]
    if asked.data:
        tests.append(left_out(asked.data, asked.hold, making(out, TESTED)))
    figures: Figures = {}
    for seed in range(asked.seeds):
        for arm, settings in MEDMAP.items():
            model = _model(out, "medmap", arm, [*settings, "findings=diagnosis"], seed, shards, asked)
            _add(figures, arm, _judge_medmap(model, tests[:1] if arm == BEGUN else tests))
        for arm, (preset, settings) in COLIPRI.items():
            model = _model(out, preset, arm, settings, seed, shards, asked)
            _add(figures, arm, _judge_colipri(model, tests))
    _print(figures)


def _training_shards(out: Path, asked: argparse.Namespace) -> list[Path]:
    """Patients with reports, patients without, and the archive."""
    (out / "shards").mkdir(parents=True, exist_ok=True)
    shards = [phantom_shard(asked.patients, making(out, TRAINED), KINDS)]
    shards.append(_silenced(phantom_shard(asked.patients, making(out, IMAGE_ONLY), KINDS)))
    if asked.data:
        records, root = records_of(asked.data, asked.hold, held=False)
        shards.append(archive_shard(root, records, 4, making(out, TRAINED)))
    return shards


def _silenced(folder: Path) -> Path:
    """The same volumes, of which nothing else is known."""
    other = folder.with_name(f"images-{folder.name}")
    if not other.is_dir():
        shutil.copytree(folder, other)
        rows = pl.read_parquet(folder / "rows.parquet")
        silent = rows.with_columns(report=pl.lit(None, pl.Utf8), diagnosis=pl.lit(None, pl.Utf8), origin=pl.lit(IMAGES))
        silent.write_parquet(other / "rows.parquet")
    return other


def _model(
    out: Path, preset: str, arm: str, settings: list[str], seed: int, shards: list[Path], asked: argparse.Namespace
) -> Decipher:
    """The model of an arm, trained now or before."""
    config = load_config(preset, [f"seed={seed}", "holdout=0", *settings, *asked.settings])
    run = out / f"{arm.replace(' ', '-')}-{seed}"
    if not (run / "model").is_dir():
        source = Source(None)
        open_run(run, config, source, fresh=False)
        (run / "data.json").write_text("[" + ", ".join(f'"{folder}"' for folder in shards) + "]")
        print(f"<!-- {arm}, seed {seed} -->", flush=True)
        train(config, source, run, lambda *_: None, lambda row: None, lambda text: None)
    return load(str(run / "model"), heads=True)


def _add(figures: Figures, arm: str, found: dict[str, Judged]) -> None:
    for name, judged in found.items():
        figures.setdefault((arm, name), []).append(judged)


def _judge_medmap(model: Decipher, tests: list[Test]) -> dict[str, Judged]:
    found = {f"report to volume recall@5, {t.name}": retrieval(t, t.vectors(model), model) for t in tests}
    phantoms = tests[0]
    outputs = {name: _detect(model, phantoms, kept) for name, kept in _kept().items()}
    scored = {name: _mean_auroc(model, phantoms, each) for name, each in outputs.items()}
    alone = {name: scored.pop(name) for name in SEQUENCES}
    missing = [scored.pop(f"without {name}") for name in SEQUENCES]
    found["findings AUROC, three sequences"] = scored["all"]
    best = max(alone, key=lambda name: float(alone[name].score(None)))
    found["findings AUROC, the best sequence alone"] = alone[best]
    found["findings AUROC, one sequence missing"] = Judged(
        scored["all"].groups, lambda w: np.mean([m.score(w) for m in missing], axis=0)
    )
    return found


def _kept() -> dict[str, tuple[str, ...]]:
    """Which sequences are shown: all, one, all but one."""
    less = {f"without {name}": tuple(s for s in SEQUENCES if s != name) for name in SEQUENCES}
    return {"all": SEQUENCES} | {name: (name,) for name in SEQUENCES} | less


def _detect(model: Decipher, test: Test, kept: tuple[str, ...]) -> np.ndarray:
    """Probabilities (studies, F) from some sequences of each study."""
    studies = test.rows["study_id"].unique(maintain_order=True)
    found = []
    for study in studies:
        of_it = (test.rows["study_id"] == study) & test.rows["sequence"].is_in(kept)
        found.append(study_probabilities(model, test.samples(of_it.arg_true().to_list())))
    return np.stack(found)


def _mean_auroc(model: Decipher, test: Test, outputs: np.ndarray) -> Judged:
    """Mean over the five findings, each among the studies of its organ."""
    assert model.detector is not None
    firsts = test.rows.unique("study_id", maintain_order=True, keep="first")
    said, organ = firsts["diagnosis"].to_numpy(), firsts["body_region"].to_numpy()
    parts = []
    for region, names in FINDINGS.items():
        for name in names:
            place = model.detector.config.targets.index(Target(name, region))
            own = organ == region
            parts.append((own, (said[own] == name).astype(float), outputs[own, place]))

    def score(w: np.ndarray | None) -> np.ndarray:
        each = [auroc(truth, graded, None if w is None else w[..., own]) for own, truth, graded in parts]
        return np.nanmean(np.stack([np.asarray(e) for e in each]), axis=0)

    return Judged(np.array(subjects(firsts)), score)


def _judge_colipri(model: Decipher, tests: list[Test]) -> dict[str, Judged]:
    found = {}
    for test in tests:
        vectors = test.vectors(model)
        found[f"report to volume recall@5, {test.name}"] = retrieval(test, vectors, model)
        found[f"lesion against no lesion, AUROC, {test.name}"] = _zero_shot(test, vectors, model)
    if model.writer is not None:
        found |= _judge_reports(model, tests[0])
    return found


def _zero_shot(test: Test, vectors: np.ndarray, model: Decipher) -> Judged:
    yes, no = (model.encode_texts(texts).numpy().mean(axis=0) for texts in (LESION, NO_LESION))
    known = test.rows["lesion"].is_in(["yes", "no"]).to_numpy()
    graded = vectors[known] @ (yes / np.linalg.norm(yes) - no / np.linalg.norm(no))
    truth = (test.rows["lesion"] == "yes").to_numpy()[known].astype(float)
    return Judged(test.groups[known], lambda w: auroc(truth, graded, w))


def _judge_reports(model: Decipher, test: Test) -> dict[str, Judged]:
    """Written reports and the nearest report of another patient, both among the tested."""
    written = describe(model, test.samples(range(test.rows.height)), Writing())
    vectors, real = np.stack([one.vector for one in written]), test.rows["report"].to_list()
    who, regions = list(test.groups), test.rows["body_region"].to_list()
    near = [real[row] for row in nearest_reports(vectors, who, vectors, real, who)]
    found = {}
    for whose, texts in (("written", [one.text for one in written]), ("nearest", near)):
        counts, words = label_agreement(texts, real, regions), text_scores(texts, real)
        found[f"reports: findings F1, {whose}"] = Judged(test.groups, partial(_f1, counts))
        for name in ("bleu4", "rouge_l", "meteor"):
            found[f"reports: {name}, {whose}"] = Judged(test.groups, partial(mean, words[name]))
    return found


def _f1(counts: dict[str, np.ndarray], w: np.ndarray | None) -> np.ndarray | float:
    return agreement_f1(counts, w)


def _print(figures: Figures) -> None:
    names = list(dict.fromkeys(name for _, name in figures))
    seeds = len(next(iter(figures.values())))
    for arms in (MEDMAP, COLIPRI):
        shown = [name for name in names if any((arm, name) in figures for arm in arms)]
        print(f"\n{seeds} seeds\n\n| figure | {' | '.join(arms)} |\n|---|{'---|' * len(arms)}")
        for name in shown:
            cells = [value(figures[arm, name]) if (arm, name) in figures else "-" for arm in arms]
            print(f"| {name} | {' | '.join(cells)} |")
    print("\n| comparison | figure | gain | by seed |\n|---|---|---|---|")
    for title, new, old, fits in _contrasts():
        for name in names:
            other = name.replace("written", "nearest") if title.startswith("written") else name
            if fits(name) and (new, name) in figures and (old, other) in figures:
                pairs = list(zip(figures[new, name], figures[old, other], strict=True))
                print(f"| {title} | {name} | {gain(pairs)} |")
    for arm in MEDMAP:
        fused = figures[arm, "findings AUROC, three sequences"]
        for name in ("findings AUROC, the best sequence alone", "findings AUROC, one sequence missing"):
            pairs = list(zip(fused, figures[arm, name], strict=True))
            print(f"| three sequences against {name.split(', ')[1]}, {arm} | findings AUROC | {gain(pairs)} |")


def _contrasts() -> list[tuple[str, str, str, Callable[[str], bool]]]:
    every: Callable[[str], bool] = lambda name: "written" not in name and "nearest" not in name  # noqa: E731
    return [
        ("adapters against one encoder", "adapters", "one encoder", every),
        ("encoders against one encoder", "encoders", "one encoder", every),
        ("CR against C", "CR", "C", every),
        ("CM against C", "CM", "C", every),
        ("CRM against C", "CRM", "C", every),
        ("opposite sentences against none", "C", "C without opposites", every),
        ("written against nearest report, CR", "CR", "CR", lambda name: "written" in name),
        ("written against nearest report, CRM", "CRM", "CRM", lambda name: "written" in name),
    ]


if __name__ == "__main__":
    main()
