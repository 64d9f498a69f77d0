"""The public interface as a type checker sees it from outside."""

import re
import subprocess
import sys

import pytest
from support.places import ROOT

USER = """
import torch
from sdn_triton import (
    SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d, anisotropic_diffusion, attach, decomposed, detach, explain,
    feature_fusion, semantic_difference_conv2d,
)

x, k = torch.ones(1, 2, 5, 5), torch.ones(2, 2, 3, 3)
y: torch.Tensor = semantic_difference_conv2d(x, x, k, None, (1, 1), "same", contrast=0.5)
z: torch.Tensor = feature_fusion(x, y, torch.ones(2, 4, 1, 1), activation="relu")
w: torch.Tensor = anisotropic_diffusion(x, num_steps=2)
layer: torch.nn.Module = SemanticDifferenceConv2d(2, 2, padding=1)
blocks: list[torch.nn.Module] = [SDN(2), FeatureFusion(2, 2), SDNNeck([2, 4])]
text: str = str(explain(layer, x))
neck: SDNNeck = attach(layer, at="", example=(x,), side="output", select=[0], zero_init=True)
same: SDNNeck = detach(layer, at="", side="output")
with decomposed():
    pass
"""
MISTAKES = {
    "keyword": "semantic_difference_conv2d(x, x, k, contrasts=0.5)",
    "guidance": "semantic_difference_conv2d(x, 1.0, k)",
    "result": "n: int = feature_fusion(x, x, k)",
    "channels": "SDN('2')",
    "part": "attach(layer, at=layer)",
}


@pytest.mark.long
def test_mypy_strict_accepts_right_use_and_refuses_mistakes(tmp_path):
    """Every mistake is an error in its line, and nothing else is one."""
    pytest.importorskip("mypy", reason="mypy is not installed: pip install sdn-triton[dev]")
    file = tmp_path / "user.py"
    file.write_text(USER + "\n".join(MISTAKES.values()) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    first = USER.count("\n") + 1
    errors = [int(line) for line in re.findall(r"user\.py:(\d+): error: ", done.stdout)]
    assert errors == [*range(first, first + len(MISTAKES))], done.stdout
    assert f"Found {len(MISTAKES)} errors in 1 file" in done.stdout
