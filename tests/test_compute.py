"""Which machines compute in half precision."""

import pytest
import torch

from training.compute import half_precision, is_quick_in_half


@pytest.mark.parametrize(("units", "instructions"), [(False, False), (True, False), (False, True)])
def test_half_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch, units: bool, instructions: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    assert is_quick_in_half(torch.device("cpu")) is (units or instructions)
    with half_precision(torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if units or instructions else torch.float32)
