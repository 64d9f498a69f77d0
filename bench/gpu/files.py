"""The files of ``make gpu``: at most eight come back, and each can be read whenever the run is cut off.

Imports neither torch nor anything of the package, so that the run begins at once.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import ROOT

ENVIRONMENT, SMOKE, BENCH, TESTS, TABLE, SANITIZER, REST, SUMMARY = OUTPUTS = (
    "environment.json",
    "smoke.jsonl",
    "bench.json",
    "tests.txt",
    "table.json",
    "sanitizer.txt",
    "rest.tgz",
    "summary.txt",
)
"""All that a run leaves in its folder."""
LARGEST = 15 * 2**20
"""Bytes of one of them at most: what comes back from a borrowed machine may have 16 MiB."""
LEFT_OUT = "left-out.txt"
"""In the archive: the files that made it too large."""
PART = ".part"
"""How the names of files end that are being written."""


@dataclass(frozen=True)
class Folders:
    """Where a run writes. ``first`` is the folder of part 1, which is ``out`` where both parts are one run.

    ``work`` holds what is still being written, and everything that goes into the archive.
    """

    out: Path
    work: Path
    first: Path

    def result(self, name: str) -> Path | None:
        """A result of this run or of part 1; None if there is none."""
        return next((path for path in (self.out / name, self.first / name) if path.is_file()), None)

    def publish(self, name: str) -> None:
        """Put a file of ``work`` into ``out`` as it is now."""
        source = self.work / name
        if source.is_file():
            write_whole(self.out / name, source.read_bytes(), self.work)

    def write_json(self, name: str, content: Any) -> None:
        """Write a result."""
        write_whole(self.out / name, json.dumps(content, indent=1).encode() + b"\n", self.work)

    def pack(self, largest: int = LARGEST) -> None:
        """Put all of ``work`` into the archive; where it gets too large the largest files are left out, and named."""
        paths = sorted(path for path in self.work.rglob("*") if path.is_file() and path.suffix != PART)
        contents = {}
        for path in paths:
            with suppress(FileNotFoundError):  # whose it is has just removed it
                contents[path.relative_to(self.work).as_posix()] = path.read_bytes()
        left_out: list[str] = []
        while len(archive := _archive(contents)) > largest:
            left_out.append(max(contents.keys() - {LEFT_OUT}, key=lambda name: len(contents[name])))
            del contents[left_out[-1]]
            contents[LEFT_OUT] = "".join(f"{name}\n" for name in left_out).encode()
        write_whole(self.out / REST, archive, self.work)

    def unpack(self) -> None:
        """Take up an archive that is in ``out`` already, as part 2 does with that of part 1."""
        archive = self.out / REST
        if not archive.is_file():
            return
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                path, content = (self.work / member.name).resolve(), tar.extractfile(member)
                if content is not None and path.is_relative_to(self.work.resolve()):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())


def work_folder(out: Path) -> Path:
    """A new folder on the disk of ``out``, so that a file gets there by being renamed; elsewhere if that cannot be."""
    build = ROOT / "build"
    for parent in (build, out.resolve().parent):
        try:
            parent.mkdir(exist_ok=True)
            if parent.stat().st_dev == out.stat().st_dev:
                return Path(tempfile.mkdtemp(prefix="gpu-", dir=parent))
        except OSError:
            continue  # a repository that cannot be written to
    return Path(tempfile.mkdtemp(prefix="gpu-"))


def write_whole(path: Path, content: bytes, work: Path) -> None:
    """Write a file in full or not at all, by way of the folder ``work``."""
    temporary = work / f"{path.name}{PART}"
    temporary.write_bytes(content)
    _replace(temporary, path)


def read_json(path: Path | None) -> Any:
    """The content of a JSON file; None where there is no file."""
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path | None) -> Iterator[dict[str, Any]]:
    """The objects of a file that has one a line; a last line without its end was cut off, and does not count."""
    if path is None:
        return
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _replace(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}{PART}")
        shutil.copyfile(source, beside)
        os.replace(beside, target)
        source.unlink()


def _archive(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
