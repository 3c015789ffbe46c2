"""The README tells the truth: its commands parse, its blocks are what CI runs, every reject code is explained."""

import re
import shlex
from pathlib import Path

import typer.main

from decipher_cli import main as cli
from index.ledger import CODES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def shell_blocks() -> list[list[str]]:
    return [block.strip().splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S)]


def commands() -> list[list[str]]:
    """Every `decipher ...` that the README tells people to type."""
    lines = [line for block in shell_blocks() for line in block]
    lines += re.findall(r"^\$ (decipher .*)$", README, re.M)
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True) for part in parts if re.match(r"(\S*/)?decipher\b", part)]


def test_the_two_commands_are_those_that_ci_runs() -> None:
    first = shell_blocks()[0]
    assert first == [
        'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/decipher demo',
        ".venv/bin/pytest",
    ]
    assert "README's first shell block" in (ROOT / ".ci/run").read_text()


def test_every_command_of_the_readme_parses() -> None:
    if not cli.app.registered_commands:
        cli._register()
    group = typer.main.get_command(cli.app)
    found = commands()
    assert {words[1] for words in found} >= {"demo", "encode", "search", "probe", "train"}
    for words in found:
        command = group.commands[words[1]]  # type: ignore[attr-defined]
        command.make_context(words[1], words[2:], resilient_parsing=False).close()


def test_every_command_is_described() -> None:
    for name in cli.COMMANDS:
        assert f"decipher {name}" in README


def test_every_reject_code_is_explained() -> None:
    for code, reason in CODES.items():
        assert f"| `{code}` | {reason} |" in README


def test_the_tree_names_what_is_there() -> None:
    for name in re.findall(r"^    (\w+\.py) ", README, re.M):
        assert list(ROOT.rglob(name)), name
