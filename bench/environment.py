"""Where a figure comes from: device, versions, revision, settings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from sdn_triton.tuning.files import write_json as write_json


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
    answer = _output([program, "--query-gpu=driver_version", "--format=csv,noheader"])
    return answer.splitlines()[0].strip() if answer else None


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU; None without one."""
    candidates = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def git_revision() -> dict[str, Any]:
    """The revision of the repository this file lies in and whether it was changed; None outside of a repository."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return {"revision": None, "dirty": None}
    revision = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    status = _output(["git", "-C", str(root), "status", "--porcelain"])
    return {"revision": revision.strip() if revision else None, "dirty": None if status is None else bool(status)}


def _output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


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
    """Everything that a figure depends on, as found."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": describe_device(device),
        "cpu": cpu_name(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "sdn_triton": _own_version(),
        "torch": torch.__version__,
        "triton": package_version("triton"),
        "numpy": package_version("numpy"),
        "git": git_revision(),
        "tf32": {
            "convolution": torch.backends.cudnn.allow_tf32,
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
