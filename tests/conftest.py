"""Fixtures that every test file shares."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from decipher_cli import main as cli

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """A folder of public development data beside the checkout; tests that need it skip where it is not there."""
    if not (SHARED / "mri").is_dir():
        pytest.skip("no development data beside the checkout")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small encoder with random weights: quick, and real in every other respect."""
    import torch

    from models.config import ModelConfig, PrepareConfig, VisionConfig
    from models.decipher import Decipher

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    vision = VisionConfig(width=48, depth=1, heads=3, registers=1)
    Decipher(ModelConfig(name="tiny", prepare=PrepareConfig(box=(32, 32, 32)), vision=vision)).save(folder)
    return folder


@pytest.fixture(scope="session")
def phantom_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small archive of digital patients, DICOM and NIfTI, with labels, reports and a broken file. Not to be changed."""
    from training.phantom.archive import make_archive

    folder = tmp_path_factory.mktemp("phantom") / "archive"
    make_archive(folder, patients=8, seed=0)
    return folder


@dataclass
class Run:
    code: int
    out: str
    err: str

    def json_lines(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="module")
def folder(phantom_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder that holds `archive`, nothing else."""
    here = tmp_path_factory.mktemp("work")
    (here / "archive").symlink_to(phantom_archive)
    return here


@pytest.fixture
def decipher(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, folder: Path) -> Callable[..., Run]:
    """Runs a command in this process, as the entry point does."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DECIPHER_INDEX", raising=False)

    def run(*words: str | Path) -> Run:
        monkeypatch.setattr(sys, "argv", ["decipher", *map(str, words)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capfd.readouterr()
        return Run(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def index(folder: Path, tiny_model: Path) -> Path:
    from index.encode import EncodeOptions, encode_archive

    place = folder / "decipher-index"
    encode_archive(folder / "archive", place, EncodeOptions(model=str(tiny_model)), lambda *said: None)
    return place
