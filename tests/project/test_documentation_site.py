"""The documentation site: built strictly, complete, and in need of nothing from elsewhere. `make docs` builds it."""

import doctest
import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.places import ROOT

import sdn_triton

NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml")
EVERY_PAGE = {
    "index.html", "status.html", "api.html", "changelog.html", "contributing.html", "bench/index.html",
    *(f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")),
}  # fmt: skip


def load(name: str):
    for package in NEEDED:
        pytest.importorskip(package, reason=f"{package} is not installed: `make docs` installs it")
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"{package} is not installed: `make docs` installs it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser asks for when it shows a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("img", "script", "source", "iframe") and "src" in given:
            self.found.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.found.append(given["href"])


def test_every_document_is_a_page(site):
    assert {page for page in EVERY_PAGE if not (site / page).is_file()} == set()


def test_the_reference_has_every_public_name_and_formulas(site):
    page = (site / "api.html").read_text()
    described = set(re.findall(r'id="sdn_triton\.(\w+)"', page))
    assert set(sdn_triton.__all__) - {"__version__"} <= described
    assert '<p class="math"><math' in page
    assert not re.search(r":(class|func|meth|mod):|\.\. math::|\.\. code-block::", page)


def test_pages_fetch_nothing_from_elsewhere_and_only_what_is_there(site):
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # for a server, with absolute paths
            continue
        for address in Fetched(page.read_text()).found:
            assert "://" not in address, f"{page.name} fetches {address}"
            assert (page.parent / address.partition("?")[0].partition("#")[0]).is_file(), f"{page.name}: {address}"


def test_links_to_files_of_the_repository_lead_there(site):
    assert (site / "examples" / "unet_by_hand.py").read_text() == (ROOT / "examples" / "unet_by_hand.py").read_text()
    assert 'href="examples/unet_by_hand.py"' in (site / "examples.html").read_text()
    assert 'href="index.html#install"' in (site / "pytorch.html").read_text()


def test_a_link_to_nowhere_is_an_error():
    pages = load("pages")
    with pytest.raises(FileNotFoundError, match=r"docs/a\.md links to \.\./nowhere\.md"):
        pages._relinked("docs/a.md", "see [this](../nowhere.md)")
    code = "`[x](../nowhere.md)`\n```python\nf[0](y)\n```\n"
    assert pages._relinked("docs/a.md", code) == (code, [])


def test_a_public_name_that_the_reference_lacks_is_an_error(monkeypatch):
    pages = load("pages")
    monkeypatch.setitem(pages.API, "Layers", ("SDN",))
    with pytest.raises(ValueError, match="SDNNeck"):
        pages._api()


def test_docstrings_become_markdown():
    module = load("docstrings")
    assert doctest.testmod(module).failed == 0
    assert module.rewritten("A.\n\n.. math:: a\n          + b\n\nB.").count("<math") == 1
