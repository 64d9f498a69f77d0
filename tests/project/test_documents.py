"""What is written runs: every code block of the README and of docs/, every example in a docstring."""

import doctest
import importlib
import pkgutil
import re
import shlex
import subprocess
from itertools import dropwhile
from pathlib import Path

import pytest
from support.places import ROOT
from support.tiny_networks import CASES

import sdn_triton
from sdn_triton.cli import parser_for
from sdn_triton.tuning.precision import convolutions_in

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "bench/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SETTING = re.compile(r"[A-Z_]+=")
"""Of the environment, before a command."""
BLOCKS = [block for page in PAGES for block in BLOCK.findall(page.read_text())]
OPTIONAL = {package for case in CASES.values() for package in case.requires} | {"mmengine", "safetensors"}
STAND_INS = {
    "segformer": CASES["segformer"].make,
    "upernet-swin": CASES["upernet-swin"].make,
    "upernet-convnext": CASES["upernet-convnext"].make,
    "mask2former": CASES["mask2former"].make,
    "dpt": CASES["dpt"].make,
}
# What needs triton is imported by the kernel tests, what needs a framework by the tests of networks.
MODULES = [
    m.name
    for m in pkgutil.walk_packages(sdn_triton.__path__, "sdn_triton.")
    if not m.name.startswith(
        (
            "sdn_triton.bench",
            "sdn_triton.integrations.",
            "sdn_triton.kernels",
            "sdn_triton.launch",
            "sdn_triton.__main__",
        )
    )
]


def of_language(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def test_every_block_says_its_language():
    assert {name for name, _ in BLOCKS} <= {"python", "console", "text"}
    assert of_language("python")
    assert of_language("console")


@pytest.fixture
def small_networks(monkeypatch):
    """No network is reached: ``from_pretrained`` of a name on the hub makes a small one of that kind at random."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: `make test` installs it")
    load = transformers.PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls, name, *args, **kwargs):
        if Path(name).is_dir():
            return load(cls, name, *args, **kwargs)
        return next(make for part, make in STAND_INS.items() if part in name)()

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(from_pretrained))


@pytest.mark.parametrize("code", of_language("python"), ids=lambda code: code.strip().splitlines()[-1][:40])
def test_python_block(code, request, tmp_path, monkeypatch):
    if "from_pretrained(" in code:
        request.getfixturevalue("small_networks")
    monkeypatch.chdir(tmp_path)
    try:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed: `make test` installs it")


@pytest.mark.parametrize("command", [c for text in of_language("console") for c in text.strip().splitlines()])
def test_console_block(command):
    """Each command is known to what runs it: make's targets, the command line's options, the tests, pip's extras."""
    words = list(dropwhile(SETTING.match, shlex.split(command, comments=True)))
    if words[0] == "make":
        done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif words[0] == "sdn-triton":
        parser_for(words[1:]).parse_args(words[1:])
    elif words[:3] == ["python", "-m", "pytest"]:
        assert (ROOT / words[3]).exists()
    elif words[:2] == ["python", "-m"]:
        module = ROOT / words[2].replace(".", "/")
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()
    else:
        assert words[:2] in (["git", "clone"], ["pip", "install"]), f"no check is known for {command!r}"


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    with convolutions_in("tf32"):  # as PyTorch begins; the tests do not
        results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


@pytest.mark.parametrize(
    "name", [n for n in sdn_triton.__all__ if n not in ("Explanation", "BackendUnavailableError", "__version__")]
)
def test_every_public_name_has_an_example(name):
    assert ">>> " in (getattr(sdn_triton, name).__doc__ or ""), f"{name} has no example"
