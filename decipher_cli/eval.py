"""Measure quality, with confidence intervals."""

from typing import Annotated, Any

import typer

from decipher_cli.choices import AsJson, Folder, Quiet

EXAMPLES = {"index": ("decipher eval index", "decipher eval index -i hospital-a --queries 300 --json")}
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


def _interval(share: dict[str, float]) -> str:
    return f"{share['value']:.3f} ({share['low']:.3f} to {share['high']:.3f})"


VERBS = (index,)
