"""Compiled kernels as one file, to be carried to the machine with the GPU.

Triton's cache has a folder for each kernel, named by a hash of all that it depends on: source, arguments, options,
assembler, and the triton package itself, whose library differs from one version of Python to the next. A list in each
folder names its files by absolute paths; it is rewritten for the folder that an archive is unpacked to.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONTENTS = "contents.json"
CACHE = "runtime/cache.py"
"""Of Triton: reads the package's files beside it."""
LIST = "__grp__"
"""How the names of Triton's lists of files begin."""
NEEDED = (".cubin", ".ptx", ".json")
"""What is read of a kernel: to launch it, and to look at its machine code. The rest is what it was compiled from."""
COMPRESSIONS = ("gz", "xz")
LARGEST = 40 * 2**20
"""Bytes that can be carried."""


class ArchiveError(Exception):
    """An archive that cannot be made, or is none."""


def keys_of(package: Path) -> str:
    """What Triton puts into the name of every kernel on behalf of itself, were it the package in this folder.

    A wheel for another version of Python differs in its library only, and compiles to the same.

    Raises:
        ArchiveError: there is no triton, or not the version that runs here.
    """
    import triton

    if not (package / "triton" / CACHE).is_file():
        raise ArchiveError(f"there is no triton in {package}")
    own = Path(triton.__file__).parent
    if any((own / name).read_bytes() != (package / "triton" / name).read_bytes() for name in ("__init__.py", CACHE)):
        raise ArchiveError(f"the triton in {package} is not {triton.__version__}, which runs here")
    spec = importlib.util.spec_from_file_location("sdn_triton_other_cache", package / "triton" / CACHE)
    assert spec is not None
    assert spec.loader is not None
    cache = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cache)
    key: str = cache.triton_key()
    return key


def take_keys_of(package: Path) -> None:
    """From now on this process, and its forks, name kernels as the triton in ``package`` would."""
    from triton.runtime import cache

    key = keys_of(package)
    cache.triton_key = lambda: key


def own_keys() -> str:
    """A short name of what kernels are named by here: two machines that have the same find each other's."""
    from triton.runtime import cache

    return hashlib.sha256(cache.triton_key().encode()).hexdigest()[:16]


def compression_of(archive: Path) -> str:
    """How an archive of this name is compressed: an .xz takes half of a .gz, and longer.

    Raises:
        ArchiveError: the name does not say.
    """
    compression = archive.suffix.removeprefix(".")
    if compression not in COMPRESSIONS:
        raise ArchiveError(f"the name of an archive ends in .{' or .'.join(COMPRESSIONS)}, got {archive.name}")
    return compression


def pack(archive: Path, cache: Path, parts: Mapping[str, Sequence[str]], facts: Mapping[str, Any]) -> int:
    """Write the kernels of all parts, each named by its folder in ``cache``; how many bytes it took.

    Raises:
        ArchiveError: it is larger than can be carried, and nothing is left of it; or it must not have this name.
    """
    compression = compression_of(archive)
    contents = {**facts, "parts": {part: sorted(folders) for part, folders in parts.items()}}
    try:
        with tarfile.open(archive, f"w:{compression}") as file:  # type: ignore[call-overload]
            _add(file, CONTENTS, json.dumps(contents, indent=1).encode())
            for name in sorted({name for folders in parts.values() for name in folders}):
                for path in sorted((cache / name).iterdir()):
                    if path.suffix in NEEDED:
                        _add(file, f"{name}/{path.name}", _without_paths(path))
        size = archive.stat().st_size
        if size > LARGEST:
            raise ArchiveError(f"the archive takes {in_mebibytes(size)}, and {in_mebibytes(LARGEST)} can be carried")
    except BaseException:
        archive.unlink(missing_ok=True)
        raise
    return size


def _add(file: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    file.addfile(info, io.BytesIO(content))


def _without_paths(path: Path) -> bytes:
    if not path.name.startswith(LIST):
        return path.read_bytes()
    names = [name for name in json.loads(path.read_text())["child_paths"] if Path(name).suffix in NEEDED]
    return json.dumps({"child_paths": {name: name for name in names}}).encode()


def unpack(archive: Path, cache: Path) -> dict[str, Any]:
    """Put the kernels into ``cache``, which may hold others; what :func:`pack` said of them.

    Raises:
        ArchiveError: the file is no such archive.
    """
    try:
        with tarfile.open(archive) as file:
            contents: dict[str, Any] = json.loads(file.extractfile(CONTENTS).read())  # type: ignore[union-attr]
            file.extractall(cache, [m for m in file.getmembers() if m.name != CONTENTS], filter="data")
    except (OSError, tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise ArchiveError(f"{archive} is no archive of kernels that can be unpacked to {cache}: {error}") from error
    for name in {name for folders in contents["parts"].values() for name in folders}:
        for path in (cache / name).glob(f"{LIST}*"):
            children = json.loads(path.read_text())["child_paths"]
            paths = {child: str(cache.absolute() / name / child) for child in children}
            path.write_text(json.dumps({"child_paths": paths}))
    return contents


def in_mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
