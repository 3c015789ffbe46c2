"""`decipher`: the commands, and what happens when something goes wrong.

Decisions: every command's heavy imports stand in its body, so that help and usage errors answer at once. Nothing of ours is
imported before main runs, so that a hidden package can be told. Exit codes: 0
done, 1 an error told in one sentence with a hint, 2 wrong usage, 3 something was rejected under --strict, 130 Ctrl-C.
"""

import os
import signal
import sys
from functools import cache
from importlib import import_module
from inspect import getdoc
from pathlib import Path

import typer

COMMANDS = ("demo", "scan", "encode", "search", "probe", "predict", "classify", "report", "train", "info")
GROUPS = ("index", "eval", "decode")
PACKAGES = ("models", "index", "training", "decipher_cli")

app = typer.Typer(
    name="decipher",
    help="Find patients in archives of MRI: train, encode, search and probe with a 3D vision-language encoder.",
    epilog='Start with: decipher demo   or: decipher encode ./archive && decipher search "T2 hyperintense lesion"',
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def version_option(version: bool = typer.Option(False, "--version", help="Print the version and end.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"decipher {installed('decipher-mri')}")
        raise typer.Exit()


@cache
def _register() -> None:
    for name in COMMANDS:
        module = import_module(f"decipher_cli.{name}")
        app.command(name, help=_help(module), epilog=_epilog(module.EXAMPLES))(getattr(module, name))
    for name in GROUPS:
        module = import_module(f"decipher_cli.{name}")
        group = typer.Typer(help=_help(module), no_args_is_help=True, rich_markup_mode=None)
        for verb in module.VERBS:
            examples = module.EXAMPLES[verb.__name__]
            group.command(verb.__name__, help=_help(verb), epilog=_epilog(examples))(verb)
        app.add_typer(group, name=name)


def _help(described: object) -> str:
    return getdoc(described) or ""


def _epilog(examples: tuple[str, ...]) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


class Stopped(BaseException):
    """Ctrl-C. Not KeyboardInterrupt, which Typer turns into an unexplained exit code 1."""


def main() -> None:
    """Entry point of `decipher`."""
    from decipher_cli.output import hush, say, say_error

    hush(False)
    before = signal.signal(signal.SIGINT, _stop)
    try:
        _run()
    except Stopped:
        say("Stopped. What was committed stays; the same command goes on from there.")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except ImportError as missing:
        shadowed = _shadowed(missing)
        if not shadowed:
            raise
        say_error(shadowed, "Install decipher in an environment of its own: pipx install decipher-mri")
        sys.exit(1)
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(*signal_and_frame: object) -> None:
    raise Stopped


def _run() -> None:
    from decipher_cli.output import say_error
    from models.errors import DecipherError

    try:
        _register()
        app()
    except DecipherError as error:
        say_error(error.message, error.hint)
        sys.exit(1)


def _shadowed(missing: ImportError) -> str:
    """A sentence when one of our packages is hidden by another of the same name, else nothing."""
    ours = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        module = sys.modules.get(name)
        place = Path(getattr(module, "__file__", None) or ours / name / "__init__.py").resolve().parent.parent
        if place != ours:
            return f"Another package named {name!r} in {place} hides decipher's own ({missing})."
    return ""
