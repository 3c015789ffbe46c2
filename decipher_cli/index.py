"""Keep an index in order: verify, remove, compact, build, merge."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from decipher_cli.choices import AsJson, Folder, Quiet

EXAMPLES = {
    "verify": ("decipher index verify", "decipher index verify -i hospital-a --json"),
    "remove": (
        "decipher index remove 0371d13e4fff6f6e",
        "decipher index remove --where \"body_region = 'knee'\" --dry-run",
        "decipher index remove --patient PAT-0042",
        'decipher search "localiser" -k 50 --ids | decipher index remove -',
    ),
    "compact": ("decipher index compact", "decipher index compact -i hospital-a"),
    "build": (
        "decipher index build",
        'decipher index build --factory "HNSW32"',
        "decipher index build --factory exact",
    ),
    "merge": (
        "decipher index merge hospital-a hospital-b -o both",
        "decipher index merge 2024 2025 2026 -o all --json",
    ),
}


def verify(index: Folder = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Read all of an index and hold it against its checksums: nothing is changed."""
    from decipher_cli.output import many, progress, put, put_json, say
    from decipher_cli.places import index_folder
    from index.store import Index
    from index.verify import verify as verify_index
    from models.errors import DecipherError

    opened = Index.open(index_folder(index))
    with progress() as bars:
        wrong = verify_index(opened, lambda done, of: bars("verify", done, of))
    if as_json:
        put_json({"series": len(opened), "segments": len(opened.segments), "commit": opened.commit, "wrong": wrong})
    else:
        for one in wrong:
            put(one)
    if wrong:
        what = f"{len(wrong)} things are" if len(wrong) > 1 else "One thing is"
        raise DecipherError(f"{what} wrong in {opened.folder}.", "Restore it from a copy, or encode the archive anew.")
    say(f"{len(opened)} series in {many(len(opened.segments), 'segment')}, every checksum holds.")


def remove(
    series: Annotated[
        list[str] | None, typer.Argument(help="series_id, or - for one a line on standard input.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="SQL condition on the catalogue; may be repeated.")] = None,
    patient: Annotated[
        list[str] | None, typer.Option(help="patient_id, or the identifier in the archive; may be repeated.")
    ] = None,
    index: Folder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take series out of an index: by id, by condition, by patient.

    Their bytes stay until the index is compacted, and they come back with the next encode while the archive has them.
    """
    from decipher_cli.output import put_json, say
    from decipher_cli.places import index_folder
    from index import removal
    from index.store import Index
    from models.errors import DecipherError

    asked = [one for word in series or [] for one in (sys.stdin.read().split() if word == "-" else [word])]
    if not asked and not where and not patient:
        raise DecipherError("Nothing is named to be removed.", "Name a series_id, --where or --patient.")
    opened = Index.open(index_folder(index))
    ids = removal.chosen(opened, asked, where or [], patient or [])
    removed = len(ids) if dry_run else removal.remove(opened, ids)
    if as_json:
        put_json({"removed": removed, "dry_run": dry_run, "series": len(opened), "ids": ids})
    elif dry_run:
        say(f"{removed} of {len(opened)} series would be removed.")
    else:
        say(f"{removed} series removed, {len(opened)} left. Their bytes go with: decipher index compact")


def compact(index: Folder = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Write an index anew as one segment, without what was removed."""
    from decipher_cli.output import put_json, say
    from decipher_cli.places import index_folder
    from index import removal
    from index.nearest import refresh
    from index.store import Index

    opened = Index.open(index_folder(index))
    before = size_of(opened.folder)
    with opened.writing():
        removal.compact(opened)
        refresh(opened, forget=True)
    after = size_of(opened.folder)
    if as_json:
        put_json({"series": len(opened), "bytes_before": before, "bytes": after})
    else:
        say(f"{len(opened)} series in one segment, {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now.")


def build(
    index: Folder = None,
    factory: Annotated[str, typer.Option(help='auto, exact, or a FAISS factory string such as "HNSW32".')] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Build the file for quick searches (nearest.faiss) anew; the vectors are not changed."""
    from decipher_cli.output import put_json, say
    from decipher_cli.places import index_folder
    from index.nearest import rebuild
    from index.store import Index

    opened = Index.open(index_folder(index))
    built = rebuild(opened, factory)
    if as_json:
        put_json({"series": len(opened), **built})
    else:
        say(", ".join(f"{name} {value}" for name, value in built.items()))


def merge(
    indexes: Annotated[list[Path], typer.Argument(help="Two or more index folders.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new index folder.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make one index of several, without their archives. All must be of one encoder; they stay as they are."""
    from dataclasses import asdict

    from decipher_cli.output import progress, put_json, say
    from index.merge import merge as merge_indexes

    with progress() as bars:
        made = merge_indexes(indexes, output, lambda done, of: bars("merge", done, of), say)
    if not made.one_key:
        say("Patients are hashed with different keys: the same person in two of them counts as two.")
    if made.twice:
        say(f"{made.twice} series stood in more than one index and are kept once.")
    if as_json:
        put_json({**asdict(made), "index": str(output)})
    else:
        say(f"{made.series} series of {len(indexes)} indexes -> {output}")


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, as far as nobody deletes them meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


VERBS = (verify, remove, compact, build, merge)
