"""Spread the rows of one image over several ranks, for images that are too large for one.

Shows `RowSharded` around a neck: every rank loads its own rows, gets its own rows of the outputs, and the gradients of
the parameters are those of the whole image. Here two processes on a CPU talk by gloo, and the result is compared with
that of one process; on GPUs, start it by torchrun and take "nccl" and "cuda".

    python examples/image_over_ranks.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from sdn_triton import SDNNeck
from sdn_triton.distributed import RowSharded, from_own_rows, own_rows

RANKS = 2
STAGES = ((8, 50, 64), (16, 25, 32))  # channels, rows, columns; 25 rows do not divide by two, which is fine


def stage(channels: int, height: int, width: int, rows: range) -> Tensor:
    """Some rows of a stage of the pyramid; a real program reads them from a file, or its encoder makes them."""
    whole = torch.sin(torch.arange(channels * height * width).reshape(1, channels, height, width) * 0.37)
    return whole[:, :, rows.start : rows.stop]


def make_neck() -> SDNNeck:
    torch.manual_seed(0)  # every rank has the same parameters
    return SDNNeck([channels for channels, _, _ in STAGES])


def one_rank(rank: int, rendezvous: str) -> None:
    """What each process runs."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, init_method=rendezvous)
    mesh = init_device_mesh("cpu", (RANKS,))
    neck = RowSharded(make_neck())
    features = [
        from_own_rows(stage(channels, height, width, own_rows(height, mesh)), height, mesh)
        for channels, height, width in STAGES
    ]
    outputs = neck(features)
    sum(output.to_local().square().sum() for output in outputs).backward()  # of this rank's rows
    print(f"rank {rank}: rows {[list(output.to_local().shape) for output in outputs]}", flush=True)

    whole, gathered = make_neck(), [output.full_tensor() for output in outputs]  # which only a small image allows
    expected = whole([stage(*shape, range(shape[1])) for shape in STAGES])
    sum(output.square().sum() for output in expected).backward()
    for got, want in zip(gathered, expected):
        torch.testing.assert_close(got, want)
    for got, want in zip(neck.module.parameters(), whole.parameters()):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-3, atol=1e-3)
    if rank == 0:
        print("outputs and gradients are those of one process", flush=True)
    dist.destroy_process_group()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one_rank, args=(Path(folder, "rendezvous").as_uri(),), nprocs=RANKS)


if __name__ == "__main__":
    main()
