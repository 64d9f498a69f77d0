"""Every file of examples/ runs as it stands, and ends by saying what it showed."""

import ast
import os
import re
import runpy
import subprocess
import sys

import pytest
import torch
from support.places import ROOT

from sdn_triton.tuning import use_table

EXAMPLES = {file.stem: file for file in (ROOT / "examples").glob("*.py")}
# What it needs beyond torch, and what it prints.
SHOWN = {
    "deploy_onnx": (("onnx", "onnxscript", "onnxruntime"), "[3, 3, 20, 30]: as PyTorch"),
    "finetune_segformer": (("transformers",), "the same predictions"),
    "image_over_ranks": ((), "outputs and gradients are those of one process"),
    "tune_a_gpu": (("triton",), "user's table"),
    "unet_by_hand": ((), "in sharpen2.sdc, sharpen1.sdc"),
}


@pytest.fixture
def no_table_afterwards():
    yield
    use_table(None)


def test_every_example_is_run():
    assert set(EXAMPLES) == set(SHOWN)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_says_what_it_shows_and_how_it_is_run(name):
    text = ast.get_docstring(ast.parse(EXAMPLES[name].read_text()))
    assert "Show" in text
    assert f"\n    python examples/{name}.py" in text
    assert f"](../examples/{name}.py)" in (ROOT / "docs" / "examples.md").read_text()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, monkeypatch, capsys, no_table_afterwards):
    packages, shown = SHOWN[name]
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed: `make test` installs it")
    if name == "tune_a_gpu" and not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("without a GPU it needs the interpreter")
    if name == "image_over_ranks":  # its processes import it anew
        command, found_by = [sys.executable, EXAMPLES[name]], {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=os.environ | found_by, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
        return
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES[name])])
    with torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
    said = capsys.readouterr().out
    assert shown in said
    losses = re.search(r"loss: (\S+) at first, (\S+) after", said)
    if losses:  # it learns
        assert float(losses[2]) < float(losses[1])
