"""What scores mean, measured: python tests/benchmarks/evidence.py [ARCHIVE] [--model FOLDER] [--sources WORD,WORD]

Prints Markdown tables: which rule fuses pixels and tags best, how often a query is rightly told that nothing matches, and
how well planted wrong tags are found. ARCHIVE is a folder with labels.csv (path, subject_id, sequence, body_region, plane,
contrast) at its root; without one, 64 digital patients are made. --sources: only series whose label row names one of
the words in `source` are judged, such as those that the model was not trained on.

Every archive is encoded twice: under names that say nothing and without its labels, so that tags come from headers
alone, and with its labels. Queries are templates of what is there. Intervals are 95 %, over patients.
"""

import argparse
import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from index import background as bg
from index import conflicts as cf
from index.caption import TERMS, caption, is_silent
from index.conflicts import FIELDS
from index.encode import EncodeOptions, encode_archive
from index.store import Index
from models.decipher import Decipher, load
from training.metrics import auprc, auroc, bootstrap
from training.phantom.archive import make_archive
from training.wordings import WORDS

PATIENTS, SEEDS = 64, 6
TAGS = ("sequence", "body_region", "plane", "contrast")
OFF_TOPIC = (
    "recipe for apple pie", "stock market", "how to repair a bicycle", "the president gave a speech", "sales report",
    "weather forecast for tomorrow", "Beethoven symphony", "mortgage interest rates", "photo of a sunset on the beach",
    "football world cup final", "cheap flights to Paris", "chest radiograph of a cat", "dental x-ray of a horse",
    "CT angiography of the aorta", "mammogram", "ultrasound of the thyroid", "PET scan", "best pizza in Naples",
)  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Rows of an index in memory, and what is true of them: label rows, and which of them are judged, bool (n,)."""

    name: str
    records: pl.DataFrame
    vectors: np.ndarray
    captions: np.ndarray
    truth: dict[str, np.ndarray]
    judged: np.ndarray

    @cached_property
    def silent(self) -> np.ndarray:
        return np.array([is_silent(one) for one in self.records.iter_rows(named=True)])

    @cached_property
    def stored(self) -> np.ndarray:
        """The captions as an index keeps them: silent ones as zeros."""
        return np.where(self.silent[:, None], 0, self.captions)

    def take(self, rows: np.ndarray) -> "Rows":
        truth = {name: values[rows] for name, values in self.truth.items()}
        return Rows(self.name, self.records[rows], self.vectors[rows], self.captions[rows], truth, self.judged[rows])


@dataclass(frozen=True)
class Query:
    kind: str
    vector: np.ndarray
    relevant: np.ndarray
    counted: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--sources", default="")
    asked = parser.parse_args()
    words = [word for word in asked.sources.split(",") if word]
    model = load(asked.model)
    with tempfile.TemporaryDirectory() as folder:
        plain, labelled = encoded(asked.archive, Path(folder), asked.model, words, model)
    sets = [plain, labelled, wrong(labelled, model), empty(labelled, model)]
    print(f"{int(plain.judged.sum())} series of {len(set(plain.truth['subject_id'][plain.judged]))} patients judged\n")
    fusing_table(sets, model)
    nothing_table([plain, labelled], model)
    conflict_table(labelled, model)


def encoded(
    archive: Path | None, here: Path, name_of_model: str | None, words: list[str], model: Decipher
) -> tuple[Rows, Rows]:
    """The archive's rows with tags from headers alone, and with its labels."""
    if archive is None:
        archive = here / "phantom"
        make_archive(archive, patients=PATIENTS, seed=41, broken=False)
    with (archive / "labels.csv").open(newline="") as stream:
        labels = list(csv.DictReader(stream))
    for number, row in enumerate(labels):
        row["path"] = linked(archive / row["path"], here / "opaque", f"s{number:04d}")
    with (here / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(labels[0]))
        writer.writeheader()
        writer.writerows(labels)
    found = []
    for name, table in (("headers alone", None), ("labels", here / "labels.csv")):
        encode_archive(
            here / "opaque", here / name, EncodeOptions(model=name_of_model, labels=table), lambda *said: None
        )
        found.append(rows_of(Index.open(here / name), name, labels, words, model))
    return found[0], found[1]


def linked(source: Path, to: Path, name: str) -> str:
    """The files of a series under a name that tells nothing; returns it."""
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    endings = "".join(part for part in source.suffixes[-2:] if part in (".nii", ".gz"))
    for number, path in enumerate(files):
        target = to / name / f"{number:05d}" if source.is_dir() else to / f"{name}{endings}"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copy2(path, target)
    return name if source.is_dir() else name + endings


def rows_of(index: Index, name: str, labels: list[dict[str, str]], words: list[str], model: Decipher) -> Rows:
    by_path = {row["path"]: row for row in labels}
    rows = [by_path.get(path.rstrip("/").split("/")[0], {}) for path in index.records["path"]]
    truth = {key: np.array([row.get(key) or "" for row in rows]) for key in (*TAGS, "subject_id", "source")}
    judged = np.array([bool(row) and (not words or any(w in row.get("source", "") for w in words)) for row in rows])
    captions = model.encode_texts([caption(one) for one in index.records.iter_rows(named=True)]).numpy()
    return Rows(name, index.records, index.gather(np.arange(len(index))), captions, truth, judged)


def retagged(rows: Rows, name: str, tags: pl.DataFrame, model: Decipher) -> Rows:
    """The same pixels under other tags (n rows of TAGS), with their captions."""
    records = rows.records.with_columns([tags[column] for column in TAGS])
    texts = [caption(one) for one in records.iter_rows(named=True)]
    changed = [i for i, one in enumerate(rows.records.iter_rows(named=True)) if caption(one) != texts[i]]
    captions = rows.captions.copy()
    if changed:
        captions[changed] = model.encode_texts([texts[i] for i in changed]).numpy()
    return replace(rows, name=name, records=records, captions=captions)


def wrong(rows: Rows, model: Decipher, share: float = 0.2) -> Rows:
    """A share of the rows gets the tags of another."""
    count, order = rows.records.height, np.arange(rows.records.height)
    chosen = np.random.default_rng(0).choice(count, round(share * count), replace=False)
    order[chosen] = np.roll(chosen, 1)
    return retagged(rows, f"labels, {share:.0%} wrong", rows.records[order].select(TAGS), model)


def empty(rows: Rows, model: Decipher, share: float = 0.5) -> Rows:
    """A share of the rows loses all tags."""
    lost = pl.Series(np.random.default_rng(0).permutation(rows.records.height) < share * rows.records.height)
    tags = rows.records.select(pl.when(~lost).then(pl.col(name)).alias(name) for name in TAGS)
    return retagged(rows, f"labels, {share:.0%} empty", tags, model)


def asked_of(rows: Rows, model: Decipher) -> list[Query]:
    """Template queries about what is there and is not all that is there."""
    return [
        Query(kind, vector, relevant, counted)
        for kind, texts, relevant, counted in concepts(rows)
        for vector in model.encode_texts(texts).numpy()
    ]


def concepts(rows: Rows) -> Iterator[tuple[str, list[str], np.ndarray, np.ndarray]]:
    """Kind of a query, its wordings, the rows that it means and the rows whose truth is known, bool (n,)."""
    t, known = rows.truth, {name: rows.judged & (rows.truth[name] != "") for name in TAGS}
    sequences = [s for s in sorted(set(t["sequence"][rows.judged])) if s in WORDS["sequence"]]
    regions = [r for r in sorted(set(t["body_region"][rows.judged])) if r in WORDS["body_region"]]
    found: list[tuple[str, list[str], np.ndarray, np.ndarray]] = []
    for s in sequences:
        # Enhanced T1 is T1 too: for a query of T1 it is neither right nor wrong.
        counted = known["sequence"] & ~((s == "T1") & (t["sequence"] == "T1C"))
        said = wordings("sequence", s)
        found.append(("sequence", [f"{one} MRI" for one in said], t["sequence"] == s, counted))
        for r in regions:
            both = [
                f"{one} MRI of the {where}" for one, where in zip(said[:2], wordings("body_region", r), strict=False)
            ]
            meant = (t["sequence"] == s) & (t["body_region"] == r)
            found.append(("sequence and region", both, meant, counted & known["body_region"]))
    for r in regions:
        texts = [f"MRI of the {one}" for one in wordings("body_region", r)]
        found.append(("region", texts, t["body_region"] == r, known["body_region"]))
    for p in sorted(set(t["plane"][known["plane"]])):
        found.append(("plane", [f"{one} MRI" for one in WORDS["plane"][p][:2]], t["plane"] == p, known["plane"]))
    contrast = known["contrast"] & (t["contrast"] != "unknown")
    found.append(("contrast", ["MRI with contrast agent", "contrast-enhanced MRI"], t["contrast"] == "yes", contrast))
    return ((k, x, m & c, c) for k, x, m, c in found if (m & c).any() and (~m & c).any())


def wordings(column: str, value: str) -> list[str]:
    return list(dict.fromkeys([TERMS[column][value], *WORDS[column][value]]))[:3]


def known_background(rows: Rows) -> bg.Background:
    sample = bg.sample_rows(rows.records.height)
    found = bg.of_rows(rows.records[sample], rows.vectors[sample], rows.stored[sample])
    assert found is not None
    return found


def standardised(rows: Rows, found: bg.Background, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p_mean, p_deviation = bg.scale([(1.0, found.pixels)])
    t_mean, t_deviation = bg.scale([(1.0, found.tags)])
    return (rows.vectors @ vector - p_mean) / p_deviation, (rows.captions @ vector - t_mean) / t_deviation


def rules(rows: Rows, found: bg.Background, vector: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (n,) of one query by every rule that was thought of."""
    pixels, tags = standardised(rows, found, vector)
    silent, never = rows.silent, np.zeros(len(pixels), dtype=bool)
    alike = found.correlation
    return {
        "pixels alone": pixels,
        "tags alone": tags,
        "standardised by background, silent tags left out": bg.fused(pixels, tags, silent, alike),
        "the same, tags weigh 0.25": bg.fused(pixels, tags, silent, alike, 0.25),
        "the same, tags weigh 0.75": bg.fused(pixels, tags, silent, alike, 0.75),
        "the same, not brought to one deviation": np.where(silent, pixels, (pixels + tags) / 2),
        "standardised by background": bg.fused(pixels, tags, never),
        "standardised by query": over_index(pixels) + over_index(tags),
        "mean of cosines": rows.vectors @ vector + rows.captions @ vector,
        "reciprocal ranks": 1 / (60 + rank(pixels)) + 1 / (60 + rank(tags)),
        "larger of the two": np.maximum(pixels, tags),
        "log of summed exponentials": np.logaddexp(pixels, tags),
    }


def over_index(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.mean()) / max(float(scores.std()), 1e-6)


def rank(scores: np.ndarray) -> np.ndarray:
    return pl.Series(-scores).rank("average").to_numpy()


def fusing_table(sets: list[Rows], model: Decipher) -> None:
    print("| rule |" + "".join(f" {rows.name} |" for rows in sets) + "\n|---|" + "---|" * len(sets))
    cells: dict[str, list[str]] = {}
    for rows in sets:
        found, queries = known_background(rows), asked_of(rows, model)
        scored = [rules(rows, found, query.vector) for query in queries]
        for name in scored[0]:
            precise = [one[name].astype(np.float64) for one in scored]
            value = mean_precision(queries, precise)(np.ones((1, len(rows.judged))))[0]
            low, high = bootstrap(rows.truth["subject_id"], mean_precision(queries, precise), tries=200)
            gain, first = np.mean([top(q, s) for q, s in zip(queries, precise, strict=True)], axis=0)
            cells.setdefault(name, []).append(f"{value:.3f} ({low:.2f} to {high:.2f}), {gain:.2f}, {first:.2f}")
    for name, values in cells.items():
        print(f"| {name} | " + " | ".join(values) + " |")
    print("\nAverage precision (interval), nDCG@10, precision@5; means over queries.\n")


def mean_precision(queries: list[Query], scores: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Mean over queries of the average precision, as a function of weights (tries, n)."""

    def score(weights: np.ndarray) -> np.ndarray:
        pairs = zip(queries, scores, strict=True)
        each = [auprc(q.relevant[q.counted].astype(int), s[q.counted], weights[:, q.counted]) for q, s in pairs]
        return np.nanmean(np.stack(each), axis=0)

    return score


def top(query: Query, scores: np.ndarray) -> tuple[float, float]:
    """nDCG@10, and the precision of the first 5, or of as many as there are; ties in a fixed random order."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(query.counted))
    hit = query.relevant[rows[np.argsort(-scores[rows], kind="stable")]]
    there = int(hit.sum())
    discount = 1 / np.log2(np.arange(2, min(10, len(hit)) + 2))
    return float((hit[:10] * discount).sum() / discount[:there].sum()), float(hit[: min(5, there)].mean())


def nothing_table(sets: list[Rows], model: Decipher) -> None:
    """How often a query is told that nothing matches better than background."""
    kinds = ("region", "plane", "sequence", "sequence and region")
    print(
        "| tags from | evidence | false alarm | " + " | ".join(f"no such {kind}" for kind in kinds) + " | off topic |"
    )
    print("|---|---|---|" + "---|" * (len(kinds) + 1))
    off = model.encode_texts(OFF_TOPIC).numpy()
    for whole in sets:
        rows = whole.take(np.flatnonzero(whole.judged))
        told: dict[str, dict[str, list[bool]]] = {name: {} for name in ("pixels", "tags", "both")}
        queries = asked_of(rows, model)
        here = known_background(rows)
        for query in queries:
            add(told, "there", flags(rows, here, query.vector))
            rest = rows.take(np.flatnonzero(~query.relevant))
            sample = bg.sample_rows(rest.records.height)
            other = bg.of_rows(rest.records[sample], rest.vectors[sample], rest.stored[sample])
            if other is not None and other.by_tags:
                add(told, query.kind, flags(rest, other, query.vector))
        for vector in off:
            add(told, "off", flags(rows, here, vector))
        told["examples"] = example_flags(rows, here)
        for name, seen in told.items():
            shares = [f"{np.mean(seen[kind]):.2f}" if kind in seen else "-" for kind in ("there", *kinds, "off")]
            print(f"| {whole.name} | {name} | " + " | ".join(shares) + " |")
    strange = bg.off_topic(model, OFF_TOPIC).mean()
    usual = bg.off_topic(model, [t for _, texts, _, _ in concepts(sets[0]) for t in texts]).mean()
    print(f"\nBy the words alone (`off_topic`): {strange:.2f} of the queries off topic, {usual:.2f} of the others.\n")


def example_flags(rows: Rows, found: bg.Background) -> dict[str, list[bool]]:
    """The same for each volume as an example, asked of other patients: all of them, or those without its kind."""
    assert found.volumes is not None
    t, told = rows.truth, {}
    scores = (rows.vectors @ rows.vectors.T - found.volumes.mean) / found.volumes.deviation
    for row, own in enumerate(scores):
        others = t["subject_id"] != t["subject_id"][row]
        alike = {name: t[name] == t[name][row] for name in ("sequence", "body_region")}
        twin = alike["sequence"] & alike["body_region"]
        kinds = {"region": ~alike["body_region"], "sequence": ~alike["sequence"], "sequence and region": ~twin}
        for kind, left in (kinds | ({"there": others} if (twin & others).any() else {})).items():
            if (left & others).any():
                told.setdefault(kind, []).append(bg.nothing_better(found.volumes, float(own[left & others].max())))
    return told


def flags(rows: Rows, found: bg.Background, vector: np.ndarray) -> dict[str, bool]:
    pixels, tags = standardised(rows, found, vector)
    both = bg.fused(pixels, tags, rows.silent, found.correlation)
    scored = {"pixels": (found.pixels, pixels), "tags": (found.tags, tags), "both": (found.both, both)}
    return {name: bg.nothing_better(pairs, float(scores.max())) for name, (pairs, scores) in scored.items()}


def add(told: dict[str, dict[str, list[bool]]], kind: str, seen: dict[str, bool]) -> None:
    for name, flag in seen.items():
        told[name].setdefault(kind, []).append(flag)


def conflict_table(rows: Rows, model: Decipher) -> None:
    """How well planted wrong tags are found: AUROC, and the share of them among as many as were planted."""
    cells: dict[str, list[str]] = {}
    heads = [(field, share) for field in FIELDS for share in (0.05, 0.1)]
    print(
        "| by |" + "".join(f" {field}, {share:.0%} wrong |" for field, share in heads) + "\n|---|" + "---|" * len(heads)
    )
    for field, share in heads:
        runs = [planted(rows, field, share, seed, model) for seed in range(SEEDS)]
        for name in runs[0]:
            values = np.array([run[name] for run in runs])
            spread = 1.96 * values.std(axis=0) / SEEDS**0.5
            text = ", ".join(f"{m:.2f} ± {s:.2f}" for m, s in zip(values.mean(axis=0), spread, strict=True))
            cells.setdefault(name, []).append(text)
    for name, texts in cells.items():
        print(f"| {name} | " + " | ".join(texts) + " |")
    print(f"\nAUROC of the planted rows, their share among the first as many as were planted; {SEEDS} plantings.")


def planted(rows: Rows, field: str, share: float, seed: int, model: Decipher) -> dict[str, tuple[float, float]]:
    """Plant wrong tags and look for them in several ways."""
    rng = np.random.default_rng(seed)
    tags = rows.records[field].to_list()
    pool = [i for i, v in enumerate(tags) if v not in (None, "OTHER") and rows.judged[i]]
    values = sorted({tags[i] for i in pool})
    chosen = rng.choice(pool, round(share * len(pool)), replace=False)
    for i in chosen:
        tags[i] = rng.choice([v for v in values if v != tags[i]])
    changed = retagged(rows, "planted", rows.records.select(TAGS).with_columns(pl.Series(field, tags)), model)
    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(Path(folder) / "index", {"name": "", "hash": "", "dim": rows.vectors.shape[1]})
        index.append(changed.records, changed.vectors, changed.stored)
        found = cf.conflicts(index, field, k=len(index)).found
        judged, margins = suspicions(index, field, pool)
    listed = dict(zip(found["series_id"], found["disagreement"], strict=True))
    disagreement = np.array([listed.get(rows.records["series_id"][int(i)], 0.0) for i in judged])
    truth = np.isin(judged, chosen)
    result = {}
    for name, scores in margins.items():
        first = np.argsort(-scores, kind="stable")[: int(truth.sum())]
        result[name] = float(auroc(truth.astype(int), scores)), float(truth[first].mean())
    sure = disagreement > 0.5
    result["both: precision, recall above 0.5"] = float(truth[sure].mean()), float(truth[sure].sum() / truth.sum())
    return result


def suspicions(index: Index, field: str, pool: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The rows of `pool` that can be judged, and how much each way of looking contradicts their tags."""
    known = cf._known(index, field)
    judged = np.array([i for i in pool if known.codes[i] >= 0])
    references, count = cf._references(known), len(known.values)
    codes, vectors = known.codes[references], index.gather(judged)
    fitted = cf.fit(index.gather(references), codes, known.fold[references], count)
    cosines = vectors @ index.gather(references).T
    cosines[known.who[judged][:, None] == known.who[references][None]] = -np.inf
    captions = index.gather(references, "captions")
    prototypes = np.stack([captions[codes == code].mean(axis=0) for code in range(count)])
    fits = vectors @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T
    shares = {
        "text prototypes": (fits - fits.mean(axis=0)) / fits.std(axis=0),
        "votes of neighbours": cf.vote(cosines, codes, count)[0],
        "regression": cf.predict(fitted, vectors, known.fold[judged]),
    }
    shares["both"] = (shares["votes of neighbours"] + shares["regression"]) / 2
    return judged, {name: cf._margins(each, known.codes[judged])[0] for name, each in shares.items()}


if __name__ == "__main__":
    main()
