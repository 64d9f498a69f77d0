"""Where a figure comes from: device, versions, revision, settings."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from sdn_triton.aot.assembler import assembler_version
from sdn_triton.launch.run import target_of
from sdn_triton.tuning.files import write_json as write_json
from sdn_triton.tuning.precision import convolutions_may_use_tf32, let_convolutions_use

from .revision import git_revision as git_revision
from .revision import output_of


def package_version(name: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu_driver() -> str | None:
    """The NVIDIA driver's version; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    answer = output_of([program, "--query-gpu=driver_version", "--format=csv,noheader"])
    return answer.splitlines()[0].strip() if answer else None


GPU_CLOCKS = {
    "sm_mhz": "clocks.sm",
    "sm_max_mhz": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


def clocks(device: torch.device) -> dict[str, Any]:
    """How fast the device runs now, in MHz; what the system does not tell is None or left out."""
    if device.type == "cuda":
        program = shutil.which("nvidia-smi")
        # By the card's own number: nvidia-smi counts cards otherwise than CUDA_VISIBLE_DEVICES leaves them.
        card = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
        query = ["--query-gpu=" + ",".join(GPU_CLOCKS.values()), "--format=csv,noheader,nounits", card]
        answer = output_of([program, *query]) if program else None
        values = answer.strip().split(", ") if answer else [""] * len(GPU_CLOCKS)
        return {name: float(v) if _is_number(v) else None for name, v in zip(GPU_CLOCKS, values, strict=False)}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    mhz = [line.partition(":")[2].strip() for line in lines if line.startswith("cpu MHz")]
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu_mhz": [float(value) for value in mhz if _is_number(value)] or None,
        "governor": governor.read_text().strip() if governor.is_file() else None,
    }


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdigit()


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU; None without one."""
    candidates = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def settle(device: torch.device, threads: int | None, tf32: bool | None) -> None:
    """Set what holds for the whole process: the device, its threads, and the same precision for all providers."""
    _keep_freed_memory()
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu  # The floor is the fastest convolution there is; off while checking.
    if on_gpu and device.index is not None:
        torch.cuda.set_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    if tf32 is not None:
        let_convolutions_use("tf32" if tf32 else "ieee")
    # The same precision for both sides: products inside torch's matmul follow the convolutions' setting.
    torch.backends.cuda.matmul.allow_tf32 = convolutions_may_use_tf32()


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST_KEPT = 2**31 - 1
LARGEST_KEPT_BLOCK = 32 * 2**20
"""More than this glibc gives back in any case."""


def _keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it is glibc.

    By itself it gives blocks back to the system or not by what was freed before, and a call that gets fresh pages every
    time may take three times as long: the same run of another process then differs for no reason of the code.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)


def describe_device(device: torch.device) -> dict[str, Any]:
    """The name and size of the device that runs."""
    if device.type != "cuda":
        return {"type": device.type, "name": cpu_name(), "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": gpu_driver(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Everything here that a figure depends on."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": describe_device(device),
        "cpu": cpu_name(),
        "clocks": clocks(device),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "sdn_triton": _own_version(),
        "torch": torch.__version__,
        "triton": package_version("triton"),
        "ptxas": assembler_version(target_of(device)),
        "numpy": package_version("numpy"),
        "git": git_revision(),
        "tf32": {
            "convolution": convolutions_may_use_tf32(),
            "matmul": torch.backends.cuda.matmul.allow_tf32,
        },
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def _own_version() -> str:
    from sdn_triton import __version__

    return __version__


def device_slug(device: torch.device) -> str:
    """A folder's name for the device: ``nvidia-h100-80gb-hbm3``."""
    name = describe_device(device)["name"].lower()
    return "-".join("".join(c if c.isalnum() else " " for c in name).split()) or device.type
