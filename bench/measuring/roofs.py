"""What the device can do at best, measured in the same run: bytes a second by a copy, operations by a product."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from .clocks import clock_for, last_cache_bytes

COPIED = {"cpu": 4, "cuda": 16}
"""The copy's source, in sizes of the last cache (of 32 MiB on a GPU), so that it cannot stay there."""
PRODUCT = {"cpu": 1024, "cuda": 4096}
"""Rows and columns of the matrices."""
WARM_SECONDS = {"cpu": 1.0, "cuda": 3.0}
"""The device is kept at work for so long first: clocks fall when it gets warm."""
SAMPLES = 9


def measure_roofs(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> dict[str, Any]:
    """Warm the device up, then time a copy and, in each dtype, a matrix product: medians of nine.

    The first of ``dtypes`` is the one that the file calls the roof.
    """
    warm_up(device, dtypes[0])
    products = {_name(dtype): _product_rate(device, dtype) for dtype in dtypes}
    return {
        "copy_bytes_per_s": _copy_rate(device),
        "matmul_flop_per_s": products[_name(dtypes[0])],
        "dtype": _name(dtypes[0]),
        "matmul_by_dtype": products,
    }


def warm_up(device: torch.device, dtype: torch.dtype) -> None:
    """Keep the device at work until it has the temperature at which it will be measured."""
    a = torch.ones(PRODUCT[device.type], PRODUCT[device.type], device=device, dtype=dtype)
    stop = time.perf_counter() + WARM_SECONDS[device.type]
    while time.perf_counter() < stop:
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _seconds(call: Any, device: torch.device) -> float:
    clock = clock_for(device)
    clock.warm_up("roof", call)
    return statistics.median(clock.sample("roof", call) for _ in range(SAMPLES))


def _copy_rate(device: torch.device) -> float:
    size = COPIED[device.type] * (last_cache_bytes() if device.type == "cpu" else 32 * 2**20)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), device)


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    size = PRODUCT[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2.0 * size**3 / _seconds(lambda: torch.mm(a, b, out=out), device)
