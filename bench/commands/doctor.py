"""``sdn-triton doctor``: what is installed, what will run where, what is missing and what brings it."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
from functools import partial

import torch

from sdn_triton import __version__, explain, feature_fusion, semantic_difference_conv2d
from sdn_triton.aot.assembler import assembler_version
from sdn_triton.aot.compile import TARGETS
from sdn_triton.backend import INTERPRETED
from sdn_triton.extras import how_to_install

from ..measuring.environment import cpp_compiler, cpu_name, gpu_driver, package_version
from ..measuring.revision import git_revision
from ..terminal import Report, Table

EXTRAS = {
    "test": ("pytest", "pytest-benchmark", "pytest-xdist", "hypothesis"),
    "bench": ("rich", "matplotlib", "jinja2"),
    "networks": ("transformers", "pillow"),
}
PURPOSES = {
    "test": "the test suite",
    "bench": "colours and a progress bar in `sdn-triton compare`, pictures and pages of `sdn-triton bench`",
    "networks": "`sdn-triton compare --image`: features of an image through a real network",
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def configure(parser: argparse.ArgumentParser) -> None:
    """``doctor`` has no options."""
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the findings; always 0, for a machine without a GPU or triton is a supported one."""
    triton, why_no_triton = _triton()
    report = Report(0)
    for table in (installed(triton, why_no_triton), placement(), missing(why_no_triton)):
        report.show(table)
    return 0


def _triton() -> tuple[str | None, str | None]:
    """Triton's version, or why it cannot be used."""
    try:
        return str(importlib.import_module("triton").__version__), None
    except ImportError as error:
        if package_version("triton") is None:
            return None, "not installed"
        return None, f"installed, but importing it fails: {error}"
    except Exception as error:
        return None, f"importing it fails: {type(error).__name__}: {error}"


def _assemblers() -> str:
    """The versions of the assemblers that triton runs, with what they are run for."""
    targets_by_version: dict[str, list[str]] = {}
    for name, target in TARGETS.items():
        if version := assembler_version(target):
            targets_by_version.setdefault(version, []).append(name)
    parts = [f"{version} for {', '.join(names)}" for version, names in targets_by_version.items()]
    return "; ".join(parts) or "not known"


def _torch_build() -> str:
    if torch.version.cuda:
        return f"for CUDA {torch.version.cuda}"
    return f"for ROCm {torch.version.hip}" if torch.version.hip else "for the CPU only"


def installed(triton: str | None, why_no_triton: str | None) -> Table:
    """Versions and devices."""
    git = git_revision()
    revision = f" (revision {git['revision'][:10]}{', changed' if git['dirty'] else ''})" if git["revision"] else ""
    table = Table("Installed", ("", ""), text=True)
    table.add(("python", platform.python_version()))
    table.add(("sdn_triton", f"{__version__}{revision}"))
    table.add(("torch", f"{torch.__version__} ({_torch_build()}, {torch.get_num_threads()} threads)"))
    table.add(("triton", triton or why_no_triton or ""))
    table.add(("ptxas", _assemblers() if triton else "comes with triton"))
    table.add(("numpy", package_version("numpy") or "not installed"))
    table.add(("CPU", cpu_name()))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        table.add((f"GPU {index}", f"{properties.name} (sm_{properties.major}{properties.minor}, {memory})"))
    if not torch.cuda.is_available():
        table.add(("GPU", "none that torch can use"))
    table.add(("GPU driver", gpu_driver() or "none"))
    for extra, packages in EXTRAS.items():
        versions = [f"{p} {version}" if (version := package_version(p)) else f"{p} missing" for p in packages]
        table.add((f"[{extra}]", ", ".join(versions)))
    return table


def placement() -> Table:
    """The path of each operator for each device and dtype, by asking the library itself."""
    table = Table(
        'What runs where (backend="auto")', ("device", "dtype", "difference convolution", "fusion", "why"), text=True
    )
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for device in map(torch.device, devices):
        for dtype in DTYPES:
            paths, reasons = zip(*_decisions(device, dtype), strict=True)
            name = str(dtype).removeprefix("torch.")
            table.add((str(device), name, *paths, "; ".join(dict.fromkeys(reasons))))
    if torch.cuda.device_count() == 0:
        table.notes.append("There is no GPU here; on one, Triton runs what its kernels can and the rest runs eagerly.")
    state = "set" if os.environ.get(INTERPRETED, "0") == "1" else "not set"
    table.notes.append(
        f'backend="triton" on CPU tensors runs the kernels in Triton\'s interpreter, to test them, under '
        f"{INTERPRETED}=1 (now {state})."
    )
    return table


def _decisions(device: torch.device, dtype: torch.dtype) -> list[tuple[str, str]]:
    channels = 32
    features = torch.zeros(1, channels, 8, 8, device=device, dtype=dtype)
    kernel, mixer = features.new_zeros(channels, channels, 3, 3), features.new_zeros(channels, 2 * channels, 1, 1)
    calls = (
        partial(semantic_difference_conv2d, features, features, kernel, padding=1),
        partial(feature_fusion, features, features, mixer),
    )
    decisions = []
    for call in calls:
        (decision,) = explain(call.func, *call.args, **call.keywords).decisions
        decisions.append((decision.path, decision.reason))
    return decisions


def missing(why_no_triton: str | None) -> Table:
    """What is not there, what it would be good for, and the command that brings it."""
    table = Table("Missing", ("what", "good for", "how to get it"), text=True)
    if why_no_triton is not None:
        brings = "comes with torch for CUDA" if torch.version.cuda else how_to_install("interpreter")
        table.add((f"triton ({why_no_triton})", "the kernels: on a GPU, or interpreted in tests", brings))
    if not torch.cuda.is_available():
        if torch.version.cuda or torch.version.hip:
            hint = "torch is built for a GPU but finds none: check the driver and CUDA_VISIBLE_DEVICES"
        elif shutil.which("nvidia-smi"):
            hint = "this torch is built for the CPU only: install one for CUDA, see https://pytorch.org"
        else:
            hint = "a machine with one, and a torch built for it; everything runs eagerly without"
        table.add(("a GPU", "the Triton path", hint))
    for extra, packages in EXTRAS.items():
        if absent := [package for package in packages if package_version(package) is None]:
            table.add((", ".join(absent), PURPOSES[extra], how_to_install(extra)))
    if cpp_compiler() is None:
        table.add(("a C++ compiler", "torch.compile on a CPU", "your system's package of g++ or clang"))
    if not table.rows:
        table.add(("nothing", "", ""))
    return table
