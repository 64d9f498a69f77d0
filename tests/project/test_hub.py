"""The repository for Hugging Face's kernels: loaded as kernels loads it, and computing what the library computes."""

import doctest
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

from sdn_triton.integrations import hub

USED = """
import sys
from pathlib import Path

import torch
from kernels import get_local_kernel

loaded = get_local_kernel(Path(sys.argv[1]), backend="cpu")
assert not any(name.partition(".")[0] == "sdn_triton" for name in sys.modules), "the copy imports the installed one"

torch.manual_seed(0)
x, k = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
outputs = {}
for backend in sys.argv[2:]:
    outputs[backend] = loaded.semantic_difference_conv2d(x, x, k, padding=1, backend=backend)
compiled = torch.compile(loaded.semantic_difference_conv2d, backend="aot_eager", fullgraph=True)
outputs["compiled"] = compiled(x, x, k, padding=1)
neck = loaded.SDNNeck([4, 8])
sum(output.sum() for output in neck([x, torch.randn(1, 8, 4, 4)])).backward()
assert all(p.grad is not None for p in neck.parameters())

import sdn_triton  # beside it, with operators of its own

assert dir(loaded) == dir(sdn_triton) and loaded.SDN is not sdn_triton.SDN
for backend, output in outputs.items():
    torch.testing.assert_close(output, sdn_triton.semantic_difference_conv2d(x, x, k, padding=1), msg=backend)
sdn_triton.SDNNeck([4, 8]).load_state_dict(neck.state_dict())
print("as sdn_triton")
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    hub.write_repository(folder)
    return folder


def test_what_the_repository_has(repository):
    assert {path.name for path in (repository / "build").iterdir()} == {"torch-cpu", "torch-cuda"}
    for backend in hub.BACKENDS:
        variant = repository / "build" / f"torch-{backend}"
        metadata = json.loads((variant / "metadata.json").read_text())
        assert metadata["backend"] == {"type": backend}
        assert metadata["id"].isidentifier()
        for kernel in (ROOT / "kernels").glob("*.py"):
            assert (variant / "kernels" / kernel.name).is_file()
        tables = Path("tuning", "tables")
        shipped = [path.name for path in (ROOT / "sdn_triton" / tables).glob("*.json")]
        assert sorted(path.name for path in (variant / tables).glob("*.json")) == sorted(shipped)
        assert not [name for name in hub.LEFT_OUT if (variant / name).exists()]
    assert (repository / "README.md").is_file()


def test_kernels_loads_it_and_it_computes_the_same(repository, tmp_path):
    spec = importlib.util.find_spec("kernels")
    if spec is None or spec.origin is None:
        pytest.skip("kernels is not installed: `make test` installs it")
    backends = ["auto", "eager", *(["triton"] if importlib.util.find_spec("triton") else [])]
    environment = os.environ | {"TRITON_INTERPRET": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", USED, str(repository), *backends]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "as sdn_triton"


def test_the_examples_in_its_docstrings():
    assert doctest.testmod(hub).failed == 0


def test_the_same_sources_have_the_same_name_and_others_another(repository, tmp_path, monkeypatch):
    def identity(folder: Path) -> str:
        return json.loads((folder / "build" / "torch-cpu" / "metadata.json").read_text())["id"]

    hub.write_repository(tmp_path / "again")
    assert identity(tmp_path / "again") == identity(repository)
    sources = dict(hub._sources())
    sources[Path("_version.py")] += b"# changed"
    monkeypatch.setattr(hub, "_sources", lambda: iter(sources.items()))
    hub.write_repository(tmp_path / "changed")
    assert identity(tmp_path / "changed") != identity(repository)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sdn_triton.backend", "write it as `from sdn_triton import"),
        ("from sdn_triton.bench.run import main", "which is left out"),
        ("from sdn_triton.cli import main", "which is left out"),
        ("from sdn_triton import dispatch_state, extras", "imports sdn_triton.extras, which is left out"),
    ],
)
def test_what_cannot_be_made_relative_is_an_error(source, message):
    with pytest.raises(ValueError, match=message):
        hub.relative_imports(source, Path("ops/path.py"))


@pytest.mark.parametrize("others", [(), ("build/wheel.txt",)], ids=["plain", "with-a-build-folder"])
def test_a_folder_with_other_files_is_left_alone(tmp_path, others):
    files = [tmp_path / name for name in ("README.md", *others)]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    with pytest.raises(FileExistsError, match="other files"):
        hub.write_repository(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == files
    assert all(file.read_text() == "mine" for file in files)


def test_a_repository_is_written_anew(tmp_path):
    hub.write_repository(tmp_path)
    (tmp_path / "README.md").write_text("old")
    hub.write_repository(tmp_path)
    assert (tmp_path / "README.md").read_text().startswith("---\nlibrary_name: kernels")
