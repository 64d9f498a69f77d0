"""Export a network with a neck to ONNX, and run it where neither PyTorch nor this library is.

Shows that the file has the standard's operators only, takes other batches, heights and widths than it was exported
with, and gives the same numbers in ONNX Runtime.

    python examples/deploy_onnx.py --out network.onnx

It needs the extra `onnx`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from sdn_triton import attach


class Network(nn.Module):
    """An encoder and a head in miniature; yours goes here."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(image))
        return logits


def export(model: nn.Module, example: Tensor, path: Path) -> set[str]:
    """Write ``path`` and return the domains of its operators; "" is the standard's."""
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=(sizes,), verbose=False)
    assert program is not None
    program.save(path)
    return {node.domain for node in program.model_proto.graph.node}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where to write it (default: nowhere that stays)")
    args = parser.parse_args()
    torch.manual_seed(0)
    model, example = Network().eval(), torch.randn(2, 3, 32, 48)
    attach(model, at="head", example=example)

    with tempfile.TemporaryDirectory() as folder:
        path = args.out or Path(folder, "network.onnx")
        domains = export(model, example, path)
        print(f"{path.name}: operators of {', '.join(domain or 'the standard' for domain in domains)}")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (name,) = (given.name for given in session.get_inputs())
        for shape in ((2, 3, 32, 48), (1, 3, 64, 40), (3, 3, 20, 30)):
            image = torch.randn(shape)
            (got,) = session.run(None, {name: image.numpy()})
            with torch.no_grad():
                torch.testing.assert_close(torch.from_numpy(got), model(image), rtol=1e-4, atol=1e-4)
            print(f"{list(shape)}: as PyTorch")


if __name__ == "__main__":
    main()
