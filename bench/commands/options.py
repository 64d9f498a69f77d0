"""The options that several commands have: the same thing has the same name, values and default in all of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import arguments
from ..measuring.environment import settle
from ..problems.cases import FORMATS
from ..problems.networks import NETWORKS, distinct_networks
from ..problems.providers import PROVIDERS

SIZE = (512, 512)
"""Of an image, unless ``--size`` says otherwise."""


def add_pyramids(parser: argparse.ArgumentParser, network: str, size: str) -> None:
    """``--network``, ``--size`` and ``--batch``, with what the first two stand for in this command."""
    add = parser.add_argument
    names = [*NETWORKS, "all"]
    add("--network", action="append", type=str.lower, choices=names, help=f"{network}; may be repeated")
    add("--size", action="append", type=arguments.size, metavar="HxW", help=f"of the image; may be repeated ({size})")
    add("--batch", action="append", type=arguments.count, metavar="N", help="images a batch; may be repeated")


def networks(args: argparse.Namespace) -> list[str]:
    """Those that ``--network`` names, each once."""
    asked = args.network or ()
    return distinct_networks() if "all" in asked else list(dict.fromkeys(asked))


def add_numbers(
    parser: argparse.ArgumentParser, dtypes: Sequence[str], default: str, *, several: bool = False, layout: bool = False
) -> None:
    """``--dtype`` and ``--memory-format``; with ``layout`` the format has its older name, too."""
    action, more = ("append", "; may be repeated") if several else ("store", "")
    add = parser.add_argument
    add(
        "--dtype",
        action=action,
        type=arguments.dtype,
        choices=list(dtypes),
        help=f"of features and weights{more} ({default})",
    )
    older = ["--layout"] if layout else []
    add("--memory-format", *older, action=action, choices=list(FORMATS), help=f"of features{more} ({default})")


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``, ``--threads`` and ``--tf32``."""
    add = parser.add_argument
    add("--device", type=arguments.device, help="cpu, cuda or cuda:INDEX (default: the GPU if there is one)")
    add("--threads", type=arguments.count, metavar="N", help="CPU threads (default: as torch finds)")
    add(
        "--tf32", action=argparse.BooleanOptionalAction, help="TF32 for float32 on a GPU (default: as for convolutions)"
    )


def take_device(args: argparse.Namespace) -> bool:
    """Put the default into ``args.device``, and set what holds for the whole process; whether it is a GPU."""
    args.device = args.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settle(args.device, args.threads, args.tf32)
    return bool(args.device.type == "cuda")


def add_providers(parser: argparse.ArgumentParser, default: str) -> None:
    """``--provider``."""
    parser.add_argument(
        "--provider", action="append", choices=list(PROVIDERS), help=f"these and the floor; may be repeated ({default})"
    )


def add_budget(parser: argparse.ArgumentParser, default: str) -> None:
    """``--budget``, whose default the command puts in."""
    parser.add_argument("--budget", type=arguments.seconds, metavar="SECONDS", help=f"for all of it ({default})")


def add_file(parser: argparse.ArgumentParser, default: Path | None, what: str) -> None:
    """``--json``."""
    parser.add_argument("--json", type=arguments.writable_file, default=default, metavar="FILE", help=what)
