"""Advice on installing: said in one place, right, and with what pyproject.toml has."""

import re
from pathlib import Path

import pytest
from support.places import ROOT

import sdn_triton
from sdn_triton.extras import how_to_install

FOLDERS = ("sdn_triton", "bench", "docs", "tests", "examples")
TEXTS = [
    ROOT / "README.md",
    *(file for folder in FOLDERS for kind in ("*.py", "*.md") for file in (ROOT / folder).rglob(kind)),
]


@pytest.fixture(scope="module")
def extras() -> dict[str, list[str]]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no toml")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_the_advice_names_a_command_and_where_more_is_said():
    advice = how_to_install("interpreter", "prove")
    assert "pip install '.[interpreter,prove]'" in advice
    assert "README.md, Install" in advice
    assert "\n## Install\n" in (ROOT / "README.md").read_text()


def test_nobody_advises_an_index_that_does_not_have_it():
    named = re.compile(r"pip install [\"']?sdn[-_]triton")
    found = [str(file.relative_to(ROOT)) for file in TEXTS if file != Path(__file__) and named.search(file.read_text())]
    assert found == []


def test_every_extra_that_is_advised_exists(extras):
    called = re.compile(r"how_to_install\((.*?)\)")
    advised = [call for file in (ROOT / "bench").rglob("*.py") for call in called.findall(file.read_text())]
    names = {name for call in advised for name in re.findall(r"[\"'](\w+)[\"']", call)}
    assert {"bench", "networks", "interpreter"} <= names <= set(extras)


def test_install_explains_every_extra(extras):
    (section,) = re.findall(r"^## Install\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert set(extras) <= set(re.findall(r"`(\w+)`", section))


def test_the_wheel_that_is_named_is_the_one_that_is_built():
    assert f"sdn_triton-{sdn_triton.__version__}-py3-none-any.whl" in (ROOT / "README.md").read_text()
    assert f"\n## {sdn_triton.__version__} (20" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed: it comes with the extra docs")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == sdn_triton.__version__
    assert f"## {citation['version']} ({citation['date-released']})" in (ROOT / "CHANGELOG.md").read_text()
    (paper,) = citation["references"]
    readme = (ROOT / "README.md").read_text().replace("\n", " ")
    assert all(f"{author['given-names']} {author['family-names']}" in readme for author in paper["authors"])
    assert paper["title"] in readme


def test_dir_shows_what_is_public():
    assert dir(sdn_triton) == sorted(sdn_triton.__all__)
    assert all(hasattr(sdn_triton, name) for name in dir(sdn_triton))
