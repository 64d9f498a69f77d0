"""Pages that mkdocs does not find in docs/: README.md and its neighbours, what they link to, and the API reference.

Documents are written for a code host, where links lead to any file of the repository. Here every such link is followed:
a document becomes a page, any other file is put into the site under its own path.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Documents that have another name in the site."""
REST_OF_README = "status.md"
README_ENDS_BEFORE = "## Two commands\n"
CODE_OR_LINK = re.compile(r"(?P<code>^```.*?^```|`[^`\n]*`)|\]\((?P<target>[^)\s:]+)\)", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r'<picture>.*?srcset="([^"]*)">.*?alt="([^"]*)" src="([^"]*)">\s*</picture>', re.DOTALL)

API = {
    "Layers": ("SemanticDifferenceConv2d", "FeatureFusion", "SDN", "SDNNeck"),
    "Functions": ("semantic_difference_conv2d", "feature_fusion", "anisotropic_diffusion", "suggest_contrast"),
    "In a network": ("attach", "detach", "decomposed"),
    "What runs, and why": ("explain", "Explanation", "BackendUnavailableError"),
    "Types of options": (
        *(f"options.{name}" for name in ("Diffusivity", "Similarity", "PaddingMode", "Activation", "Backend")),
        "options.Contrast",
        "checks.Size",
        "checks.Padding",
    ),
    "sdn_triton.distributed": tuple(
        f"distributed.{name}" for name in ("RowSharded", "semantic_difference_conv2d", "own_rows", "from_own_rows")
    ),
    "sdn_triton.tuning": ("tuning.use_table", "tuning.record_shapes"),
    "sdn_triton.integrations": ("integrations.mmseg", "integrations.pretrained"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in docs/, and every document with its links as they are in the site."""
    todo = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    done: set[str] = set()
    while todo:
        path = todo.pop()
        if path in done:
            continue
        done.add(path)
        if not path.endswith(".md"):
            _put(files, File.generated(config, _place(path), abs_src_path=str(ROOT / path)))
            continue
        text, linked = _relinked(path, (ROOT / path).read_text())
        todo += linked
        if path == "README.md":
            text, rest = text.split(README_ENDS_BEFORE)
            rest = f"# What runs where, and what was measured\n\n{README_ENDS_BEFORE}{rest}"
            _put(files, File.generated(config, REST_OF_README, content=rest))
        _put(files, File.generated(config, _place(path), content=text))
    _put(files, File.generated(config, "api.md", content=_api()))
    return files


def _put(files: Files, file: File) -> None:
    old = files.get_file_from_path(file.src_uri)
    if old is not None:
        files.remove(old)
    files.append(file)


def _place(path: str, anchor: str = "") -> str:
    """Where a file of the repository is in the site."""
    if path == "README.md" and anchor:
        _, rest = (ROOT / path).read_text().split(README_ENDS_BEFORE)
        headings = re.findall(r"^#+ (.*)", README_ENDS_BEFORE + rest, re.MULTILINE)
        if anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}:
            return REST_OF_README
    return PAGES.get(path, path.removeprefix("docs/"))


def _relinked(path: str, text: str) -> tuple[str, list[str]]:
    """The text of a document with links that hold in the site, and the files that it links to."""
    linked = []

    def relink(match: re.Match[str]) -> str:
        target, _, anchor = (match["target"] or "").partition("#")
        if not target:  # code, or a link within the page
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if not (ROOT / found).is_file():
            raise FileNotFoundError(f"{path} links to {target}, which is no file of the repository")
        linked.append(found)
        place = posixpath.relpath(_place(found, anchor), posixpath.dirname(_place(path)) or ".")
        return f"]({place}{'#' + anchor if anchor else ''})"

    # One image for each colour scheme, as the theme tells them apart; the anchor is no link's.
    text = text.replace("```console\n", "```bash\n")  # without prompts it would be taken for output
    text = PICTURE.sub(r"![\2](\3#only-light) ![\2](\1#only-dark)", text)
    return CODE_OR_LINK.sub(relink, text), linked


def _api() -> str:
    """The reference, made of docstrings: what is public, and nothing else."""
    shown = {name for names in API.values() for name in names}
    missing = _public() - shown - {"__version__"}
    if missing:
        raise ValueError(f"public, but in no section of the API reference (docs/site/pages.py): {sorted(missing)}")
    lines = ["# API reference", ""]
    for title, names in API.items():
        lines += [f"## {title}", "", *(f"::: sdn_triton.{name}\n" for name in names)]
    return "\n".join(lines)


def _public() -> set[str]:
    """The names in ``sdn_triton.__all__``, without importing torch."""
    tree: Any = ast.parse((ROOT / "sdn_triton" / "__init__.py").read_text())
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    return {name for node in assigned if node.targets[0].id == "__all__" for name in ast.literal_eval(node.value)}
