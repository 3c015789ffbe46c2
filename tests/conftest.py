"""Fixtures that every test file shares."""

from pathlib import Path

import numpy as np
import pytest

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
    Decipher(ModelConfig(name="tiny", prepare=PrepareConfig(box=32), vision=vision)).save(folder)
    return folder


@pytest.fixture(scope="session")
def phantom_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small archive of digital patients, DICOM and NIfTI, with labels, reports and a broken file. Not to be changed."""
    from training.phantom.archive import make_archive

    folder = tmp_path_factory.mktemp("phantom") / "archive"
    make_archive(folder, patients=8, seed=0)
    return folder
