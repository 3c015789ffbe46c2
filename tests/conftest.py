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
