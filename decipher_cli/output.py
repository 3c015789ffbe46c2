"""How the program speaks: data on stdout, talk on stderr, progress on terminals only.

rich is imported where it is used; a closed pipe ends the program quietly.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 160


@cache
def talk() -> "Console":
    """The console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


@cache
def paper() -> "Console":
    """The console on stdout: as wide as the terminal; in a pipe or a file, wide enough that nothing is folded."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def hush(quiet: bool) -> None:
    """Whether to keep quiet from now on: data and errors alone."""
    talk().quiet = quiet


def say(text: str = "") -> None:
    """A line on stderr, after whatever stdout still holds, so that the two read in order."""
    sys.stdout.flush()
    talk().print(text)


def say_error(message: str, hint: str = "") -> None:
    """What went wrong in one sentence, and how to go on; also to one who wants it quiet."""
    hush(False)
    talk().print(f"Error: {message}", style="bold red")
    if hint:
        talk().print(f"Hint: {hint}")


def put_json(row: Mapping[str, Any]) -> None:
    """One JSON object a line on stdout."""
    sys.stdout.write(json.dumps(row, default=str, allow_nan=False) + "\n")


def put(text: str) -> None:
    """A line of data on stdout."""
    sys.stdout.write(text + "\n")


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> "Table":
    """A plain table that fits a narrow terminal; `right` names the columns set flush right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, title_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def number(value: float | None, digits: int = 2) -> str:
    """A number as people read it; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


class Progress:
    """Call it with (what, done, of): a bar with rate and time left on a terminal, nothing elsewhere."""

    def __init__(self, bars: Any) -> None:
        self.bars = bars
        self.tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, of: int, note: str = "") -> None:
        if self.bars is None:
            return
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, total=of, note="")
        self.bars.update(self.tasks[what], completed=done, total=of, note=note)


def many(count: int, noun: str) -> str:
    """A count and its noun, in the plural but for one."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars on stderr for as long as the block runs."""
    if not talk().is_terminal or talk().quiet:
        yield Progress(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("{task.fields[note]}"), console=talk(), transient=True) as bars:
        yield Progress(bars)
