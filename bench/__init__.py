"""Benchmarks: providers times workloads, checked before they are timed. Each folder imports only from those above it.

measuring/     clocks, rounds, intervals, and where a figure comes from
problems/      what is run: networks, layers, providers, cases, and the float64 references that they are held against
runs/          a benchmark within a budget, its file, read and written, and who is faster
reports/       tables, pictures, a page
machine_code/  what the compiler made of a kernel, and what that should cost
yardstick/     the same for every pass of a layer, beside other ways to its result
proofs/        what a verifier says of the compiled kernels
tuner/         configurations tried, checked and timed
commands/      the commands ``sdn-triton compare``, ``bench``, ``tune`` and ``doctor``
quality/       does SDN sharpen borders?
gpu/           ``make gpu``: the minutes on a GPU
experiments/   single questions, each a command of its own
suite/         the workloads as benchmarks of pytest
documents/     ``make report``: the figures in README.md and docs/, from results/

``terminal.py`` and ``arguments.py`` are what all commands have in common.

The folder is ``sdn_triton.bench``. Only the runner of ``make gpu`` and its plugin of pytest are ``bench.gpu``: they
begin without torch, which ``sdn_triton`` imports.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
"""The repository, where it is one."""
RESULTS = FOLDER / "results"
