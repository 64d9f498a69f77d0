"""Compile ahead what smoke, benchmark, tuner and tests launch.

``python -m sdn_triton.bench.gpu.precompile --arch sm_90``.

No GPU is asked. What is in Triton's cache already costs next to nothing; what is not goes there, in as many processes
as there are cores, so that a later launch finds it. Kernels may be compiled on another machine: ``--archive`` writes
those of the chosen parts to a file, ``--unpack`` puts them into the cache of the machine with the GPU. Both must have
the same triton. Its wheels for different versions of Python differ in the names that they give to kernels and in
nothing else that counts: ``--keys-of`` takes the names of another one, unpacked into a folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sdn_triton.aot.compile import TARGETS, OfflineDriver, active_driver
from sdn_triton.backend import INTERPRETED, is_interpreted
from sdn_triton.tuning.files import write_json
from sdn_triton.tuning.pipelining import triton_version
from sdn_triton.tuning.shapes import LayerShape

from .. import arguments
from ..problems.suites import SUITES
from ..terminal import first_line
from . import specialisations
from .archive import ArchiveError, compression_of, in_mebibytes, own_keys, pack, take_keys_of, unpack
from .specialisations import Specialisation
from .tuning import SHAPE
from .where import EMULATED, Place
from .workers import Apart, Row

PARTS = ("smoke", "bench", "tune", "tests")
USUAL = ("smoke", "bench", "tune")
CANDIDATES = 32
OWN_LAUNCHERS = (3, 7)
"""The first triton that compiles nothing but kernels; before, a C compiler makes what launches each kind of kernel."""


@dataclass(frozen=True)
class Compilation:
    """A task: one kernel into the cache."""

    specialisation: Specialisation

    family = "compilation"
    spoils_its_process = False

    def facts(self) -> Row:
        return {"kernel": self.specialisation.name}

    def run(self, place: Place) -> Row:
        """Where it lies in the cache, whether it lay there before, and the seconds that it took."""
        from triton import knobs

        was_there: list[bool] = []
        start = time.perf_counter()
        row: Row = self.facts() | {"ok": True, "why": None}
        try:
            with active_driver(OfflineDriver(place.target)), knobs.compilation.scope():
                knobs.compilation.listener = lambda *, cache_hit, **unused: was_there.append(cache_hit)
                kernel = self.specialisation.compile()
            build_launcher(kernel)
            row["folder"] = Path(next(iter(kernel.metadata_group.values()))).parent.name
        except Exception as error:
            row |= {"ok": False, "why": first_line(error)}
        return row | {"was_there": all(was_there), "seconds": round(time.perf_counter() - start, 3)}

    def variants(self, place: Place) -> Sequence[Compilation]:
        return ()


def build_launcher(kernel: Any) -> None:
    """Compile what launches a kernel, where this triton does that and there is a driver's library to link it with."""
    version = triton_version()
    if version is None or version >= OWN_LAUNCHERS:
        return
    from triton.backends.nvidia import driver

    try:
        driver.libcuda_dirs()
    except AssertionError:  # there is none, so that nothing is launched here either
        return
    driver.CudaLauncher(kernel.src, kernel.metadata)


def compile_all(tasks: Sequence[Compilation], place: Place, processes: int, seconds: float = float("inf")) -> list[Row]:
    """The row of each task, in their order; those that the seconds do not reach say so."""
    stop = time.perf_counter() + seconds
    workers = [Apart(place, "fork") for _ in range(min(processes, len(tasks)))]
    idle: SimpleQueue[Apart] = SimpleQueue()
    for worker in workers:
        worker.start()  # before there are threads
        idle.put(worker)

    def run(task: Compilation) -> Row:
        left = stop - time.perf_counter()
        if left <= 0:
            return task.facts() | {"ok": None, "why": "not reached: the time was up"}
        worker = idle.get()
        try:
            return worker.run(task, left)
        finally:
            idle.put(worker)

    try:
        with ThreadPoolExecutor(max(len(workers), 1)) as pool:
            return list(pool.map(run, tasks))
    finally:
        for worker in workers:
            worker.close()


def collect(part: str, args: argparse.Namespace, seconds: float) -> list[Specialisation]:
    """What a part will launch; of the tests what the seconds suffice to find out."""
    if part == "tests":
        return specialisations.of_tests(args.arch, args.processes, seconds)
    with specialisations.collected(TARGETS[args.arch]) as launched:
        if part == "smoke":
            specialisations.of_smoke(args.arch)
        elif part == "bench":
            specialisations.of_bench(args.arch, args.suite)
        else:
            specialisations.of_tune(args.arch, args.shape or [SHAPE], args.candidates)
    return list(launched)


def report(part: str, rows: Sequence[Row]) -> dict[str, Any]:
    """How many kernels of a part there are, and what became of them; printed, too."""
    counts = {
        "kernels": len(rows),
        "were there": sum(row["ok"] is True and row["was_there"] for row in rows),
        "compiled": sum(row["ok"] is True and not row["was_there"] for row in rows),
        "not reached": sum(row["ok"] is None for row in rows),
        "failed": sum(row["ok"] is False for row in rows),
    }
    print(f"{part}: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count), flush=True)
    for row in rows:
        if row["ok"] is False:
            print(f"  {row['kernel']}: {row['why']}", flush=True)
    return counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.gpu.precompile", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--arch", choices=EMULATED, default="sm_90", help="what is compiled for (default: sm_90)")
    add(
        "--part",
        action="append",
        choices=PARTS,
        help=f"default: {', '.join(USUAL)}; for the tests' pytest runs them, which launch nothing then",
    )
    add("--processes", type=arguments.count, default=os.cpu_count() or 1, metavar="N", help="default: the cores here")
    add("--seconds", type=arguments.seconds, default=float("inf"), help="nothing is begun, nor waited for, after these")
    add("--cache", type=Path, metavar="FOLDER", help="default: Triton's own, see TRITON_CACHE_DIR")
    add("--suite", choices=list(SUITES), default="gpu", help="of the benchmark (default: gpu)")
    add(
        "--shape",
        type=arguments.saying(LayerShape.parse),
        action="append",
        metavar="KEY=VALUE,...",
        help=f"tuned (default: {SHAPE})",
    )
    add(
        "--candidates",
        type=arguments.count,
        default=CANDIDATES,
        metavar="N",
        help=f"of a kernel (default: {CANDIDATES})",
    )
    add("--json", type=arguments.writable_file, metavar="FILE", help="the counts of each part")
    add(
        "--archive",
        type=_archive_file,
        metavar="FILE",
        help="write the kernels of these parts to a .tar.gz or .tar.xz",
    )
    add("--keys-of", type=Path, metavar="FOLDER", help="name kernels as the triton package in this folder does")
    add("--unpack", type=arguments.existing_file, metavar="FILE", help="put an archive into the cache, and do no more")
    return parser


def _archive_file(text: str) -> Path:
    path = arguments.writable_file(text)
    try:
        compression_of(path)
    except ArchiveError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, pack or unpack; 1 if a kernel does not compile or an archive fails."""
    from triton import knobs

    parser = _parser()
    args = parser.parse_args(argv)
    if is_interpreted():
        parser.error(f"Triton interprets in this process; unset {INTERPRETED}")
    if args.cache is not None:
        knobs.cache.dir = str(args.cache.absolute())
    cache = Path(knobs.cache.dir)
    try:
        if args.unpack is not None:
            return _unpack(args.unpack, cache)
        if args.keys_of is not None:
            take_keys_of(args.keys_of)
        return _compile(args, cache)
    except ArchiveError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1


def _unpack(archive: Path, cache: Path) -> int:
    contents = unpack(archive, cache)
    print(f"{_kernel_counts(contents['parts'])} in {cache}")
    if contents["keys"] != own_keys():
        print(
            f"none of them will be found here: they are for triton {contents['triton']} and another version of Python, "
            "or another build"
        )
    return 0


def _compile(args: argparse.Namespace, cache: Path) -> int:
    start = time.perf_counter()
    place = Place(args.arch)
    row_of: dict[Specialisation, Row] = {}
    parts: dict[str, list[Row]] = {}
    counts: dict[str, dict[str, Any]] = {}
    for part in dict.fromkeys(args.part or USUAL):
        launched = collect(part, args, max(args.seconds - (time.perf_counter() - start), 0.0))
        new = [specialisation for specialisation in launched if specialisation not in row_of]
        left = max(args.seconds - (time.perf_counter() - start), 0.0)
        row_of |= zip(new, compile_all([Compilation(s) for s in new], place, args.processes, left))
        parts[part] = [row_of[specialisation] for specialisation in launched]
        counts[part] = report(part, parts[part])
    seconds = round(time.perf_counter() - start, 1)
    print(f"{len(row_of)} kernels for {args.arch}, {seconds} s with {args.processes} processes; in {cache}")
    if args.json is not None:
        write_json(args.json, {"arch": args.arch, "seconds": seconds, "processes": args.processes, "parts": counts})
    if args.archive is not None:
        _archive(args, cache, parts)
    return int(any(row["ok"] is False for row in row_of.values()))


def _archive(args: argparse.Namespace, cache: Path, parts: Mapping[str, Sequence[Row]]) -> None:
    import triton

    folders = {part: sorted({row["folder"] for row in rows if row["ok"]}) for part, rows in parts.items()}
    facts = {
        "arch": args.arch,
        "triton": triton.__version__,
        "keys": own_keys(),
        "python": platform.python_version() if args.keys_of is None else f"that of {args.keys_of.name}",
    }
    size = pack(args.archive, cache, folders, facts)
    print(f"{args.archive}: {in_mebibytes(size)}; {_kernel_counts(folders)}")


def _kernel_counts(parts: Mapping[str, Sequence[str]]) -> str:
    total = len({folder for folders in parts.values() for folder in folders})
    return f"{total} kernels ({', '.join(f'{len(folders)} of {part}' for part, folders in parts.items())})"


if __name__ == "__main__":
    sys.exit(main())
