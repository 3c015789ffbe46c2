"""Series whose pixels and tags disagree, as hits: every way of showing hits shows them too."""

import numpy as np
import polars as pl
import typer

from decipher_cli.query import Question
from index.conflicts import FIELDS, conflicts
from index.filter import matching
from index.search import Hit
from index.store import Index


def conflicting(index: Index, asked: Question, k: int) -> tuple[list[Hit], str]:
    """The k largest disagreements, as scores, with what the pixels suggest in the record; and a sentence on what was judged."""
    if asked.ranks or asked.cohort:
        raise typer.BadParameter("it takes --where, no query and no cohort", param_hint="--conflicts")
    passing = matching(index, asked.where)
    told = [conflicts(index, field, k, None if passing is None else passing.nonzero()[0]) for field in FIELDS]
    judged = [f"{one.judged} by {field}" for field, one in zip(FIELDS, told, strict=True) if one.values]
    if not judged:
        return [], "No sequence and no region has series of enough patients to tell what it looks like."
    found = pl.concat([one.found for one in told]).sort("disagreement", descending=True, maintain_order=True)[:k]
    row_of = index.row_of(found["series_id"])
    records = index.rows(np.array([row_of[one] for one in found["series_id"]], dtype=np.int64))
    more = found.select("field", "tagged", "suggested", "votes", "of", "neighbours").iter_rows(named=True)
    pairs = zip(found["disagreement"], records.iter_rows(named=True), more, strict=True)
    hits = [Hit(rank, score, record | {"conflict": own}) for rank, (score, record, own) in enumerate(pairs, start=1)]
    remark = f"Series held against those of other patients: {', '.join(judged)}."
    return hits, f"{remark} The score is the disagreement, up to 1."
