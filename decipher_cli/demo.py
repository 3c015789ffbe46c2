"""The whole way in a minute: make a small archive of digital patients, encode it, search it, probe it, show it.

Everything is real but the patients: they come from signal equations, so nothing is downloaded and nobody is shown.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = (
    "decipher demo",
    "decipher demo ./try-it --patients 40",
)
QUERY = "FLAIR MRI of the brain with multiple sclerosis lesions"


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to make; it must not exist or be an earlier demo.")] = Path(
        "decipher-demo"
    ),
    patients: Annotated[int, typer.Option(min=8, help="How many digital patients.")] = 16,
    seed: Annotated[int, typer.Option(help="Another seed, other patients.")] = 0,
) -> None:
    from decipher_cli.classify import classify
    from decipher_cli.encode import encode
    from decipher_cli.output import progress, say
    from decipher_cli.probe import probe
    from decipher_cli.search import search
    from index.search import search as search_index
    from index.store import Index
    from training.phantom.archive import make_archive

    archive, index, page = folder / "archive", folder / "decipher-index", folder / "cohort.html"
    if (archive / "labels.csv").is_file():
        say(f"{archive} is there already.")
    else:
        with progress() as bars:
            made = make_archive(archive, patients=patients, seed=seed, progress=lambda done, of: bars("make", done, of))
        say(f"1. An archive of {patients} digital patients: {made['series']} series in DICOM and NIfTI -> {archive}")
    _step("2. Encode it", f"decipher encode {archive} -i {index}")
    encode(archive, index)
    _step("3. Search it by words", f'decipher search "{QUERY}" -i {index} -k 5')
    search(QUERY, index, k=5)
    example = search_index(Index.open(index), where=["body_region = 'knee'"], k=1).hits
    if example:
        series_id = example[0].record["series_id"]
        _step("4. Search it by example, a knee", f"decipher search --like {series_id} -i {index} -k 5")
        search(None, index, like=[series_id], k=5)
    prompts = ["T1-weighted MRI", "T2-weighted MRI", "FLAIR MRI"]
    _step("5. Ask the pixels alone what the sequence is", f"decipher classify {shlex.join(prompts)} -i {index}")
    classify(prompts, index)
    _step("6. Probe the vectors for the body region", f"decipher probe --task body_region -i {index}")
    probe("body_region", index)
    _step("7. A page with pictures", f'decipher search "{QUERY}" -i {index} -k 24 --html {page}')
    search(QUERY, index, k=24, html=page)
    say("")
    say(f"Open {page} in a browser. Then go on with your own archive:")
    for command in (
        "decipher encode /path/to/archive",
        'decipher search "T2 hyperintense lesion"',
        "decipher train --help",
    ):
        say(f"  {command}")


def _step(what: str, command: str) -> None:
    from decipher_cli.output import say

    say("")
    say(f"{what}:  {command}")
