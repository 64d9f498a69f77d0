"""Results before times: every output and gradient against a float64 reference.

A path of sdn_triton is right when its error is at most twice that of the plain formula in the same dtype on the same
device, or below an absolute floor; other providers, which may round more often, get four times that. An error is the
largest difference over the largest magnitude. Behind a ReLU a rounding error of ``eps`` flips the gate of a share
``eps`` of all pixels, which changes a few gradients altogether: there the error is taken in the Euclidean norm and
the floor is ``sqrt(eps)``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sdn_triton.tuning.precision import convolutions_may_use_tf32

from ..measuring.clocks import Call, Prepared
from ..measuring.contract import TF32_EPS, bound_of, floor_of
from ..terminal import first_line
from .plain import DifferenceFunction
from .providers import Provider, composite
from .workloads import Workload

Answers = dict[str, Tensor]
SLACK = 4.0
"""How many times as large an error a provider may have that is not ours."""


@dataclass(frozen=True)
class Setting:
    """Where and how everything of a run is computed."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format = torch.contiguous_format
    backward: bool = True

    @property
    def eps(self) -> float:
        """The relative rounding error of one product on this device."""
        is_tf32 = self.device.type == "cuda" and self.dtype == torch.float32 and convolutions_may_use_tf32()
        return TF32_EPS if is_tf32 else torch.finfo(self.dtype).eps

    def applied_to(self, module: nn.Module) -> nn.Module:
        """The module there and in that dtype; beside half types a normalisation stays in float32."""
        module = module.to(self.device, self.dtype)
        module = module.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        if self.dtype.itemsize < 4:
            for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.float()
        return module


@dataclass
class ReadyModule:
    """A module with its inputs, ready to be called; ``around`` is entered around every call."""

    workload: Workload
    module: nn.Module
    inputs: dict[str, Tensor]
    grads: tuple[Tensor, ...]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __post_init__(self) -> None:
        self.leaves = {**self.inputs, **{name: p for name, p in self.module.named_parameters() if p.requires_grad}}

    def forward(self) -> tuple[Tensor, ...]:
        """Inference: evaluation mode is set by the caller, gradients are off."""
        with torch.no_grad():
            return self.recorded()

    def recorded(self) -> tuple[Tensor, ...]:
        """The outputs, with what autograd needs to go back from them."""
        with self.around():
            return self.workload.call(self.module, tuple(self.inputs.values()))

    def back(self, outputs: Sequence[Tensor], retain: bool = False) -> tuple[Tensor | None, ...]:
        """The gradients of all inputs and parameters, from outputs that were recorded."""
        with self.around():
            leaves = list(self.leaves.values())
            return torch.autograd.grad(outputs, leaves, self.grads, allow_unused=True, retain_graph=retain)

    def forward_backward(self) -> tuple[Tensor | None, ...]:
        """The gradients of all inputs and parameters."""
        return self.back(self.recorded())

    def step(self, pass_: str, retain: bool = False) -> Call:
        """What is timed of a pass; sets the module's mode, which holds until the next call of this method.

        Only "inference" runs in evaluation mode. Before every "backward" the forward runs, untimed; with ``retain`` it
        has run once for all of them.
        """
        self.module.train(pass_ != "inference")
        if pass_ != "backward":
            return {"inference": self.forward, "forward": self.recorded, "training": self.forward_backward}[pass_]
        if retain:
            outputs = self.recorded()
            return lambda: self.back(outputs, retain=True)
        kept: list[tuple[Tensor, ...]] = []
        return Prepared(lambda: kept.append(self.recorded()), lambda: self.back(kept.pop()))

    def answers(self, backward: bool) -> Answers:
        """Every output (evaluation mode) and every gradient (training mode) by name."""
        self.module.eval()
        outputs = self.forward()
        names = ["output"] if len(outputs) == 1 else [f"output {i}" for i in range(1, len(outputs) + 1)]
        answers = dict(zip(names, outputs, strict=True))
        if backward:
            self.module.train()
            gradients = zip(self.leaves, self.forward_backward(), strict=True)
            answers |= {f"gradient of {name}": gradient for name, gradient in gradients if gradient is not None}
        return answers


class Problem:
    """One workload with its tensors: inputs, weights and output gradients, the same for every provider."""

    def __init__(self, workload: Workload, setting: Setting) -> None:
        self.workload, self.setting = workload, setting
        self.inputs = {name: self._place(x).requires_grad_() for name, x in workload.inputs().items()}
        generator = torch.Generator().manual_seed(1)
        shapes = [(workload.batch, stage.channels, stage.height, stage.width) for stage in workload.stages]
        self.grads = tuple(self._place(torch.randn(shape, generator=generator)) for shape in shapes)
        self._states: dict[bool, dict[str, Tensor]] = {}
        self._references: dict[DifferenceFunction, Answers] = {}
        self._bounds: dict[DifferenceFunction, dict[str, float]] = {}

    def _place(self, tensor: Tensor) -> Tensor:
        setting = self.setting
        return tensor.to(setting.device, setting.dtype).contiguous(memory_format=setting.memory_format)

    def state(self, guided: bool) -> dict[str, Tensor]:
        """The weights, rounded to the dtype of the run, the normalisation's in float32."""
        if guided not in self._states:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(2)
                module = self.workload.exact(composite, guided)
                for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
                    assert norm.running_mean is not None
                    assert norm.running_var is not None
                    # Away from their initial values, at which the flat parts of an image lie on the edge of the ReLU.
                    nn.init.normal_(norm.bias, std=0.5)
                    nn.init.uniform_(norm.weight, 0.5, 1.5)
                    nn.init.normal_(norm.running_mean, std=0.1)
                    nn.init.uniform_(norm.running_var, 0.5, 2.0)
            self._states[guided] = self.setting.applied_to(module).state_dict()
        return self._states[guided]

    def _load(self, module: nn.Module, guided: bool) -> None:
        """Give a module this problem's weights. The contrast is 1 everywhere, and plain forms have none to load."""
        contrasts = {name: value for name, value in module.state_dict().items() if name.endswith("contrast")}
        module.load_state_dict(contrasts | self.state(guided))

    def make_ready(self, provider: Provider) -> ReadyModule:
        """The provider's module with this problem's weights and inputs."""
        module = self.setting.applied_to(self.workload.module(provider))
        self._load(module, provider.guided)
        return ReadyModule(self.workload, module, self.inputs, self.grads, provider.around)

    def reference(self, provider: Provider) -> Answers:
        """What the provider should answer, in float64."""
        if provider.exact not in self._references:
            module = self.workload.exact(provider.exact, provider.guided)
            module = module.to(self.setting.device, torch.float64)
            self._load(module, provider.guided)
            inputs = {name: x.detach().double().requires_grad_() for name, x in self.inputs.items()}
            ready = ReadyModule(self.workload, module, inputs, tuple(grad.double() for grad in self.grads))
            self._references[provider.exact] = ready.answers(self.setting.backward)
        return self._references[provider.exact]

    def errors(self, provider: Provider, answers: Answers) -> dict[str, float]:
        """The error of each output and gradient; infinite where one is missing or misshapen."""
        reference = self.reference(provider)
        return {name: self._error(name, answers.get(name), exact) for name, exact in reference.items()}

    def _error(self, name: str, answer: Tensor | None, exact: Tensor) -> float:
        if answer is None or answer.shape != exact.shape:
            return float("inf")
        order = 2.0 if self._is_gated(name) else float("inf")
        size: float = torch.linalg.vector_norm(exact, ord=order).item()
        error: float = torch.linalg.vector_norm(answer.detach().double() - exact, ord=order).item()
        return float("inf") if math.isnan(error) else error / size if size > 0 else error

    def _is_gated(self, name: str) -> bool:
        return self.workload.gates_gradients and name.startswith("gradient")

    def bounds(self, provider: Provider) -> dict[str, float]:
        """The largest error allowed for each output and gradient."""
        slack = 1.0 if provider.ours else SLACK
        if provider.exact not in self._bounds:
            module = self.setting.applied_to(self.workload.exact(_same_dtype(provider), provider.guided))
            self._load(module, provider.guided)
            answers = ReadyModule(self.workload, module, self.inputs, self.grads).answers(self.setting.backward)
            errors = self.errors(provider, answers)
            self._bounds[provider.exact] = {name: bound_of(error, self._floor(name)) for name, error in errors.items()}
        return {name: slack * bound for name, bound in self._bounds[provider.exact].items()}

    def _floor(self, name: str) -> float:
        eps = self.setting.eps
        return math.sqrt(eps) if self._is_gated(name) else floor_of(eps)

    def forget(self) -> None:
        """Give the memory of references back before anything is timed."""
        self._references.clear()


def _same_dtype(provider: Provider) -> DifferenceFunction:
    """What to run in the same dtype: sdn_triton's plain formula for a difference convolution, else the provider's."""
    return composite if provider.guided else provider.exact


def violations(errors: Mapping[str, float], bounds: Mapping[str, float]) -> Sequence[str]:
    """What is wrong, one line each; empty for a right answer."""
    return [
        f"{name}: error {error:.1e}, allowed {bounds[name]:.1e}"
        for name, error in errors.items()
        if not error <= bounds[name]
    ]


@dataclass
class Finding:
    """What a check says of a provider; ``status`` is ok, refused (it is wrong), failed or unavailable."""

    status: str = "ok"
    why: str | None = None
    errors: dict[str, float] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    first_call_seconds: float | None = None

    def figures(self) -> dict[str, float | None]:
        """The errors for the JSON file; None where nothing was compared, or nothing comparable came."""
        return {
            "error": _largest(error / self.bounds[name] for name, error in self.errors.items()),
            "output_error": _largest(error for name, error in self.errors.items() if name.startswith("output")),
            "gradient_error": _largest(error for name, error in self.errors.items() if name.startswith("gradient")),
        }


def _largest(errors: Iterator[float]) -> float | None:
    worst = max(errors, default=math.inf)
    return worst if worst < math.inf else None


def check(problem: Problem, provider: Provider) -> tuple[Finding, ReadyModule | None]:
    """Run a provider and hold its outputs and gradients against float64; no module where it must not be timed."""
    finding = Finding()
    try:
        with _no_trials():
            finding.bounds = problem.bounds(provider)
            start = time.perf_counter()
            ready = problem.make_ready(provider)
            answers = ready.answers(problem.setting.backward)
            finding.first_call_seconds = time.perf_counter() - start
            finding.errors = problem.errors(provider, answers)
    except torch.OutOfMemoryError:
        finding.status, finding.why = "unavailable", "out of memory"
        return finding, None
    except Exception as error:
        finding.status, finding.why = "failed", first_line(error)
        return finding, None
    if wrong := violations(finding.errors, finding.bounds):
        finding.status, finding.why = "refused", "; ".join(wrong)
        return finding, None
    return finding, ready


@contextmanager
def _no_trials() -> Iterator[None]:
    """Inside, cuDNN does not time all of its algorithms to take the fastest: float64 references need no fast one."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
