"""Measure quality, with confidence intervals."""

from pathlib import Path
from typing import Annotated, Any

import typer

from decipher_cli.choices import AsJson, Device, Folder, Quiet

EXAMPLES = {
    "index": ("decipher eval index", "decipher eval index -i hospital-a --queries 300 --json"),
    "report": (
        "decipher eval report ./archive -m runs/colipri/model",
        "decipher eval report -m runs/colipri/model --json",
    ),
    "retrieval": (
        "decipher eval retrieval",
        "decipher eval retrieval -i hospital-a --label diagnosis --queries 500 --json",
    ),
    "all": ("decipher eval all", "decipher eval all -i hospital-a -o hospital-a-measured"),
}
REPORT_WORDS = {
    "bleu4": "runs of one to four words that agree",
    "rouge_l": "longest common run of words, in order",
    "meteor": "equal words and stems",
    "findings_f1": "findings affirmed in both",
    "negation": "of findings named in both, the share that both affirm or both deny",
    "side": "of findings affirmed in both, the share on the same side",
}
WORDS = {
    "recall@10": "of the ten nearest that exact search finds, the share that search finds",
    "latency_ms": "from a query's vector to ranked rows, median",
    "effective_rank": "directions that the vectors use, of as many as they have numbers",
    "mean_cosine": "of all pairs; near 1 where an encoder has collapsed",
    "hubness": "skewness of how often a series is among the ten nearest; above 1, a few are near to all",
    "antihubs": "share of series that are nobody's near neighbour",
    "duplicates": "share of series with a twin, by a cosine above 0.9999",
}


def index(
    index: Folder = None,
    queries: Annotated[int, typer.Option(min=10, help="Queries of each kind: volumes, blends of two, tags.")] = 100,
    seed: Annotated[int, typer.Option(help="Another seed, other queries.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How good an index is: recall against exact search, latency, effective rank, hubness, duplicates."""
    from decipher_cli.output import progress, put_json
    from decipher_cli.places import index_folder
    from index.quality import measure
    from index.store import Index

    opened = Index.open(index_folder(index))
    with progress() as bars:
        found = measure(opened, queries, seed, lambda done, of: bars("measure", done, of))
    if as_json:
        put_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from decipher_cli.output import paper, say, table

    latency = {name: f"{taken['median']:.2f} ms" for name, taken in found["latency_ms"].items()}
    figures = {
        "recall@10": _interval(found["recall@10"]),
        "latency_ms": ", ".join(f"{name} {value}" for name, value in latency.items()),
        "effective_rank": f"{found['effective_rank']:.1f} of {found['dim']}",
        "mean_cosine": f"{found['mean_cosine']:.3f}",
        "hubness": f"{found['hubness']['skewness']:.2f}",
        "antihubs": f"{found['hubness']['antihubs']:.3f}",
        "duplicates": _interval(found["duplicates"]),
    }
    shown = table("figure", "value", "what it is")
    for name, value in figures.items():
        shown.add_row(name, value, WORDS[name])
    paper().print(shown)
    kind = ", ".join(f"{name} {value}" for name, value in found["nearest"].items())
    say(f"{found['series']} series; nearest.faiss: {kind}. Intervals: 95 %. Spread of {found['sample']} series.")


def report(
    place: Annotated[
        Path | None, typer.Argument(metavar="[INDEX|ARCHIVE]", help="Series with reports. Default: decipher-index.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("-m", "--model", help="Model folder that writes. Default: the index's.")
    ] = None,
    reports: Annotated[Path | None, typer.Option(help="Table of reports to join.")] = None,
    beams: Annotated[int, typer.Option(min=1, help="Texts kept while searching; 1 is greedy.")] = 1,
    most: Annotated[int, typer.Option(min=2, help="Series that are read, evenly chosen.")] = 500,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How good written reports are: words and findings, beside the nearest real report of another patient.

    Series that the model was trained on flatter it: keep an archive apart for this.
    """
    from decipher_cli.output import progress, put_json, say
    from decipher_cli.places import index_folder
    from index.contents import contents_of
    from index.embed import device_for
    from training.reporting import Writing, evaluate_reports, writing_model

    target = place or index_folder(None)
    with progress() as bars:
        contents = contents_of(target, reports=reports, progress=lambda done, of: bars("scan", done, of))
        for note in contents.notes:
            say(note)
        loaded = writing_model(str(model) if model else contents.model, device_for(device))
        found = evaluate_reports(loaded, contents, Writing(beams), most, lambda done, of: bars("write", done, of))
    for line in found["unread"]:
        say(f"not read: {line}")
    if as_json:
        put_json(found)
    else:
        _show_reports(found)


def _show_reports(found: dict[str, Any]) -> None:
    from decipher_cli.output import paper, say, table
    from training.report_scores import METEOR_NOTE

    shown = table("figure", "written", "nearest real report", "gain", "what it is")
    for row in found["figures"]:
        shown.add_row(row["metric"], *(_or_none(row[name]) for name in ("written", "nearest", "gain")),
                      REPORT_WORDS[row["metric"]])  # fmt: skip
    paper().print(shown)
    say(f"{found['series']} series of {found['patients']} patients; 95 % intervals resample patients. {METEOR_NOTE}")


def _or_none(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.2f}"
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def _interval(share: dict[str, float]) -> str:
    return f"{share['value']:.3f} ({share['low']:.3f} to {share['high']:.3f})"


def retrieval(
    index: Folder = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Default: sequence, body_region, and both together.")
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Most queries of each kind.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed, other queries.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """How well reports find volumes, volumes reports, and volumes each other: by label, and by patient.

    recall@k is the share of queries with something relevant among the first k. A label is looked for among other
    patients alone. Beside each figure stands what random order would give, and, where search is not exact, what search
    finds. Intervals resample patients. Series that the model was trained on flatter it.
    """
    from decipher_cli.evaluated import show_retrieval
    from decipher_cli.output import progress, put_json, say
    from decipher_cli.places import index_folder
    from index.store import Index
    from training.retrieval import measure_retrieval

    with progress() as bars:
        found = measure_retrieval(Index.open(index_folder(index)), label, queries, seed, bars)
    for note in found.notes:
        say(note)
    if as_json:
        for row in found.rows:
            put_json(row)
    else:
        show_retrieval(found.rows)


def all(
    index: Folder = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to write. Default: INDEX-eval, beside the index.")
    ] = None,
    queries: Annotated[int, typer.Option(min=10, help="Most queries of each kind.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed, other queries and folds.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Everything at once in one folder: retrieval, the index, probes with baselines, health of the vectors.

    Tables as Parquet and Markdown, plots as PNG and SVG, and a README; no patient is named in it. An earlier evaluation
    in that folder is replaced.
    """
    from decipher_cli.evaluated import check_folder, write
    from decipher_cli.output import progress, put_json, say
    from decipher_cli.places import index_folder
    from index.store import Index
    from training.evaluation import evaluate

    opened = Index.open(index_folder(index))
    home = opened.folder.absolute()
    folder = output.absolute() if output else home.with_name(f"{home.name}-eval")
    check_folder(folder)
    with progress() as bars:
        evaluation = evaluate(opened, queries, seed, bars)
    files = write(evaluation, folder)
    for sentence in evaluation.found["left_out"]:
        say(sentence)
    if as_json:
        put_json({"folder": str(folder), "files": files, **evaluation.found})
    else:
        _show_folder(folder, files)


def _show_folder(folder: Path, files: list[str]) -> None:
    from decipher_cli.output import put, say

    for name in files:
        put(str(folder / name))
    say(f"{len(files)} files. Begin with {folder / 'README.md'}")


VERBS = (index, report, retrieval, all)
