"""Tune the kernels for a GPU that has no table yet, for the shapes of a model of your own.

Shows `record_shapes` (on any device), `sdn-triton tune` with these shapes and a budget, the table that it writes,
`use_table`, and `explain`, which says where each configuration comes from. Without a GPU it is a rehearsal: the kernels
run in Triton's interpreter on a tiny model, and the times in the table mean nothing.

    python examples/tune_a_gpu.py --budget 600 --table my-gpu.json

It needs triton; on a CPU that is the extra `interpreter`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which sdn_triton does at its first kernel

from sdn_triton import SemanticDifferenceConv2d, cli, explain  # noqa: E402
from sdn_triton.tuning import record_shapes, use_table  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=600.0 if HAS_GPU else 5.0, help="seconds")
    parser.add_argument("--table", type=Path, help="the table to write (default: nowhere that stays)")
    args = parser.parse_args()
    device = "cuda" if HAS_GPU else "cpu"
    channels, side = (64, 128) if HAS_GPU else (4, 4)
    layer = SemanticDifferenceConv2d(channels, channels, padding=1).to(device)
    features = torch.randn(1, channels, side, side, device=device)

    with tempfile.TemporaryDirectory() as folder:
        shapes, table = Path(folder, "shapes.json"), args.table or Path(folder, "table.json")
        with record_shapes(shapes):  # your model's forward goes here
            layer(features)
        print("recorded:", json.loads(shapes.read_text()))

        # The same on the command line: sdn-triton tune --shapes shapes.json --table table.json --budget 600
        options = ["--shapes", str(shapes), "--table", str(table), "--budget", str(args.budget), "--device", device]
        status = cli.main(["tune", *options])
        assert status == 0, "a configuration gave wrong results: the table names it"

        use_table(table)  # asked before the heuristic, and before the tables that are shipped
        layer.backend = "triton"
        print(explain(layer, features))


if __name__ == "__main__":
    main()
