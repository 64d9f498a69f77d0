"""The neck of an image that no rank could hold: each of four ranks needs little more than a quarter of the memory."""

import re
import resource
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from sdn_triton import SDNNeck
from sdn_triton.bench.measuring.rounds import peak_memory
from sdn_triton.distributed import RowSharded, from_own_rows, own_rows

CHANNELS, HEIGHT, WIDTH = (8, 16), 384, 768  # of the finest stage; the image has four times as many each way
SHARE = 0.28
"""Of what one process needs; a quarter, and the rows that two ranks both read."""
BUFFERS = 8 * 2**20
"""Bytes that an image of any size takes: the buffers of the eager path's strips."""


def spread_neck(device):
    """Forward and backward of the neck; each rank makes its own rows of the features."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    features = []
    for i, channels in enumerate(CHANNELS):
        rows = own_rows(HEIGHT >> i, mesh)
        local = torch.randn(1, channels, len(rows), WIDTH >> i, device=device, requires_grad=True)
        features.append(from_own_rows(local, HEIGHT >> i, mesh))
    outputs = RowSharded(SDNNeck(CHANNELS).to(device))(features)
    torch.autograd.backward([output.to_local().sum() for output in outputs])
    return outputs


def whole_neck(device):
    features = [
        torch.randn(1, channels, HEIGHT >> i, WIDTH >> i, device=device, requires_grad=True)
        for i, channels in enumerate(CHANNELS)
    ]
    outputs = SDNNeck(CHANNELS).to(device)(features)
    torch.autograd.backward([output.sum() for output in outputs])
    return outputs


@cache
def needed_alone(device):
    """What one process needs, measured on one rank."""
    needed = [peak_memory(lambda: whole_neck(device), device) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(needed, device=device)
    return needed[0]


def used() -> int:
    """Bytes of writable memory that this process has, which is what RLIMIT_DATA limits."""
    return 1024 * int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def check_peak_of_each_rank(device):
    spread = peak_memory(lambda: spread_neck(device), device)
    alone = needed_alone(device)
    print(f"rank {dist.get_rank()}: {spread / 2**20:.0f} MiB of {alone / 2**20:.0f} MiB", flush=True)
    assert spread < SHARE * alone + BUFFERS, f"{spread} of {alone} bytes"


def check_ranks_that_could_not_hold_it(device):
    """Under a limit on its memory a rank fails with the whole, and computes its part."""
    if device.type == "cuda":
        return limited_gpu(device)
    alone = needed_alone(device)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used() + alone * 6 // 10, limits[1]))
    try:
        spread_neck(device)
        with pytest.raises((RuntimeError, MemoryError), match=r"can't allocate memory|std::bad_alloc"):
            whole_neck(device)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def limited_gpu(device):
    alone = needed_alone(device)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * alone / torch.cuda.get_device_properties(device).total_memory)
    try:
        spread_neck(device)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            whole_neck(device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}
