"""The command ``sdn-triton``: each subcommand lives in a module of its own, imported when it is asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from sdn_triton._version import __version__
from sdn_triton.streams import guarded

Commands = Mapping[str, tuple[Any, str]]
"""For each name the module that configures it, or the commands below it, and what it is for."""

BENCH: Commands = {
    "run": ("sdn_triton.bench.commands.run", "check and time every provider on a suite of shapes, into one JSON file"),
    "compare": ("sdn_triton.bench.commands.compare_runs", "say what changed between two such files, beyond noise"),
    "plot": ("sdn_triton.bench.commands.plot", "draw pictures of such a file"),
    "report": ("sdn_triton.bench.commands.report", "write a page and tables about such a file"),
}
COMMANDS: Commands = {
    "compare": ("sdn_triton.bench.commands.compare", "check and time the layers beside what would otherwise be used"),
    "bench": (BENCH, "measure all providers on many shapes, compare runs, draw and report"),
    "tune": ("sdn_triton.bench.commands.tune", "measure the kernels' configurations on this GPU and keep the fastest"),
    "doctor": ("sdn_triton.bench.commands.doctor", "say what is installed, what will run where, and what is missing"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status: 0, 1 for a finding, 2 for a wrong option.

    74 where output could not be written, and 141 where who read it went away.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        args = parser_for(arguments).parse_args(arguments)
        args.command = arguments
        status: int = args.run(args)
        return status

    return guarded("sdn-triton", run)


def parser_for(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the options of the subcommand that ``arguments`` begin with; no other module is imported."""
    parser = argparse.ArgumentParser(
        prog="sdn-triton",
        description="Semantic Diffusion Network layers for PyTorch (not generative diffusion).",
    )
    parser.add_argument("--version", action="version", version=f"sdn-triton {__version__}")
    _add(parser, COMMANDS, arguments)
    return parser


def _add(parser: argparse.ArgumentParser, commands: Commands, arguments: Sequence[str]) -> None:
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (content, summary) in commands.items():
        command = subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name not in arguments[:1]:
            continue
        if isinstance(content, str):
            import_module(content).configure(command)
        else:
            _add(command, content, arguments[1:])
