"""Every kernel once, forward and backward, on small odd shapes: ``python -m bench.sanitized``, for compute-sanitizer.

Results are held against float64 as before a benchmark. Nothing is timed; the exit status is 1 if anything is wrong. So
that reads and writes outside of a tensor are seen, tensors must not share PyTorch's large blocks of memory:

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 86 python -m bench.sanitized
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from . import arguments
from .cases import DTYPES, FORMATS, grid
from .checking import Problem, Setting
from .networks import Network
from .providers import PROVIDERS
from .session import check

ODD = Network("Odd", (32, 48), (1, 2))


def main(argv: Sequence[str] | None = None) -> int:
    """Check every shape, dtype and layout; a line each."""
    parser = argparse.ArgumentParser(prog="python -m bench.sanitized", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--provider", choices=list(PROVIDERS), default="triton")
    parser.add_argument("--device", type=arguments.device, help="default: the GPU if there is one")
    parser.add_argument("--dtype", action="append", choices=list(DTYPES), help="default: bfloat16 and float32")
    args = parser.parse_args(argv)
    device = args.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    provider = PROVIDERS[args.provider]
    dtypes = args.dtype or ("bfloat16", "float32")
    if why_not := provider.unavailable(device, DTYPES[dtypes[0]]):
        parser.error(f"--provider {provider.name}: {why_not}")
    wrong = 0
    for case in grid([ODD], [(13, 37)], dtypes=dtypes, formats=tuple(FORMATS), passes=("training",)):
        setting = Setting(device, DTYPES[case.dtype], FORMATS[case.memory_format])
        result, _ = check(Problem(case.workload, setting), provider)
        print(f"{case.id}: {result.status}{f': {result.reason}' if result.reason else ''}", flush=True)
        wrong += result.status != "ok"
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
