"""A small run of ``sdn-triton compare`` for the tests of the commands."""

TINY = (
    "from sdn_triton.bench.problems.networks import NETWORKS, Network; "
    "NETWORKS['tiny'] = Network('Tiny', (4, 6), (4, 8));"
)
"""Code that adds a network of two stages."""
SMALL = ("--quick", "--network", "tiny", "--size", "64x64", "--budget", "60", "--threads", "1")
