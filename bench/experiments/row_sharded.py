"""The neck of one large image with its rows spread over ranks.

``python -m sdn_triton.bench.experiments.row_sharded``.

For each number of ranks: the memory that a rank allocates at its worst moment of a forward and a backward, features and
gradients included, and the time of both. The features of every stage are random, each rank makes its own rows, and the
sum of all outputs is differentiated. With more ranks than processors times say little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing.spawn import spawn

from sdn_triton import SDNNeck
from sdn_triton.distributed import RowSharded, from_own_rows, own_rows
from sdn_triton.streams import guarded

from .. import arguments
from ..measuring.environment import fingerprint
from ..measuring.rounds import peak_memory
from ..measuring.saving import save

FINEST_STRIDE = 4
"""Of the finest stage against the image; each further stage has half the rows and columns."""


class Run(NamedTuple):
    """One network on one image."""

    image: tuple[int, int]
    channels: tuple[int, ...]
    ranks: int
    threads: int
    times: int


def step(run: Run, neck: torch.nn.Module, device: torch.device) -> Any:
    """Forward and backward on features that are made here."""
    mesh = init_device_mesh(device.type, (run.ranks,))
    features = []
    for i, channels in enumerate(run.channels):
        height, width = (size // (FINEST_STRIDE << i) for size in run.image)
        local = torch.randn(1, channels, len(own_rows(height, mesh)), width, device=device, requires_grad=True)
        features.append(from_own_rows(local, height, mesh))
    outputs = neck(features)
    torch.autograd.backward([output.to_local().sum() for output in outputs])
    return outputs


def device_of(rank: int) -> torch.device:
    """Where a rank computes."""
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def measure_rank(rank: int, run: Run, folder: str) -> None:
    """What one rank takes, written to a file of its own."""
    torch.set_num_threads(run.threads)
    device = device_of(rank)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=run.ranks)
    torch.manual_seed(0)
    neck = RowSharded(SDNNeck(run.channels).to(device))
    peak = peak_memory(lambda: step(run, neck, device), device)
    seconds = []
    for _ in range(run.times):
        dist.barrier()
        start = time.perf_counter()
        step(run, neck, device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    Path(folder, f"{rank}.json").write_text(json.dumps({"peak_bytes": peak, "seconds": seconds}))
    dist.destroy_process_group()


def measure(run: Run) -> dict[str, Any]:
    """The figures of all ranks."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(measure_rank, (run, folder), run.ranks)
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(run.ranks)]
    return {
        **run._asdict(),
        "peak_bytes": [rank["peak_bytes"] for rank in ranks],
        "seconds": ranks[0]["seconds"],
    }


def report(row: dict[str, Any]) -> str:
    """One line of the table."""
    peaks = [peak / 2**20 for peak in row["peak_bytes"]]
    seconds = f"{statistics.median(row['seconds']):.2f} s" if row["seconds"] else "-"
    return f"{row['ranks']:>5}  {min(peaks):>8.0f} to {max(peaks):.0f} MiB  {seconds:>10}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.experiments.row_sharded", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--image", type=arguments.size, default="4096x8192", metavar="HxW", help="rows and columns of the image")
    add("--channels", type=arguments.counts, default="32,64,160,256", metavar="N,N", help="of stages, fine to coarse")
    add("--ranks", type=arguments.counts, default="1,2,4", metavar="N,N", help="numbers of ranks")
    add("--threads", type=arguments.count, default=1, metavar="N", help="of each rank")
    add("--times", type=arguments.count_or_zero, default=1, metavar="N", help="how often to time, 0 for memory alone")
    add("--json", type=arguments.writable_file, metavar="FILE", help="write all figures there")
    args = parser.parse_args(argv)
    names = ", ".join(map(str, args.channels))
    print(f"{'x'.join(map(str, args.image))} image, stages of {names} channels from stride {FINEST_STRIDE} on")
    print("ranks  peak of a rank        forward + backward")
    rows = []
    for ranks in args.ranks:
        rows.append(measure(Run(args.image, args.channels, ranks, args.threads, args.times)))
        print(report(rows[-1]), flush=True)
    if args.json:
        return int(args.json != save(args.json, {"environment": fingerprint(device_of(0)), "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.experiments.row_sharded", main))
