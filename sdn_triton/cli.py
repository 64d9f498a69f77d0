"""The command ``sdn-triton``: each subcommand lives in a module of its own, imported when it is asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from sdn_triton._version import __version__

COMMANDS = {
    "compare": ("sdn_triton.bench.compare", "check and time the layers beside what would otherwise be used"),
    "tune": ("sdn_triton.bench.tune", "measure the kernels' configurations on this GPU and keep the fastest"),
    "doctor": ("sdn_triton.bench.doctor", "say what is installed, what will run where, and what is missing"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status: 0, 1 for a finding, 2 for a wrong option."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="sdn-triton",
        description="Semantic Diffusion Network layers for PyTorch (not generative diffusion).",
    )
    parser.add_argument("--version", action="version", version=f"sdn-triton {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in arguments[:1]:
            import_module(module).configure(command)
    args = parser.parse_args(arguments)
    args.command = arguments
    status: int = args.run(args)
    return status
