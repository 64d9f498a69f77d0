"""What a benchmark wrote (``bench run``, ``compare``), read back and checked: a run, its cases, each result."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..measuring.intervals import Interval, median_interval

SCHEMA = 1
ROLES = ("floor", "baseline", "ours")
KINDS = ("layer", "block", "neck")
PASSES = ("inference", "forward", "backward", "training")
MODES = ("operator", "kernel", "host")
CACHES = ("warm", "cold")
STATUSES = ("ok", "refused", "failed", "unavailable", "skipped")


class RunFileError(ValueError):
    """A file that is not a run; the message names the file and the place in it."""


class Condition(NamedTuple):
    """What two cases must share to stand in one picture or table."""

    mode: str
    cache: str
    dtype: str
    memory_format: str

    def __str__(self) -> str:
        return f"{self.mode} mode, {self.cache} cache, {self.dtype}, {self.memory_format}"

    @property
    def slug(self) -> str:
        """For file names."""
        return "-".join(self)


@dataclass(frozen=True)
class ProviderInfo:
    """How a provider is called and what it stands for: the floor, a baseline, or a path of sdn_triton."""

    name: str
    title: str
    role: str


@dataclass(frozen=True)
class Result:
    """What a provider gave for a case: a time in milliseconds, or the reason why there is none.

    ``interval`` holds the median with 95% confidence; None where there were too few samples to say. ``error`` is the
    largest error of outputs and gradients in sizes of what is allowed, the other two are shares of the exact result.
    """

    provider: str
    status: str
    why: str | None = None
    median: float = math.nan
    interval: Interval | None = None
    samples: tuple[float, ...] = ()
    peak_bytes: int | None = None
    error: float | None = None
    output_error: float | None = None
    gradient_error: float | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def rounds(self) -> int:
        return len(self.samples)

    @property
    def range(self) -> Interval:
        """The interval, or all that the samples span."""
        return self.interval or median_interval(self.samples)


@dataclass(frozen=True)
class Case:
    """One workload in one pass under one condition, with the results of all providers.

    ``flop`` and ``bytes`` are the operations of the layers and the least traffic with the memory.
    """

    id: str
    network: str
    kind: str
    name: str
    stages: tuple[tuple[int, int, int], ...]
    batch: int
    pass_: str
    """Inference, forward, backward or training."""
    condition: Condition
    flop: float
    bytes: float
    results: tuple[Result, ...]

    @property
    def elements(self) -> int:
        """Numbers in the input: batch x channels x rows x columns, over all stages."""
        return self.batch * sum(math.prod(stage) for stage in self.stages)

    @property
    def shape(self) -> str:
        """The first stage, how many follow it, and the batch: ``32x128x128``, ``32x128x128 + 3 stages, batch 4``."""
        first = "x".join(map(str, self.stages[0]))
        more = len(self.stages) - 1
        rest = f" + {more} stage{'s' if more > 1 else ''}" if more else ""
        return f"{first}{rest}{f', batch {self.batch}' if self.batch > 1 else ''}"

    @property
    def workload(self) -> str:
        """Kind and name, said once where they are the same."""
        return self.kind if self.name == self.kind else f"{self.kind} {self.name}"

    @property
    def label(self) -> str:
        """As shown beside other cases of the same pass and condition."""
        return f"{self.network}, {self.workload}: {self.shape}"

    def result(self, provider: str) -> Result | None:
        """The provider's result; None if it was not asked."""
        return next((result for result in self.results if result.provider == provider), None)

    def timed(self) -> tuple[Result, ...]:
        """The results that have a time."""
        return tuple(result for result in self.results if result.ok)


@dataclass(frozen=True)
class Roofs:
    """What the device was seen to do: bytes a second of a copy, operations a second of a matrix product.

    ``matmul`` is the product's in ``dtype``, ``by_dtype`` that in every dtype of the run.
    """

    copy: float
    matmul: float
    dtype: str
    by_dtype: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """One file."""

    path: Path
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    roofs: Roofs | None
    complete: bool
    providers: Mapping[str, ProviderInfo]
    cases: tuple[Case, ...]

    @property
    def device(self) -> str:
        """The device's name, as the file has it."""
        device = self.environment.get("device")
        return str(device.get("name") if isinstance(device, Mapping) else device or "unknown device")

    @property
    def interleaved(self) -> bool:
        """Whether the providers of a case took turns, so that the same round of two can be set beside each other."""
        return bool(self.settings.get("interleaved"))

    def of_role(self, role: str) -> list[ProviderInfo]:
        """The providers that have the role, in the file's order."""
        return [provider for provider in self.providers.values() if provider.role == role]

    def conditions(self) -> list[Condition]:
        """All conditions, in the file's order."""
        return list(dict.fromkeys(case.condition for case in self.cases))

    def told_apart(self, condition: Condition) -> str:
        """What tells a condition from the others of this run; nothing if there are no others."""
        fields = zip(condition, zip(*self.conditions()))
        return ", ".join(value for value, all_values in fields if len(set(all_values)) > 1)

    def case(self, id: str) -> Case:
        """The case of an id."""
        return next(case for case in self.cases if case.id == id)

    def under(self, condition: Condition) -> list[Case]:
        """The cases of one condition."""
        return [case for case in self.cases if case.condition == condition]


def read_run(path: Path) -> Run:
    """Read and check a file.

    Raises:
        RunFileError: the file cannot be read, is no JSON, or a field is missing or has a value that is not allowed.
    """
    return run_of(path, read_content(path))


def read_content(path: Path) -> Any:
    """The JSON of a file, not yet checked.

    Raises:
        RunFileError: the file cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunFileError(f"{path}: not JSON: {error}") from error


def run_of(path: Path, content: Any) -> Run:
    """The run that a file holds, or will hold: ``path`` is for messages.

    Raises:
        RunFileError: a field is missing or has a value that is not allowed.
    """
    top = Fields(path, "", content)
    if (schema := top.get("schema", NUMBER)) != SCHEMA:
        raise RunFileError(f"{path}: schema is {schema}, this version reads {SCHEMA}")
    providers = {}
    for name in top.get("providers", OBJECT):
        fields = top.inside("providers", name)
        providers[name] = ProviderInfo(name, fields.get("title", TEXT), fields.get("role", one_of(ROLES)))
    cases = tuple(_case(Fields(path, f"cases[{i}]", c), providers) for i, c in enumerate(top.get("cases", LIST)))
    counts = Counter(case.id for case in cases)
    if duplicates := sorted(name for name, count in counts.items() if count > 1):
        raise RunFileError(f"{path}: several cases are called {', '.join(duplicates)}")
    return Run(
        path=path,
        environment=top.get("environment", OBJECT),
        settings=top.get("settings", OBJECT),
        roofs=_roofs(top.inside("roofs")) if top.optional("roofs", OBJECT) else None,
        complete=top.get("complete", FLAG),
        providers=providers,
        cases=cases,
    )


def _roofs(fields: Fields) -> Roofs:
    matmul, dtype = fields.get("matmul_flop_per_s", POSITIVE), fields.get("dtype", TEXT)
    by_dtype = fields.optional("matmul_by_dtype", OBJECT) or {dtype: matmul}
    return Roofs(fields.get("copy_bytes_per_s", POSITIVE), matmul, dtype, by_dtype)


def _case(fields: Fields, providers: Mapping[str, ProviderInfo]) -> Case:
    condition = Condition(
        fields.get("mode", one_of(MODES)),
        fields.get("cache", one_of(CACHES)),
        fields.get("dtype", TEXT),
        fields.get("memory_format", TEXT),
    )
    results = fields.get("results", OBJECT)
    for name in results:
        if name not in providers:
            raise fields.wrong(f"results.{name}", name, f"one of the file's providers: {', '.join(providers)}")
    return Case(
        id=fields.get("id", TEXT),
        network=fields.get("network", TEXT),
        kind=fields.get("kind", one_of(KINDS)),
        name=fields.get("name", TEXT),
        stages=tuple(map(tuple, fields.get("stages", STAGES))),
        batch=fields.get("batch", POSITIVE),
        pass_=fields.get("pass", one_of(PASSES)),
        condition=condition,
        flop=fields.get("flop", POSITIVE),
        bytes=fields.get("bytes", POSITIVE),
        results=tuple(_result(name, fields.inside("results", name)) for name in results),
    )


def _result(provider: str, fields: Fields) -> Result:
    status, why = fields.get("status", one_of(STATUSES)), fields.optional("why", TEXT)
    errors = [fields.optional(name, NUMBER) for name in ("error", "output_error", "gradient_error")]
    if status != "ok":
        return Result(provider, status, why or "no reason was given", math.nan, None, (), None, *errors)
    limits, samples = fields.optional("interval_ms", INTERVAL), tuple(fields.get("samples_ms", SAMPLES))
    interval, peak = None if limits is None else Interval(*limits), fields.optional("peak_bytes", NUMBER)
    return Result(provider, status, why, fields.get("median_ms", POSITIVE), interval, samples, peak, *errors)


class Check(NamedTuple):
    """What a field may be, and how that is said."""

    is_met: Callable[[Any], bool]
    allowed: str


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: object) -> bool:
    return _is_number(value) and value > 0  # type: ignore[operator]


def _are_positive(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(map(_is_positive, values))


def one_of(words: Sequence[str]) -> Check:
    """One of a few words."""
    return Check(lambda value: value in words, f"one of {', '.join(words)}")


TEXT = Check(lambda value: isinstance(value, str), "a text")
FLAG = Check(lambda value: isinstance(value, bool), "true or false")
LIST = Check(lambda value: isinstance(value, list), "a list")
OBJECT = Check(lambda value: isinstance(value, dict), "an object")
NUMBER = Check(_is_number, "a finite number")
POSITIVE = Check(_is_positive, "a finite number above zero")
SAMPLES = Check(_are_positive, "a list of finite numbers above zero")
INTERVAL = Check(
    lambda value: _are_positive(value) and len(value) == 2 and value[0] <= value[1],
    "two finite numbers above zero, in order",
)
STAGES = Check(
    lambda value: isinstance(value, list) and bool(value) and all(_are_positive(s) and len(s) == 3 for s in value),
    "a list of [channels, rows, columns], each above zero",
)


@dataclass(frozen=True)
class Fields:
    """An object of the file, at the place ``where``; asking for a field checks it."""

    path: Path
    where: str
    content: Any

    def __post_init__(self) -> None:
        if not isinstance(self.content, dict):
            raise RunFileError(f"{self.path}: {self.where or 'the file'} is not an object")

    def get(self, name: str, check: Check) -> Any:
        """A field that has to be there."""
        if name not in self.content:
            raise RunFileError(f"{self.path}: {self._place(name)} is missing")
        if not check.is_met(value := self.content[name]):
            raise self.wrong(name, value, check.allowed)
        return value

    def optional(self, name: str, check: Check) -> Any:
        """A field that may be missing or null."""
        return None if self.content.get(name) is None else self.get(name, check)

    def wrong(self, name: str, value: object, allowed: str) -> RunFileError:
        """The error that names file, place, the value there and what is allowed."""
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
        return RunFileError(f"{self.path}: {self._place(name)} is {shown}, allowed is {allowed}")

    def inside(self, *names: str) -> Fields:
        """An object further in."""
        content = self.content
        for name in names:
            content = content[name]
        return Fields(self.path, self._place(".".join(names)), content)

    def _place(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name
