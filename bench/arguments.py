"""What options may be: each function is an argparse type, whose message names what was given and what is allowed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Parsed = TypeVar("Parsed")


def saying(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """An argparse type whose message is that of the ``ValueError``, which argparse would keep to itself."""

    def parsed(text: str) -> Parsed:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def size(text: str) -> tuple[int, int]:
    """``HEIGHTxWIDTH``."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) >= 32 and int(width) >= 32):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH of at least 32x32, as in 512x512")
    return int(height), int(width)


def count(text: str) -> int:
    """A positive whole number."""
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Positive whole numbers with commas between them."""
    return tuple(count(part) for part in text.split(","))


def count_or_zero(text: str) -> int:
    """A whole number that may be zero."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from zero on")
    return int(text)


def seconds(text: str) -> float:
    """A positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def device(text: str) -> torch.device:
    """A device that torch sees here."""
    try:
        device = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a device: cpu, cuda or cuda:INDEX") from None
    if device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a device that can be compared: cpu, cuda or cuda:INDEX")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"no device {text!r} here: torch sees {torch.cuda.device_count()} GPUs")
    return device


SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}


def dtype(text: str) -> str:
    """A dtype by PyTorch's name or by a short one; which are allowed is the option's ``choices``."""
    return SHORT_DTYPES.get(text, text)


def existing_file(text: str) -> Path:
    """A file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path


def writable_file(text: str) -> Path:
    """A file that can be written: its folder is there, and new files may be put into it."""
    path = Path(text)
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: it must be a file in an existing folder")
    if not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: its folder is read-only")
    return path
