"""``make prove``: what a verifier proves of the compiled kernels.

sentryward reads PTX and proves, for one launch and every schedule of its threads, that accesses to the same bytes are
ordered and barriers met by all; given a PyTorch function, that the results equal it in real arithmetic. Every kernel is
compiled ahead of time for a launch that is as small as its loop allows. The verdicts are kept in
``bench/results/proofs.json`` and shown in ``docs/proofs.md``. Needs the package sentryward, and no GPU.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sdn_triton.extras import how_to_install
from sdn_triton.streams import guarded
from sdn_triton.tuning.configs import KernelConfig

from .. import RESULTS, ROOT, arguments
from ..measuring.environment import package_version
from ..measuring.revision import git_revision
from ..measuring.saving import save
from ..terminal import Report
from .references import REFERENCES, Reference

if TYPE_CHECKING:  # these import triton
    from sdn_triton.aot.compile import Compiled
    from sdn_triton.launch.run import Launch

RECORD = RESULTS / "proofs.json"
ARCHITECTURES = ("sm_80", "sm_100")
"""Those whose tensor instructions the verifier knows: it has no meaning for Hopper's."""
ARITHMETIC = "bf16"
MEMORY = 8192
"""MiB that a proof may take."""

# Configuration; channels and outputs; rows and columns of the image.
_ONE_TRIP = KernelConfig(16, 16, 32, 32, 4, 1), (32, 32), (1, 16)
_PIPELINED = KernelConfig(32, 16, 32, 32, 4, 2), (64, 32), (2, 16)
LAUNCHES = {
    "difference_forward": _ONE_TRIP,
    "difference_data_gradient": _ONE_TRIP,
    "difference_weight_gradient": _ONE_TRIP,
    "depthwise_forward": _ONE_TRIP,
    "depthwise_data_gradient": _ONE_TRIP,
    "depthwise_weight_gradient": _ONE_TRIP,
    "similarity": _ONE_TRIP,
    "similarity_gradient": _ONE_TRIP,
    "block_forward": _ONE_TRIP,
    "tap_products": _PIPELINED,
    "edge_products": (KernelConfig(32, 16, 64, 32, 4, 2), (128, 32), (1, 8)),
    "fusion_forward": _PIPELINED,
    "fusion_data_gradient": _PIPELINED,
    "fusion_weight_gradient": _PIPELINED,
}
"""The smallest launch of every kernel that goes round its loop: 3x3 taps, or two blocks of channels."""
PACKED_LAUNCHES = {
    "difference_forward": (KernelConfig(128, 16, 32, 64, 4, 3, pairs=True), (32, 64), (8, 16)),
    "difference_data_gradient": (KernelConfig(32, 16, 32, 64, 4, 1, pairs=True), (32, 32), (2, 16)),
    "difference_weight_gradient": (KernelConfig(64, 16, 32, 64, 8, 2, pairs=True), (32, 64), (8, 16)),
    "block_forward": (KernelConfig(128, 16, 32, 64, 4, 2, pairs=True), (32, 64), (8, 16)),
}
"""Those of the kernels that take two channels at a time, on architectures that have them."""
FORMULA_LAUNCHES = {
    "difference_forward": (KernelConfig(16, 16, 32, 32, 1, 1), (32, 32), (1, 16)),
    "fusion_forward": (KernelConfig(16, 16, 64, 32, 1, 1), (64, 32), (1, 16)),
}
"""Those that are compared with their formulas: one warp, whose values the verifier can follow through shared memory."""
ORIGINS = {
    "inputs": {"source_offset": 0, "target_offset": 0},
    "outputs": {"left_offset": 0, "right_offset": 0},
}
"""Where tensors begin in their memory."""
VERDICTS = {
    "race_free": "proved",
    "verified": "proved",
    "potential_race": "refuted",
    "not_wellsynced": "refuted",
    "invalid_lifecycle": "refuted",
}
"""What the verifier's words come to; every other one leaves the claim not decided."""


@dataclass(frozen=True)
class Claim:
    """A launch of a kernel that is to be proved free of races, and where ``equal``, equal to its formula."""

    kernel: str
    architecture: str
    config: KernelConfig
    channels: int
    outputs: int
    size: tuple[int, int]
    equal: bool = False

    def __str__(self) -> str:
        return f"{self.kernel} {self.architecture}{' and its formula' if self.equal else ''}"


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of a compiled kernel: ``result`` is its word, ``reason`` what it adds to it.

    ``function`` is the kernel's name in ``kernels/``, with a number where it is launched more than once.
    """

    kernel: str
    function: str
    architecture: str
    claim: str
    launch: str
    verdict: str
    result: str
    reason: str
    seconds: float


def claims(architectures: Sequence[str], kernels: Sequence[str]) -> Iterator[Claim]:
    """Those about the kernels on the architectures."""
    for architecture in architectures:
        packed = PACKED_LAUNCHES if architecture == "sm_100" else {}
        for kernel, (config, (channels, outputs), size) in (*LAUNCHES.items(), *packed.items()):
            if kernel in kernels:
                yield Claim(kernel, architecture, config, channels, outputs, size)
        for kernel, (config, (channels, outputs), size) in FORMULA_LAUNCHES.items():
            if kernel in kernels:
                yield Claim(kernel, architecture, config, channels, outputs, size, equal=True)


def examine(claim: Claim, seconds: float) -> Iterator[Verdict]:
    """Compile the launches that a kernel has, mostly one, and have each examined."""
    from sdn_triton.aot.compile import TARGETS, compile_launch
    from sdn_triton.aot.examples import example_launches

    launches = example_launches(
        claim.kernel,
        ARITHMETIC,
        claim.config,
        channels=claim.channels,
        outputs=claim.outputs,
        size=claim.size,
        images=1,
    )
    for number, launch in enumerate(launches, 1):
        compiled = compile_launch(launch, TARGETS[claim.architecture])
        started = time.monotonic()
        report = verify(launch, compiled, seconds, REFERENCES[claim.kernel] if claim.equal else None)
        yield Verdict(
            kernel=claim.kernel,
            function=f"{launch.name} {number}" if len(launches) > 1 else launch.name,
            architecture=claim.architecture,
            claim="no race, equal to its formula" if claim.equal else "no race",
            launch=f"{launch.grid} blocks, {claim.config}".removesuffix(" (explicit)"),
            verdict=VERDICTS.get(report["result"], "not decided"),
            result=report["result"],
            reason=reason(report),
            seconds=round(time.monotonic() - started, 1),
        )


def verify(launch: Launch, compiled: Compiled, seconds: float, reference: Reference | None) -> dict[str, Any]:
    """Run the verifier in a process of its own; its report.

    Raises:
        RuntimeError: it printed no report.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernel.ptx").write_text(compiled.assembly["ptx"])
        (folder / "input.json").write_text(json.dumps(describe(launch, compiled)))
        command = [sys.executable, "-m", "sentryward", "kernel.ptx", "--input", "input.json"]
        command += ["--timeout", str(seconds), "--memory-limit-mib", str(MEMORY)]
        if reference is not None:
            # The verifier imports the file under this name, and torch.export the function's module.
            (folder / "example_reference.py").write_text(
                f"from sdn_triton.bench.proofs.references import {reference.formula.__name__} as reference\n"
            )
            (folder / "binding.json").write_text(json.dumps(bind(launch, compiled, reference)))
            command += ["--reference", "example_reference.py", "--reference-binding", "binding.json"]
        # The process runs in another folder, from which this package may not be found by itself.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError as error:
        raise RuntimeError(f"sentryward gave no report: {done.stderr or done.stdout}") from error
    return dict(report)


def describe(launch: Launch, compiled: Compiled) -> dict[str, Any]:
    """Grid, threads, shared memory and numbers of a launch; pointers stay symbols, each to memory of its own."""
    kinds = {"i32": "u32", "i64": "u64", "fp32": "f32"}
    numbers = [
        {"parameter": f"{launch.name}_param_{place}", "type": kinds[kind], "value": launch.value_of(name)}
        for place, (name, kind) in enumerate(compiled.parameters.items())
        if not kind.startswith("*")
    ]
    return {
        "schema": "spverify.kernel-input/v1",
        "launch": {
            "grid_dim": [*launch.grid, 1, 1][:3],
            "block_dim": [compiled.threads, 1, 1],
            "cluster_dim": [1, 1, 1],
            "dynamic_shared_bytes": compiled.shared_bytes,
        },
        "arguments": numbers,
    }


def bind(launch: Launch, compiled: Compiled, reference: Reference) -> dict[str, Any]:
    """Which memory of the kernel holds which argument of the formula, and which its result."""
    places = list(compiled.parameters)

    def memory(pointer: str) -> str:
        name = f"input.arg{places.index(pointer)}.0"
        return f"6:global{len(name)}:{name}"

    def layout(pointer: str) -> dict[str, Any]:
        tensor = matrix(launch.arguments[pointer])
        strides = [stride * tensor.element_size() for stride in tensor.stride()]
        both = {f"{side}_strides_bytes": strides for side in ("source", "target")}
        return {"shape": list(tensor.shape), "element_bytes": tensor.element_size(), **both, **ORIGINS["inputs"]}

    inputs = {"layouts": {memory(pointer): layout(pointer) for pointer in reference.arguments}}
    names = list(inspect.signature(reference.formula).parameters)
    result = matrix(launch.arguments[reference.output])
    strides = [stride * result.element_size() for stride in result.stride()]
    return {
        "left_inputs": inputs,
        "right_inputs": inputs,
        "outputs": {
            "kind": "dense_tensor",
            "shape": list(result.shape),
            "element_bytes": result.element_size(),
            **{f"{side}_allocation": memory(reference.output) for side in ("left", "right")},
            **{f"{side}_strides_bytes": strides for side in ("left", "right")},
            **ORIGINS["outputs"],
        },
        "reference": {
            "arguments": [
                {
                    "name": name,
                    "allocation": memory(pointer),
                    "shape": list(matrix(launch.arguments[pointer]).shape),
                    "dtype": str(launch.arguments[pointer].dtype).removeprefix("torch."),
                }
                for name, pointer in zip(names, reference.arguments)
            ]
        },
    }


def matrix(tensor: Tensor) -> Tensor:
    """An image of one row as [columns, channels], as the formulas take it; other tensors as they are."""
    return tensor[0, :, 0].T if tensor.ndim == 4 and tensor.shape[0] == tensor.shape[2] == 1 else tensor


def reason(report: dict[str, Any]) -> str:
    """The first diagnostic of a report, and where the two accesses of a race are."""
    words = [entry.get("message") or entry.get("code", "") for entry in report.get("diagnostics", [])[:1]]
    for race in report.get("races", [])[:1]:
        first, second = race["first"], race["second"]
        place = first["location"]
        words.append(
            f"{first['mode']} and {second['mode']} of {race['region']['address_space']} memory, "
            f"{Path(place['file']).name}:{place['line']}"
        )
    return "; ".join(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Examine, print, write; 0, or 1 where a verdict is worse than the one on record."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.proofs", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--kernel", action="append", choices=list(LAUNCHES), help="may be repeated (default: all)")
    add("--arch", action="append", choices=ARCHITECTURES, help="may be repeated (default: all)")
    add("--seconds", type=arguments.seconds, default=300.0, help="for one claim (default: %(default)s)")
    add("--json", type=arguments.writable_file, metavar="FILE", help="write the verdicts")
    args = parser.parse_args(argv)
    for package in ("triton", "sentryward"):
        if find_spec(package) is None:
            parser.error(f"needs {package}: {how_to_install('interpreter', 'prove')}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("0", ""):
        parser.error("needs Triton's compiler, but TRITON_INTERPRET is set: unset it")

    before = recorded()
    verdicts: list[Verdict] = []
    asked = list(claims(args.arch or ARCHITECTURES, args.kernel or list(LAUNCHES)))
    report = Report(len(asked))
    with report:
        for claim in asked:
            report.begin(str(claim))
            for verdict in examine(claim, args.seconds):
                verdicts.append(verdict)
                report.say(f"{verdict.function} {verdict.architecture}, {verdict.claim}: {verdict.verdict}")
            report.done()
    if args.json is not None:
        environment = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "git": git_revision(),
            **{package: package_version(package) for package in ("sentryward", "triton", "torch")},
        }
        settings = {"seconds": args.seconds, "mebibytes": MEMORY, "arithmetic": ARITHMETIC}
        save(args.json, {"environment": environment, "settings": settings, "verdicts": list(map(asdict, verdicts))})
    lost = worse(verdicts, before)
    for verdict in lost:
        print(f"worse than on record: {verdict}", file=sys.stderr)
    return int(bool(lost))


def worse(verdicts: Sequence[Verdict], before: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that refute, or no longer prove, what was not refuted, or was proved, before."""

    def rank(verdict: Verdict) -> int:
        return ("refuted", "not decided", "proved").index(verdict.verdict)

    earlier = {_claimed(v): rank(v) for v in before}
    return [v for v in verdicts if rank(v) < earlier.get(_claimed(v), 1)]


def _claimed(verdict: Verdict) -> tuple[str, str, str, str]:
    return verdict.kernel, verdict.function, verdict.architecture, verdict.claim


def recorded(path: Path = RECORD) -> list[Verdict]:
    """The verdicts of a file; none where there is no file."""
    return [Verdict(**fields) for fields in json.loads(path.read_text())["verdicts"]] if path.is_file() else []


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.proofs", main))
