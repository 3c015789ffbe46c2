"""What is this? The program's versions, models and presets, or what a path holds: an index, a catalogue, a run, a model
with its card.

Answers at once, without loading the encoder.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from index.store import Index

EXAMPLES = (
    "decipher info",
    "decipher info decipher-index",
    "decipher info mini",
    "decipher info --json",
)


def info(
    path: Annotated[
        Path | None,
        typer.Argument(help="An index, a catalogue, a model or its name, a run. Default: the program itself."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    from decipher_cli.output import put, put_json

    found = _program() if path is None else _folder(path)
    if as_json:
        put_json(found)
        return
    if "columns" in found:
        found = {**found, "columns": [_column(name, origin) for name, origin in found["columns"].items()]}
    width = max(map(len, found))
    for name, value in found.items():
        put(f"{name:<{width}}  {_words(value)}")
    if Path(found.get("card", "")).is_file():
        put("\n" + Path(found["card"]).read_text().rstrip())


def _program() -> dict[str, Any]:
    import platform
    from importlib.metadata import version

    from models.folder import shipped_models
    from training.config import preset_names

    packages = ("torch", "faiss-cpu", "faiss-gpu-cu12", "polars", "pydicom", "nibabel", "monai", "transformers")
    return {
        "kind": "program",
        "decipher": version("decipher-mri"),
        "python": platform.python_version(),
        "models": shipped_models(),
        "presets": preset_names(),
        "versions": {name: version(name) for name in packages if _installed(name)},
    }


def _installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _folder(path: Path) -> dict[str, Any]:
    """Errors: DecipherError for a path that is nothing of ours."""
    from index.cohort import names
    from index.saving import origins
    from index.scanned import is_catalogue, read_catalogue
    from index.store import Index, is_index
    from models.errors import DecipherError
    from models.folder import model_folder, shipped_models

    if is_index(path):
        index = Index.open(path)
        rejects = index.rejects
        counts: dict[str, Any] = {"series": len(index), "dim": index.dim, "model": index.passport["name"]}
        counts |= {"rejected": 0 if rejects is None else rejects.height, "cohorts": names(index)}
        counts |= _patches(index) | {"columns": origins(index)}
        return {**index.card, "kind": "index", **counts}
    if is_catalogue(path):
        found, root = read_catalogue(path)
        counts = {"files": found.files, "series": found.records.height, "rejected": found.rejects.height}
        return {"kind": "catalogue", "archive": str(root), **counts}
    if (path / "model.safetensors").is_file():
        return _model(path)
    if (path / "run.json").is_file():
        lines = (path / "metrics.jsonl").read_text().splitlines() if (path / "metrics.jsonl").is_file() else []
        last = json.loads(lines[-1]) if lines else {}
        return {"kind": "run", **json.loads((path / "run.json").read_text())["config"], "last": last}
    if str(path) in shipped_models():
        return _model(model_folder(str(path)))
    if not path.exists():
        raise DecipherError(f"There is no {path}.", "Type decipher info for the program itself.")
    raise DecipherError(
        f"{path} is no index, catalogue, model or run.", f"To see what MRI it holds: decipher scan {path}"
    )


def _model(folder: Path) -> dict[str, Any]:
    """What it is made of and, where its training told, what the last check found: health among it."""
    from models.folder import FIGURES

    figures = folder / FIGURES
    found = {"figures": json.loads(figures.read_text())} if figures.is_file() else {}
    return {
        "kind": "model",
        **json.loads((folder / "config.json").read_text()),
        **found,
        "card": str(folder / "card.md"),
    }


def _patches(index: "Index") -> dict[str, Any]:
    """What the patch vectors of an index take, those of removed series included; nothing where it keeps none."""
    if index.patch_shape is None:
        return {}
    tokens, dim = index.patch_shape
    size = sum(files["patches.npy"]["bytes"] for _, files in index.stamped())
    return {"patches": {"tokens": tokens, "dim": dim, "megabytes": round(size / 1e6, 2)}}


def _column(name: str, origin: dict[str, Any]) -> str:
    """A saved column in a few words; --json tells all of it."""
    if "error" in origin:
        return f"{name} (cannot be read)"
    words = [f"by {origin['by']}", str(origin.get("date", ""))[:10], "calibrated" if origin.get("calibrated") else ""]
    return f"{name} ({' '.join(filter(None, words))})"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items() if v != [])
    return ", ".join(map(_words, value)) if isinstance(value, list) else str(value)
