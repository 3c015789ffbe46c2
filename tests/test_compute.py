"""Which machines compute in half precision."""

import pytest
import torch

from training.compute import half_precision, is_quick_in_half


@pytest.mark.parametrize("units", [False, True])
def test_half_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch, units: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    assert is_quick_in_half(torch.device("cpu")) is units
    with half_precision(torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if units else torch.float32)
