"""What is installed, under which names, and that a folder called kernels hides nobody's package."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.places import ROOT


@pytest.fixture
def hugging_face(tmp_path: Path) -> Path:
    """A directory with an installed package called kernels."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("OWNER = 'Hugging Face'\n")
    return tmp_path


# In each the root of the repository comes first on the path, as the current directory.
@pytest.mark.parametrize(
    "command",
    [["-c", "{code}"], ["-m", "pytest", "-q", "-p", "no:cacheprovider", "{file}"]],
    ids=["python -c", "python -m pytest"],
)
def test_the_kernels_folder_shadows_nothing(command, hugging_face, tmp_path):
    code = "import sys; sys.path.insert(1, {path!r}); import kernels; assert kernels.OWNER == 'Hugging Face'"
    code = code.format(path=str(hugging_face))
    file = tmp_path / "test_import.py"
    file.write_text(f"def test_import():\n    {code}\n")
    words = [word.format(code=code, file=file) for word in command]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_kernels_package_is_importable_from_the_root():
    """An empty namespace may be found there, but nothing of ours in it under that name."""
    code = (
        "import sdn_triton, sys, importlib.util; assert 'kernels' not in sys.modules; "
        "spec = importlib.util.find_spec('kernels'); "
        f"assert spec is None or spec.origin is None or not spec.origin.startswith({str(ROOT / 'kernels')!r}), spec"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel built from a copy of the sources."""
    setuptools = pytest.importorskip("setuptools", minversion="77", reason="builds a wheel with setuptools >= 77")
    assert setuptools
    folder = tmp_path_factory.mktemp("wheel")
    code = (
        "import os, shutil, sys; from setuptools import build_meta; "
        f"shutil.copytree({str(ROOT)!r}, 'source', symlinks=True, "
        "ignore=shutil.ignore_patterns('.git', '.venv*', 'build')); "
        "os.chdir('source'); print(build_meta.build_wheel('..'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file).namelist()


def test_wheel_holds_every_source_file_under_one_name(wheel):
    assert {name.split("/")[0] for name in wheel if "dist-info" not in name} == {"sdn_triton"}
    for folder in ("sdn_triton", "kernels", "bench"):
        inside = "" if folder == "sdn_triton" else "sdn_triton/"
        for file in (ROOT / folder).rglob("*.py"):
            assert inside + str(file.relative_to(ROOT)) in wheel
    assert "sdn_triton/py.typed" in wheel
    assert "sdn_triton/bench/reports/page.html.jinja" in wheel
