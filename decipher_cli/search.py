"""Find series by words, by example, or by both.

QUERY is text, the path of a volume (NIfTI file, DICOM file or folder), a series_id of the index, or - for standard input.
Scores: cosine similarity, or with --evidence both (the default for text) the mean of the standardised similarities to the
pixels and to the tags.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from index.search import Hit

EXAMPLES = (
    'decipher search "T2 hyperintense lesion"',
    'decipher search "FLAIR" --where "age_years > 60" -k 50 --json',
    "decipher search ./new-patient/T1.nii.gz --by patient",
)
KEYS = (
    "series_id", "study_id", "patient_id", "path", "part", "sequence", "body_region", "plane", "contrast", "age_years", "sex",
)  # fmt: skip


def search(
    query: Annotated[str | None, typer.Argument(help="Text, a path, a series_id, or - for standard input.")] = None,
    index: Annotated[Path | None, typer.Option("-i", "--index", help="Index folder. Default: decipher-index.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="series_id or path of an example; may be repeated.")] = None,
    unlike: Annotated[
        list[str] | None, typer.Option("--not", help="Text, series_id or path to stay away from; may be repeated.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="SQL condition on the catalogue; may be repeated.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many hits.")] = 10,
    by: Annotated[str, typer.Option(help="series, study or patient: the best series of each.")] = "series",
    evidence: Annotated[str, typer.Option(help="What text is matched with: both, pixels or tags.")] = "both",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a hit.")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Only series ids, one a line.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write an offline page with pictures.")] = None,
) -> None:
    from decipher_cli.output import put, put_json, say
    from decipher_cli.places import index_folder
    from decipher_cli.query import Asked, QueryEncoder
    from index.search import search as search_index
    from index.store import Index
    from models.errors import DecipherError

    if query is None and not like and not where and not unlike:
        raise DecipherError("Nothing is asked for.", 'Say what to look for: decipher search "T2 hyperintense lesion"')
    opened = Index.open(index_folder(index))
    encoder = QueryEncoder(opened)
    asked = Asked() if query is None else encoder.ask(query)
    against = [encoder.ask(one) for one in unlike or []]
    hits = search_index(
        opened,
        asked.texts[0] if asked.texts else None,
        like=[*asked.volumes, *(encoder.must_be_example(one) for one in like or [])],
        unlike=[v for one in against for v in one.volumes],
        unlike_text=[v for one in against for v in one.texts],
        where=where or [],
        evidence=evidence,
        k=k,
        by=by,
    )
    if html:
        from decipher_cli.gallery import write_gallery

        write_gallery(html, hits, asked.said, opened, where or [])
        say(f"{len(hits)} hits on one page: {html}")
    if ids:
        for hit in hits:
            put(hit.record["series_id"])
    elif as_json:
        for hit in hits:
            put_json({"rank": hit.rank, "score": hit.score} | {key: hit.record.get(key) for key in KEYS})
    elif not html:
        _show(hits, len(opened))


def _show(hits: "list[Hit]", total: int) -> None:
    from decipher_cli.output import number, paper, say, table

    shown = table("#", "score", "sequence", "region", "plane", "patient", "path", right=("#", "score"))
    for hit in hits:
        r = hit.record
        words = [r.get(name) or "-" for name in ("sequence", "body_region", "plane")]
        path = f"{r['path']}{' [' + r['part'] + ']' if r.get('part') else ''}"
        age = f"{r['age_years']:.0f}" if r.get("age_years") is not None else ""
        patient = f"{r.get('sex') or ''} {age}".strip() or "-"
        shown.add_row(str(hit.rank), number(hit.score, 2), *words, patient, path)
    paper().print(shown)
    say(_cohort([hit.record for hit in hits], total))


def _cohort(records: list[dict[str, Any]], total: int) -> str:
    """Who was found, in one line."""
    patients = len({r.get("patient_id") or r["series_id"] for r in records})
    ages = [r["age_years"] for r in records if r.get("age_years") is not None]
    span = f", ages {min(ages):.0f} to {max(ages):.0f}" if ages else ""
    return f"{len(records)} of {total} series, {patients} patients{span}"
