"""The house: four floors, arrows only downwards, no circle, nothing heavy before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("models", "index", "training", "decipher_cli")
HEAVY = {"torch", "monai", "transformers", "faiss", "sklearn", "scipy", "lightning_fabric"}


def sources() -> list[Path]:
    return [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_no_arrow_points_upwards(path: Path) -> None:
    floor = FLOORS.index(name_of(path).split(".")[0])
    above = {name for name in imports_of(path) if name.split(".")[0] in FLOORS[floor + 1 :]}
    assert not above


def test_no_circle() -> None:
    modules = {name_of(path): path for path in sources()}
    arrows = {name: imports_of(path) & (modules.keys() - {name}) for name, path in modules.items()}
    while leaves := [name for name, targets in arrows.items() if not targets & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert not arrows


@pytest.mark.parametrize("command", [["--help"], ["encode", "--help"], ["info"], ["search", "x", "--no-such-option"]])
def test_help_info_and_usage_errors_import_nothing_heavy(command: list[str]) -> None:
    code = "import sys; sys.argv = ['decipher', *sys.argv[1:]]; from decipher_cli.main import main; main()"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code, *command], capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    assert not imported & HEAVY


def test_package_files_hold_nothing_but_a_docstring() -> None:
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("__init__.py"):
            body = ast.parse(path.read_text()).body
            assert len(body) == 1 and isinstance(body[0], ast.Expr), path
