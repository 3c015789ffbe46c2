"""Zero-shot classification: which of the prompts fits each series best, by its pixels alone.

Each PROMPT is a class; several wordings of one class are parted by | and averaged. --against makes each PROMPT a finding
of its own, that holds or does not. --prompts takes either from a YAML file:

\b
  sequence.yaml   T1: [T1-weighted MRI, T1w]
                  T2: [T2-weighted MRI, T2w]
  findings.yaml   lesion: {positive: [a lesion], negative: [no lesion]}
                  tumour: {positive: [a tumour], negative: [no tumour]}

--calibrate names a column of labels (of the index, or of --labels), in which a class goes by its name or one of its
wordings, and a single finding is yes or no. What is printed of the quality is on patients the calibration did not see.
--save keeps the label of each series as a column COLUMN, and how sure it is as COLUMN_probability; search --where and
--export, probe --task and the rest read them like any other. Of several wordings the first is what is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decipher_cli.choices import Folder, Quiet

if TYPE_CHECKING:
    import numpy as np

    from index.prompts import PromptSet
    from index.store import Index
    from models.decipher import Decipher
    from training.calibration import Calibrated

EXAMPLES = (
    'decipher classify "T1-weighted MRI" "T2-weighted MRI" "FLAIR MRI"',
    'decipher classify "MRI of the brain|head MRI" "MRI of the knee" --json',
    'decipher classify "a bright lesion|a tumour" --against "no lesion|normal appearance"',
    'decipher classify "T1|T1-weighted MRI" "T2|T2-weighted MRI" --calibrate sequence --save sequence_guess',
    "decipher classify --prompts findings.yaml --where \"body_region = 'brain'\" --json",
)
LIKELY = 0.5
NONE = "none"


@dataclass(frozen=True)
class Said:
    """What is said of the live `rows` (m,) of an index: probabilities (m, C), in order of the prompts' classes."""

    prompts: "PromptSet"
    rows: "np.ndarray"
    shares: "np.ndarray"

    def labels(self) -> "np.ndarray":
        """Number of the most probable class (m,)."""
        return self.shares.argmax(axis=1)

    def present(self, row: int) -> list[str]:
        """The findings that are more probable than not."""
        return [name for name, share in zip(self.prompts.names, self.shares[row], strict=True) if share > LIKELY]

    def values(self) -> list[str]:
        """What is saved of each row (m,): the most probable class; of findings all that are likely, or none."""
        short = [one.short for one in self.prompts.classes]
        if not self.prompts.findings:
            return [short[one] for one in self.labels()]
        return [", ".join(compress(short, row)) or NONE for row in self.shares > LIKELY]


def classify(
    prompts: Annotated[list[str] | None, typer.Argument(help="One prompt a class, at least two.")] = None,
    index: Folder = None,
    against: Annotated[
        list[str] | None, typer.Option(help="What denies a PROMPT, one for each, in their order.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--prompts", help="YAML file of classes or findings.")] = None,
    calibrate: Annotated[
        str | None, typer.Option("--calibrate", metavar="COLUMN", help="Labels to calibrate the probabilities by.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels to join (CSV, TSV or Parquet).")] = None,
    save: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Keep the labels in the index as this column.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="SQL condition on the catalogue; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a series.")] = False,
    quiet: Quiet = False,
) -> None:
    from decipher_cli.calibrated import calibrated, labels_of, shares_of, tell
    from decipher_cli.output import paper, say
    from decipher_cli.places import index_folder
    from decipher_cli.query import QueryEncoder
    from index.prompts import encoded
    from index.prompts import probabilities as chances
    from index.saving import check_name
    from index.search import evidence
    from index.store import Index

    if labels and not calibrate:
        raise typer.BadParameter("it is for --calibrate", param_hint="--labels")
    asked = _asked(prompts or [], against or [], file)
    opened = Index.open(index_folder(index))
    rows = _rows(opened, where or [])
    if save:
        check_name(opened, save)
    labelled = labels_of(opened, rows, asked, calibrate, labels) if calibrate else None
    model = QueryEncoder(opened).model
    classes = encoded(asked, lambda texts: _vectors(model, texts))
    logits = evidence(opened, classes, model.certain_scale)[rows]
    done = calibrated(logits, labelled, asked) if labelled else None
    said = Said(asked, rows, shares_of(done.calibration, logits, asked) if done else chances(logits, asked.findings))
    if save:
        _save(opened, save, said, model.certain_scale, where or [], (calibrate, labels, done))
    if as_json:
        _put_rows(opened, said)
    else:
        paper().print(_table(opened, said))
    if done and calibrate:
        tell(done, calibrate, as_json)
    if save:
        example = said.values()[0].replace("'", "''")
        say(f"{len(rows)} series labelled: decipher search --where \"{save} = '{example}'\"")
    elif not as_json:
        say("--json gives the label and the probabilities of each series, --save COLUMN keeps them.")


def _vectors(model: "Decipher", texts: list[str]) -> "np.ndarray":
    """Unit vectors (B, E); says so where a text is more than the encoder reads."""
    from decipher_cli.output import say

    for text in texts:
        if model.text.is_cut(text):
            say(f"Longer than what the encoder reads, so its beginning counts: {text}")
    return model.encode_texts(texts).numpy()


def _asked(prompts: Sequence[str], against: Sequence[str], file: Path | None) -> "PromptSet":
    from index.prompts import read_prompts, typed
    from models.errors import DecipherError

    if file is None:
        return typed(prompts, against)
    if prompts or against:
        raise DecipherError("There are prompts, and a file of prompts.", "Give one of them.")
    return read_prompts(file)


def _rows(index: "Index", where: Sequence[str]) -> "np.ndarray":
    """The rows to classify. DecipherError where there are none."""
    import numpy as np

    from index.filter import matching
    from models.errors import DecipherError

    if not len(index):
        raise DecipherError(f"There is no series in {index.folder}.", "Put some in: decipher encode ARCHIVE")
    mask = matching(index, where)
    rows = np.arange(len(index)) if mask is None else np.flatnonzero(mask)
    if not len(rows):
        raise DecipherError(
            f"No series passes --where: {' and '.join(where)}", "See what there is: decipher search --where 1=1"
        )
    return rows


def _put_rows(index: "Index", said: Said) -> None:
    from decipher_cli.output import put_json

    names, best = said.prompts.names, said.labels()
    records = index.columns(["series_id", "path", "part"])[said.rows]
    for row, record in enumerate(records.iter_rows(named=True)):
        shares = dict(zip(names, (round(share, 6) for share in said.shares[row].tolist()), strict=True))
        found = {"labels": said.present(row)} if said.prompts.findings else {}
        put_json({**record, "label": names[best[row]], **found, "probabilities": shares})


def _table(index: "Index", said: Said) -> Any:
    """For each class or finding: the series that have it, how sure that is on average, and the surest of all."""
    from decipher_cli.output import table

    numbers = ("series", "mean probability")
    shown = table("finding" if said.prompts.findings else "label", *numbers, "surest", right=numbers)
    paths, best = index.columns(["series_id", "path"])["path"], said.labels()
    for column, name in enumerate(one.short for one in said.prompts.classes):
        share = said.shares[:, column]
        mine = share > LIKELY if said.prompts.findings else best == column
        if not mine.any():
            shown.add_row(name, "0", "-", "-")
            continue
        surest = paths[int(said.rows[(share * mine).argmax()])]
        shown.add_row(name, str(mine.sum()), f"{share[mine].mean():.2f}", surest)
    return shown


def _save(
    index: "Index",
    name: str,
    said: Said,
    scale: float,
    where: Sequence[str],
    by: "tuple[str | None, Path | None, Calibrated | None]",
) -> None:
    """--save: the values, and where they come from."""
    from datetime import UTC, datetime

    from index.saving import save

    column, labels, done = by
    origin = {
        "by": "classify",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "encoder": {key: index.passport.get(key) for key in ("name", "hash")},
        "prompts": said.prompts.to_json(),
        "scale": scale,
        "where": [*where],
        "series": len(said.rows),
        "calibrated": done and {"column": column, "labels": labels and labels.name, **done.to_json()},
    }
    save(index, name, said.rows, said.values(), said.shares.max(axis=1).astype(float).round(6), origin)
