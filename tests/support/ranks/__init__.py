"""Checks that run on several ranks at once, on gloo and CPUs or on NCCL and GPUs, each comparing with one process.

A module here names its checks in ``CHECKS``. :func:`outcomes` starts the ranks, which run them one after another, and
says of each check what went wrong; ranks that hang are ended.
"""

import datetime
import importlib
import json
import tempfile
import time
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

COLLECTIVE_SECONDS = 40
PASSED, NOT_RUN = "passed", "not run: an earlier check failed on this rank"


def outcomes(module: str, ranks: int, seconds: float, device: str = "cpu") -> dict[str, list[str]]:
    """What ``support.ranks.<module>``'s checks came to on each rank: "passed", a traceback or why there is none."""
    names = list(importlib.import_module(f"support.ranks.{module}").CHECKS)
    with tempfile.TemporaryDirectory() as folder:
        context = mp.start_processes(_run, (module, ranks, folder, device), ranks, join=False, start_method="spawn")
        deadline, crash = time.monotonic() + seconds, ""
        try:
            while not context.join(timeout=max(0.0, deadline - time.monotonic())):
                if time.monotonic() >= deadline:
                    crash = f"the ranks did not end within {seconds} seconds"
                    break
        except Exception as error:  # a rank that died, by a signal or outside its checks
            crash = str(error)
        finally:
            for process in context.processes:
                process.kill()
                process.join()
        found = [_read(Path(folder, f"{rank}.json")) for rank in range(ranks)]
    return {name: [outcome.get(name, crash or NOT_RUN) for outcome in found] for name in names}


def _read(path: Path) -> dict[str, str]:
    return json.loads(path.read_text()) if path.exists() else {}


def _run(rank: int, module: str, ranks: int, folder: str, device: str) -> None:
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{folder}/rendezvous",  # no port that another process could take
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=COLLECTIVE_SECONDS),
    )
    found: dict[str, str] = {}
    for name, check in importlib.import_module(f"support.ranks.{module}").CHECKS.items():
        torch.manual_seed(0)
        try:
            check(torch.device(device))
            found[name] = PASSED
        except (Exception, pytest.fail.Exception):  # the second is what pytest.raises raises, and no Exception
            found[name] = f"rank {rank}:\n{traceback.format_exc()}"
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
        if found[name] != PASSED:
            break  # the other ranks may be anywhere: nothing after this would mean a thing
    dist.destroy_process_group()


def values(shape: tuple[int, ...], device: torch.device | str = "cpu", seed: int = 1) -> torch.Tensor:
    """The same numbers on every rank."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A DTensor gathered; anything else as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
