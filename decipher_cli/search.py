"""Find series by words, by example, or by both.

QUERY is text, the path of a volume (NIfTI file, DICOM file or folder), a series_id of the index, or - for standard input.
The score is the cosine similarity; with --evidence both (the default for text) the mean of the standardised similarities
to the pixels and to the tags. "stands" is the share of pairs of this index that do not belong together and score lower.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decipher_cli.choices import Folder, Quiet

if TYPE_CHECKING:
    from decipher_cli.query import QueryEncoder, Question
    from index.search import Answer, Hit
    from index.store import Index

EXAMPLES = (
    'decipher search "T2 hyperintense lesion"',
    'decipher search "FLAIR" --where "age_years > 60" -k 50 --json',
    "decipher search ./new-patient/T1.nii.gz --by patient --html similar.html --volumes 5",
    'decipher search "brain MRI" --like 0371d13e4fff6f6e --not "contrast agent" --save brains',
    'decipher search --cohort "brains - seen" --export cohort.csv --split 0.7/0.15/0.15',
    "decipher search --conflicts -k 20",
)
OFF_TOPIC = "This does not read like a question about MRI: the hits are what lies nearest all the same."
NOTHING_STANDS_OUT = "Nothing stands out: the best hit scores no higher than series that do not belong together do."


def search(
    query: Annotated[str | None, typer.Argument(help="Text, a path, a series_id, or - for standard input.")] = None,
    index: Folder = None,
    like: Annotated[list[str] | None, typer.Option(help="series_id or path of an example; may be repeated.")] = None,
    unlike: Annotated[
        list[str] | None, typer.Option("--not", help="Text, series_id or path to stay away from; may be repeated.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="SQL condition on the catalogue; may be repeated.")] = None,
    cohort: Annotated[
        str | None, typer.Option(help='A saved cohort, or several: "a & b", "a | b", "a - b". Search is within it.')
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", "--k", min=1, help="How many hits. Default: 10; of a cohort: all.")
    ] = None,
    by: Annotated[str, typer.Option(help="series, study or patient: the best series of each.")] = "series",
    evidence: Annotated[str, typer.Option(help="What text is matched with: both, pixels or tags.")] = "both",
    conflicts: Annotated[
        bool, typer.Option("--conflicts", help="Series whose pixels and tags disagree most, in sequence or region.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a hit.")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Only series ids, one a line.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write an offline page with pictures.")] = None,
    volumes: Annotated[
        int, typer.Option(min=0, help="With --html: put the first N volumes in, to be looked through.")
    ] = 0,
    paths: Annotated[bool, typer.Option("--paths", help="With --html: show where each series lies.")] = False,
    save: Annotated[str | None, typer.Option(help="Keep the hits as a cohort of this name.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write the hits to FILE.csv or FILE.parquet.")] = None,
    split: Annotated[
        str | None, typer.Option(help="With --export: 0.7/0.15/0.15, parts that share no patient.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another split.")] = 0,
    quiet: Quiet = False,
) -> None:
    from decipher_cli.cohorts import check_export, chosen, export_hits, keep, summary
    from decipher_cli.conflicts import conflicting
    from decipher_cli.hits import KEYS, put_hits, put_hits_json, put_ids
    from decipher_cli.output import say
    from decipher_cli.places import index_folder
    from decipher_cli.query import Question, typed
    from index.store import Index

    if (volumes or paths) and html is None:
        raise typer.BadParameter("it is for the page of --html", param_hint="--volumes" if volumes else "--paths")
    opened = Index.open(index_folder(index))
    check_export(export, split, opened)
    within = chosen(opened, cohort) if cohort else None
    asked = Question(typed(query), like or (), unlike or (), where or (), evidence, by, cohort or "", len(opened))
    count = k or (10 if within is None or asked.ranks else max(1, len(within)))
    if conflicts:
        hits, remark = conflicting(opened, asked, count)
    else:
        hits, remark = _found(opened, asked, within, count, None if html else KEYS)
    if remark:
        say(remark)
    if html:
        _show(html, hits, opened, replace(asked, remark=remark), volumes, paths)
    if save:
        keep(opened, save, asked, hits, k)
    if export:
        export_hits(export, opened, hits, split, seed)
    if ids:
        put_ids(hits)
    elif as_json:
        put_hits_json(hits)
    elif not html and not export:
        put_hits(hits)
    say(summary([hit.record for hit in hits], len(opened)))


def _found(
    index: "Index", asked: "Question", within: list[str] | None, k: int, columns: Sequence[str] | None
) -> "tuple[list[Hit], str]":
    """The hits of a question, and what there is to say of them."""
    from decipher_cli.query import QueryEncoder
    from index.search import search as search_index
    from models.errors import DecipherError

    if asked.is_empty:
        raise DecipherError("Nothing is asked for.", 'Say what to look for: decipher search "T2 hyperintense lesion"')
    encoder = QueryEncoder(index)
    positive, negative = encoder.ask([] if asked.query is None else [asked.query]), encoder.ask(asked.unlike)
    answer = search_index(
        index,
        positive.texts[0] if positive.texts else None,
        like=[*positive.volumes, *encoder.examples(asked.like)],
        unlike=negative.volumes,
        unlike_text=negative.texts,
        where=asked.where,
        among=within,
        evidence=asked.evidence,
        k=k,
        by=asked.by,
        columns=columns,
    )
    return answer.hits, _remark(encoder, asked.query if positive.texts else None, answer)


def _remark(encoder: "QueryEncoder", words: str | None, answer: "Answer") -> str:
    """What there is to say of an answer, '' for nothing; words: the query, None where it was no text."""
    from decipher_cli.absence import absent
    from index.background import off_topic

    if words:
        if off_topic(encoder.model, [words])[0]:
            return OFF_TOPIC
        if gone := absent(encoder.model, encoder.index, words, answer.hits):
            return gone
    return NOTHING_STANDS_OUT if answer.nothing_better else ""


def _show(path: Path, hits: "Sequence[Hit]", index: "Index", asked: "Question", volumes: int, paths: bool) -> None:
    from decipher_cli.gallery import write_gallery
    from decipher_cli.output import progress, say

    with progress() as bars:
        notes = write_gallery(
            path, hits, index, asked, volumes=volumes, paths=paths, progress=lambda done, of: bars("volumes", done, of)
        )
    for note in notes:
        say(note)
    say(f"{len(hits)} hits on one page: {path}")
