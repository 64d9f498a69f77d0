"""The library as a repository for Hugging Face's ``kernels``: ``python -m sdn_triton.integrations.hub --out FOLDER``.

``kernels`` loads a folder under a name of its own choosing, beside other versions of the same. So here imports are
relative, operators are registered under a name of their own, and what needs a command line is left out. Tables of tuned
configurations come along, as JSON.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from sdn_triton._version import __version__

PACKAGE = Path(__file__).parents[1]
NAME = "sdn_triton"
BACKENDS = ("cuda", "cpu")
LEFT_OUT = ("bench", "integrations", "cli.py", "extras.py", "streams.py", "__main__.py")
"""What is for the command line or for another framework."""
NAMESPACE = f'NAMESPACE = "{NAME}"\n'
"""The line that says under which name operators are registered."""
CARD = """---
library_name: kernels
license: apache-2.0
tags: [kernels]
---

# sdn_triton {version}

Semantic Diffusion Network layers for PyTorch, in Triton kernels (not generative diffusion). Made from the sources by
`python -m sdn_triton.integrations.hub`.

```python
from kernels import get_local_kernel

sdn_triton = get_local_kernel("PATH OF THIS FOLDER")
neck = sdn_triton.SDNNeck([32, 64, 160, 256])
```
"""


def write_repository(folder: Path) -> list[Path]:
    """Write the repository into ``folder``; the variants that it has.

    Raises:
        FileExistsError: there is something in the folder that is no such repository.
        ValueError: a source imports what is left out, or the operators' name is not where it was.
    """
    if folder.exists() and any(folder.iterdir()) and not any(folder.glob("build/torch-*/metadata.json")):
        raise FileExistsError(f"{folder} has other files: name a folder that is empty or not there")
    sources = dict(sorted(_sources()))
    digest = hashlib.sha256()
    for path, content in sources.items():
        digest.update(f"{path}\n{len(content)}\n".encode() + content)
    variants = []
    for backend in BACKENDS:
        identity = f"_{NAME}_{backend}_{digest.hexdigest()[:12]}"
        variant = folder / "build" / f"torch-{backend}"
        shutil.rmtree(variant, ignore_errors=True)
        _write_variant(variant, sources, identity, backend)
        variants.append(variant)
    (folder / "README.md").write_text(CARD.format(version=__version__))
    return variants


def _sources() -> Iterator[tuple[Path, bytes]]:
    """What is copied, by its place in the package."""
    for file in _files(PACKAGE):
        yield file.relative_to(PACKAGE), file.read_bytes()


def _files(folder: Path) -> Iterator[Path]:
    """Sources and tables in a folder and those below; links are followed, as that to the kernels is one."""
    for file in folder.iterdir():
        if (file.name in LEFT_OUT and folder == PACKAGE) or file.name == "__pycache__":
            continue
        if file.is_dir():
            yield from _files(file)
        elif file.suffix in (".py", ".json") or file.name == "py.typed":
            yield file


def _write_variant(variant: Path, sources: dict[Path, bytes], identity: str, backend: str) -> None:
    registering = 0
    for path, content in sources.items():
        target = variant / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            text = relative_imports(content.decode(), path)
            registering += text.count(NAMESPACE)
            text = text.replace(NAMESPACE, f'NAMESPACE = "{identity}"\n')
            content = text.replace(f"torch.ops.{NAME}", f"torch.ops.{identity}").encode()
        target.write_bytes(content)
    if registering != 1:
        raise ValueError(f"{NAMESPACE.strip()!r} must stand in one file of the sources, found {registering} times")
    metadata = {
        "id": identity,
        "name": NAME.replace("_", "-"),
        "version": int(__version__.partition(".")[0]),
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend},
    }
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def relative_imports(source: str, path: Path) -> str:
    """The source of the module at ``path`` in the package, with relative imports in the place of absolute ones.

    Raises:
        ValueError: it imports what is left out, or imports the package in another way than ``from … import …``.

    Example:
        >>> relative_imports("from sdn_triton.backend import choose", Path("ops/path.py"))
        'from ..backend import choose'
    """
    lines = source.splitlines(keepends=True)
    dots = "." * len(path.parts)
    left_out = {Path(name).stem for name in LEFT_OUT}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(name.name.partition(".")[0] == NAME for name in node.names):
            raise ValueError(f"{path}, line {node.lineno}: write it as `from {NAME} import …`")
        if not isinstance(node, ast.ImportFrom) or node.level or node.module is None:
            continue
        package, _, inside = node.module.partition(".")
        if package != NAME:
            continue
        modules = [inside.partition(".")[0]] if inside else [alias.name for alias in node.names]
        for module in modules:
            if module in left_out:
                raise ValueError(f"{path}, line {node.lineno}: imports {NAME}.{module}, which is left out")
        absolute = re.compile(rf"\bfrom {re.escape(node.module)}\b")
        lines[node.lineno - 1] = absolute.sub(f"from {dots}{inside}", lines[node.lineno - 1], count=1)
    return "".join(lines)


def main() -> None:
    """Write the repository and say what it has."""
    parser = argparse.ArgumentParser(description="Write this library as a repository for Hugging Face's kernels.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to; made if it is not there")
    args = parser.parse_args()
    try:
        variants = write_repository(args.out)
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))
    print("\n".join(map(str, variants)))


if __name__ == "__main__":
    main()
