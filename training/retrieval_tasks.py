"""What retrieval is asked: kinds of query, each with its pool and what of it is relevant.

- text_to_volume: each distinct report; relevant are all series of its studies, among all series of the index.
- volume_to_text: each series of a study with a report; relevant are the reports of its study, among all distinct ones.
  A study is what one patient has of it, since a folder of NIfTI files that is taken for a study may hold several patients.
- label:COLUMN: each labelled series; relevant are those with its value. Series of its own patient are taken out of the pool:
  to count them as found would reward knowing the person, to count them as wrong would punish knowing the label.
- identity: each series of a patient with several; relevant are the patient's others, but for parts of the same series.
- identity_other_sequence: the same, the patient's series of the query's own sequence or of an unknown one taken out.

Queries without anything relevant are left out, and counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl

from index.store import Index
from models.errors import DecipherError
from training.target import MISSING

LABELS = (("sequence",), ("body_region",), ("sequence", "body_region"))
MOST_REPORTS = 5000
"""distinct reports that are encoded, drawn by the seed: an hour of a slow processor is too long to wait"""
TEXTS_AT_ONCE = 256
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Task:
    """One kind of query. queries (m, E) of the patients owners (m,); pool (n, E).

    judge: query numbers (b,) -> relevant and hidden, bool (b, n) each; hidden: not in that query's pool. rows: live rows
    (n,) of the index that the pool is, None where it is of texts.
    """

    kind: str
    queries: np.ndarray
    owners: np.ndarray
    pool: np.ndarray
    judge: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    rows: np.ndarray | None
    left_out: dict[str, int]


def tasks_of(
    index: Index, records: pl.DataFrame, who: np.ndarray, label: str | None, seed: int, progress: Progress
) -> tuple[list[Task], list[str]]:
    """What can be asked of the index, and a sentence on each kind that cannot."""
    found, notes = _text_tasks(index, records, who, seed, progress)
    tried: list[Task | str] = [_label_task(index, records, who, one) for one in ([(label,)] if label else LABELS)]
    if label and isinstance(tried[0], str):
        raise DecipherError(tried[0], "Name another column, or bring labels of more patients.")
    tried += [_identity_task(index, records, strict) for strict in (False, True)]
    found += [one for one in tried if isinstance(one, Task)]
    return found, notes + [one for one in tried if isinstance(one, str)]


def _label_task(index: Index, records: pl.DataFrame, who: np.ndarray, columns: Sequence[str]) -> Task | str:
    texts = [pl.col(name).cast(pl.String).str.strip_chars() for name in columns]
    known = [pl.when(~one.str.to_lowercase().is_in(list(MISSING))).then(one) for one in texts]
    frame = records.select(pl.concat_str(known, separator=" / ").alias("label"), who=pl.Series(who)).with_row_index()
    frame = frame.drop_nulls("label").with_columns(people=pl.col("who").n_unique().over("label"))
    name, asked = "+".join(columns), (frame["people"] >= 2).to_numpy()
    if frame["label"].n_unique() < 2 or not asked.any():
        return f"label:{name} is left out: it takes two values, and one that two patients have."
    rows, label, own = frame["index"].to_numpy(), _codes(frame["label"]), _codes(frame["who"])

    def judge(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        now = np.flatnonzero(asked)[numbers]
        hidden = own[now][:, None] == own
        return (label[now][:, None] == label) & ~hidden, hidden

    left = {"without_label": len(who) - len(rows), "value_of_one_patient": int((~asked).sum())}
    return _task(index, f"label:{name}", rows, asked, who, judge, left)


def _identity_task(index: Index, records: pl.DataFrame, strict: bool) -> Task | str:
    """strict: only series of another sequence than the query's are relevant."""
    own_series = pl.when(pl.col("part").is_null()).then("series_id").otherwise(pl.concat_str("study_id", "path"))
    frame = records.with_columns(origin=own_series.fill_null(pl.col("series_id"))).with_row_index()
    frame = frame.drop_nulls("patient_id").with_columns(
        several=pl.col("sequence" if strict else "origin").drop_nulls().n_unique().over("patient_id") >= 2
    )
    kind, sequence = "identity_other_sequence" if strict else "identity", _codes(frame["sequence"])
    unknown = frame["sequence"].is_null().to_numpy()
    asked = frame["several"].to_numpy() & ~(unknown & strict)
    if not asked.any():
        what = "series of several sequences" if strict else "several series"
        return f"{kind} is left out: no known patient has {what}."
    rows, own, origin = frame["index"].to_numpy(), _codes(frame["patient_id"]), _codes(frame["origin"])

    def judge(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        now = np.flatnonzero(asked)[numbers]
        same, hidden = own[now][:, None] == own, origin[now][:, None] == origin
        if strict:
            hidden |= same & ((sequence[now][:, None] == sequence) | unknown)
        return same & ~hidden, hidden

    left = {"without_patient": records.height - len(rows), "nothing_else_of_patient": int((~asked).sum())}
    who = np.array(records["patient_id"].fill_null(""))
    return _task(index, kind, rows, asked, who, judge, left)


def _task(
    index: Index,
    kind: str,
    rows: np.ndarray,
    asked: np.ndarray,
    who: np.ndarray,
    judge: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    left_out: dict[str, int],
) -> Task:
    """rows (n,) of the index are the pool, those `asked` bool (n,) the queries; who: of all rows of the index."""
    pool = index.vectors if len(rows) == len(index) else index.vectors[rows]
    return Task(kind, pool[asked], who[rows][asked], pool, judge, rows, left_out)


def _codes(column: pl.Series) -> np.ndarray:
    """int32 (n,): equal where the values are; null is a value."""
    return column.rank("dense").fill_null(0).cast(pl.Int32).to_numpy()


def _text_tasks(
    index: Index, records: pl.DataFrame, who: np.ndarray, seed: int, progress: Progress
) -> tuple[list[Task], list[str]]:
    """Reports and volumes in both directions; nothing but a sentence where there are no reports or no model."""
    words = pl.col("report").str.replace_all(r"\s+", " ").str.strip_chars()
    frame = records.select(words, study=pl.coalesce("study_id", "series_id"), who=pl.Series(who)).with_row_index()
    frame = frame.with_columns(study=pl.concat_str("study", "who", separator=" "))
    told = frame.filter(pl.col("report").str.len_chars() > 0)
    texts = told["report"].unique().sort().to_list()
    if len(texts) < 2:
        return [], [f"Text parts are left out: {index.folder} has {'one report' if texts else 'no reports'}."]
    if len(texts) > MOST_REPORTS:
        drawn = np.random.default_rng(seed).choice(len(texts), MOST_REPORTS, replace=False)
        texts = [texts[number] for number in np.sort(drawn)]
    try:
        vectors, cut = report_vectors(index, texts, partial(progress, "reports"))
    except DecipherError as error:
        return [], [f"Text parts are left out: {error.message}"]
    notes = [f"{cut} of {len(texts)} reports are longer than the encoder reads: their beginning counts."] if cut else []
    numbered = pl.DataFrame({"report": texts, "text": np.arange(len(texts))})
    pairs = told.join(numbered, on="report").select("text", "study").unique()
    links = pairs.join(frame.select("index", "study"), on="study")
    tellers = told.unique("report", keep="first", maintain_order=True)
    owners = np.array(numbered.join(tellers, on="report", maintain_order="left")["who"])
    left = {"reports_not_drawn": told["report"].n_unique() - len(texts)}
    to_volume = _linked(links, "text", "index", len(index))
    forward = Task("text_to_volume", vectors, owners, index.vectors, to_volume, np.arange(len(index)), left)
    rows = links["index"].unique().sort().to_numpy()
    at = np.zeros(len(index), dtype=np.int64)
    at[rows] = np.arange(len(rows))
    back = links.with_columns(query=pl.Series(at[links["index"].to_numpy()]))
    without = {"without_report": len(index) - len(rows)}
    to_text = _linked(back, "query", "text", len(texts))
    backward = replace(
        forward,
        kind="volume_to_text",
        queries=index.vectors[rows],
        owners=who[rows],
        pool=vectors,
        judge=to_text,
        rows=None,
        left_out=without | left,
    )
    return [forward, backward], notes


def _linked(
    links: pl.DataFrame, query: str, target: str, size: int
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A `judge` by a table of which targets, of `size`, are relevant to which query; nothing is hidden."""
    sorted_links = links.sort(query)
    asked, wanted = sorted_links[query].to_numpy(), sorted_links[target].to_numpy()

    def judge(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        relevant = np.zeros((len(numbers), size), dtype=bool)
        for line, number in enumerate(numbers):
            first, last = np.searchsorted(asked, [number, number + 1])
            relevant[line, wanted[first:last]] = True
        return relevant, np.zeros_like(relevant)

    return judge


def report_vectors(index: Index, texts: list[str], progress: Callable[[int, int], None]) -> tuple[np.ndarray, int]:
    """Unit vectors float32 (m, E) of texts by the index's own model, and how many texts are longer than it reads.

    Errors: DecipherError where the model is not there or is not the one of the index.
    """
    from models.decipher import load
    from models.folder import passport
    from training.views import text_vectors

    name = index.card.get("model")
    index.check_passport(passport(name))
    model, parts = load(name), []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        now = texts[start : start + TEXTS_AT_ONCE]
        parts.append(text_vectors(now, lambda block: model.encode_texts(block), index.dim).numpy())
        progress(min(start + TEXTS_AT_ONCE, len(texts)), len(texts))
    return np.concatenate(parts), sum(model.text.is_cut(text) for text in texts)
