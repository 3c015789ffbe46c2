"""Zero-shot classification: which of the prompts fits each series best, by its pixels alone.

Each PROMPT is a class; several wordings of one class are parted by | and averaged.
"""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = (
    'decipher classify "T1-weighted MRI" "T2-weighted MRI" "FLAIR MRI"',
    'decipher classify "MRI of the brain|head MRI" "MRI of the knee" --json',
)


def classify(
    prompts: Annotated[list[str], typer.Argument(help="One prompt a class, at least two.")],
    index: Annotated[Path | None, typer.Option("-i", "--index", help="Index folder. Default: decipher-index.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a series.")] = False,
) -> None:
    from decipher_cli.output import paper, put_json, say, table
    from decipher_cli.places import index_folder
    from decipher_cli.query import QueryEncoder
    from index.search import classify as classify_index
    from index.store import Index
    from models.errors import DecipherError

    if len(prompts) < 2 or len(set(prompts)) < len(prompts) or not all(p.strip() for p in prompts):
        raise DecipherError(
            "Classes need two or more different prompts.", 'decipher classify "T1-weighted MRI" "T2-weighted MRI"'
        )
    opened = Index.open(index_folder(index))
    model = QueryEncoder(opened).model
    wordings = [[w.strip() for w in prompt.split("|") if w.strip()] for prompt in prompts]
    texts = [model.encode_texts(words).numpy() for words in wordings]
    probabilities = classify_index(opened, texts, model.scale.item())
    best = probabilities.argmax(axis=1)
    where = opened.columns(["series_id", "path", "part"])
    if as_json:
        for row, record in enumerate(where.iter_rows(named=True)):
            said = {p: round(float(v), 6) for p, v in zip(prompts, probabilities[row], strict=True)}
            put_json({**record, "label": prompts[best[row]], "probabilities": said})
        return
    shown = table("label", "series", "mean probability", "surest", right=("series", "mean probability"))
    for column, prompt in enumerate(prompts):
        mine = best == column
        if mine.any():
            surest = int((probabilities[:, column] * mine).argmax())
            mean = f"{probabilities[mine, column].mean():.2f}"
            shown.add_row(prompt, str(mine.sum()), mean, where["path"][surest])
    paper().print(shown)
    say("--json gives the label and the probabilities of each series.")
