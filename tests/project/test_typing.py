"""The public interface as a type checker sees it from outside."""

import inspect
import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from sysconfig import get_path
from typing import get_type_hints

import pytest
from support.places import ROOT

import sdn_triton
from sdn_triton import SDNNeck
from sdn_triton.attachment import NeckOptions

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
    "diffusivity": "SDN(2, diffusivity='perona-malik')",
    "similarity": "semantic_difference_conv2d(x, x, k, similarity='channels')",
    "padding mode": "SemanticDifferenceConv2d(2, 2, padding_mode='zero')",
    "padding": "SemanticDifferenceConv2d(2, 2, padding='full')",
    "activation": "feature_fusion(x, y, k, activation='gelu')",
    "backend": "SDNNeck([2, 4], backend='cuda')",
    "side": "attach(layer, at='', side='in')",
    "option of attach": "attach(layer, at='', zero_int=True)",
    "value of attach's option": "attach(layer, at='', diffusivity='none')",
}


def mypy_strict(text: str, folder: Path, cache: Path, **environment: str) -> str:
    """What mypy says of a file in ``folder``, which is where it runs."""
    pytest.importorskip("mypy", reason="mypy is not installed: it comes with the extra dev")
    (folder / "user.py").write_text(text)
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={cache}"]
    command = [sys.executable, "-m", "mypy", *options, "user.py"]
    kept = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    done = subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy found out about torch, for all tests."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.long
def test_mypy_strict_accepts_right_use_and_refuses_mistakes(tmp_path, cache):
    """Every mistake is an error in its line, and nothing else is one."""
    said = mypy_strict(USER + "\n".join(MISTAKES.values()) + "\n", tmp_path, cache, MYPYPATH=str(ROOT))
    first = USER.count("\n") + 1
    errors = [int(line) for line in re.findall(r"user\.py:(\d+): error: ", said)]
    assert errors == [*range(first, first + len(MISTAKES))], said
    assert f"Found {len(MISTAKES)} errors in 1 file" in said


@pytest.mark.long
def test_mypy_finds_the_installed_package(tmp_path, cache):
    """As `make` installs it: editable, and from a folder of the user's own."""
    if not any(distributions(name="sdn-triton", path=[get_path("purelib")])):
        pytest.skip("sdn_triton is not installed beside this interpreter: `make` installs it")
    said = mypy_strict("from sdn_triton import SDN\n\nblock: int = SDN(2)\n", tmp_path, cache)
    assert re.findall(r"user\.py:(\d+): error: (.*)", said) == [
        ("3", 'Incompatible types in assignment (expression has type "SDN", variable has type "int")  [assignment]')
    ], said


def test_attach_has_the_options_of_the_neck():
    """For type checkers they are written twice."""
    own = get_type_hints(SDNNeck.__init__)
    assert set(own) - set(NeckOptions.__annotations__) == {"in_channels", "return"}
    assert get_type_hints(NeckOptions) == {name: own[name] for name in NeckOptions.__annotations__}


@pytest.mark.parametrize("name", sdn_triton.__all__)
def test_types_can_be_read_at_run_time(name):
    """As command-line and documentation tools do."""
    public = getattr(sdn_triton, name)
    function = public.__init__ if inspect.isclass(public) else public
    if inspect.isfunction(function):  # no constant, and no class without a constructor of its own
        assert set(get_type_hints(function)) >= set(inspect.signature(function).parameters) - {"self"}
