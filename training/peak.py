"""How fast the processor could compute at best: what model FLOPs utilisation is a share of.

Published dense bf16 peaks for known GPUs; for others, and for CPUs, the best of a few large matrix products.
"""

import time

import torch

PUBLISHED = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12,
    "A40": 150e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""dense bf16 FLOP/s with 32-bit accumulation, from NVIDIA's data sheets; the first name that fits counts"""
EDGES = {"cuda": 8192, "cpu": 1024}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a device at best in dtype: published, else measured."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for known, value in PUBLISHED.items():
            if known in name:
                return value
    return _measured(device, dtype)


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    edge = EDGES["cuda" if device.type == "cuda" else "cpu"]
    first, second = (torch.ones(edge, edge, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(4):
        _wait(device)
        began = time.perf_counter()
        first @ second
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return 2 * edge**3 / min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
