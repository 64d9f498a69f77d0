"""What every operator has in common: it runs on one of two paths, and is registered with PyTorch.

In eager mode a call goes straight to the path. Where PyTorch traces or intercepts calls (torch.compile, torch.export,
fake tensors, dispatch modes) it goes through an operator registered with ``torch.library``, which does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sdn_triton.backend import Decision, choose, is_on_gpu, is_recording, note, prefers_triton
from sdn_triton.ops.batching import image_by_image
from sdn_triton.outputs import empty_output
from sdn_triton.tracing import are_plain, in_memory, only_has_a_shape
from sdn_triton.tuning import fallback
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.shapes import note_call, tune_command

Arguments = Sequence[Any]
NAMESPACE = "sdn_triton"


@dataclass(frozen=True, eq=False)
class PathOperator:
    """One operator ``y = f(*arguments, static)`` where any argument may be a tensor, a number or None.

    ``module`` is the file in ``eager/`` and in ``launch/`` that runs it: ``forward(*arguments, static)`` and, in
    ``launch/``, ``describe_configs`` for the configurations it would run with. ``output_shape`` is the output's size,
    and ``why_not`` says what the Triton kernels cannot do with a call; both take ``(*arguments, static)``.

    ``products`` counts the multiplications of a call's forward, for FLOP formulas.

    ``schema`` is the registered operator's arguments; ``flatten(arguments, static)`` makes them of a call, and
    ``unflatten(*flat)`` takes them apart again.

    ``independent_dims`` are those along which the images can be cut and computed apart.
    """

    name: str
    module: str
    output_shape: Callable[..., tuple[int, ...]]
    why_not: Callable[..., str | None]
    products: Callable[..., int]
    schema: str
    flatten: Callable[[Arguments, Any], tuple[Any, ...]]
    unflatten: Callable[..., tuple[Arguments, Any]]
    independent_dims: tuple[int, ...]

    keeps: bool = field(default=False, kw_only=True)
    """Whether the eager path's forward can keep something for its backward."""

    returns = "Tensor"
    """What the registered operator returns, as in its schema."""

    def __call__(self, arguments: Arguments, static: Any, backend: str) -> Any:
        """Run the operator on the path that ``backend`` and the arguments lead to; nothing is recorded for autograd."""
        if not torch.compiler.is_compiling():
            self.note(arguments, static, backend)
        return self.forward(arguments, static, backend)

    def note(self, arguments: Arguments, static: Any, backend: str) -> None:
        """Hand the decision about a call to whoever records decisions."""
        if is_recording():
            note(self._decision(arguments, static, backend))

    def register(self) -> None:
        """Make the operator known to ``torch.library`` as ``torch.ops.sdn_triton.<name>``."""
        name = f"{NAMESPACE}::{self.name}"
        torch.library.define(name, f"({self.schema}, str backend) -> {self.returns}")

        # PyTorch records what a registered kernel does, unless told not to.
        @torch.no_grad()
        def forward(*given: Any) -> Any:
            *flat, backend = given
            return self.run_forward(*self.unflatten(*flat), backend)

        def fake_forward(*given: Any) -> Any:
            *flat, _ = given
            return self.empty_output(*self.unflatten(*flat))

        # A multiplication and an addition are two operations, as everywhere in PyTorch's counter; what is done to every
        # element, like the similarity, is not counted there for any operator.
        def forward_flops(*given: Any, out_val: Any = None, **_: Any) -> int:
            *flat, _ = given
            arguments, static = self.unflatten(*flat)
            return 2 * self.products(*arguments, static)

        for key in ("CPU", "CUDA"):
            torch.library.impl(name, key, forward)
        torch.library.register_fake(name, fake_forward)
        register_flop_formula(getattr(torch.ops.sdn_triton, self.name), get_raw=True)(forward_flops)

    def forward(self, arguments: Arguments, static: Any, backend: str) -> Any:
        """Compute the output, without its derivatives."""
        if are_plain(arguments):
            if only_has_a_shape(arguments[0]):
                return self.empty_output(arguments, static)
            return self.run_forward(arguments, static, backend)
        self.prepare_registered()
        registered = getattr(torch.ops.sdn_triton, self.name)
        return registered(*self.flatten(arguments, static), backend)

    def prepare_registered(self) -> None:
        """What has to be done before the registered operator is called."""

    def empty_output(self, arguments: Arguments, static: Any) -> Any:
        """A tensor like the output, with nothing in it."""
        return empty_output(self.output_shape(*arguments, static), like=arguments[0])

    def run_forward(self, arguments: Arguments, static: Any, backend: str) -> Tensor:
        """Run the forward of the path that the arguments lead to.

        Under deterministic algorithms the bits of an image's output do not depend on the images beside it, either.
        """
        note_call(self.name, arguments, static)
        return self._run("forward", (*arguments, static), arguments, static, backend)

    def run_forward_and_keep(self, arguments: Arguments, static: Any, backend: str) -> tuple[Any, tuple[Tensor, ...]]:
        """The same, with what the eager path keeps for its backward, if it can keep something."""
        is_eager = not prefers_triton(backend, arguments[0])
        if not self.keeps or not is_eager or torch.are_deterministic_algorithms_enabled():
            return self.run_forward(arguments, static, backend), ()
        note_call(self.name, arguments, static)
        found: tuple[Any, tuple[Tensor, ...]] = path_module("eager", self.module).forward_and_keep(*arguments, static)
        return found

    def _run(self, step: str, given: Arguments, arguments: Arguments, static: Any, backend: str) -> Any:
        """Take a step, forward or backward, all of it again where a configuration of one of its kernels fails.

        A path writes to tensors of its own only, so that what the kernels before the failing one did is dropped.
        """
        path, _ = self.choose(arguments, static, backend, step)
        function = getattr(path_module(path, self.module), step)
        if path != "triton":
            if (
                step == "forward"
                and torch.are_deterministic_algorithms_enabled()
                and len(arguments[0]) > 1
                and 0 in self.independent_dims
            ):
                return image_by_image(function, given, self.empty_output(arguments, static))
            return function(*given)
        try:
            return function(*in_memory(given), self._replacements(arguments, static, step))
        except fallback.LaunchFailedError as failure:
            fallback.step_down(fallback.call_key(self.name, step, arguments, static), failure)
        return self._run(step, given, arguments, static, backend)

    def choose(self, arguments: Arguments, static: Any, backend: str, step: str = "forward") -> tuple[str, str]:
        """The path that a call takes, and why."""
        input: Tensor = arguments[0]
        if backend == "eager" or (backend == "auto" and not is_on_gpu(input)):
            return choose(backend, input, None)
        why_not = self.why_not(*arguments, static)
        if why_not is None and fallback.anything_failed():
            why_not = fallback.why_exhausted(fallback.call_key(self.name, step, arguments, static))
        return choose(backend, input, why_not)

    def _replacements(self, arguments: Arguments, static: Any, *steps: str) -> dict[str, KernelConfig] | None:
        """The configurations that stand in for those that failed in this call before."""
        if not fallback.anything_failed():
            return None
        keys = (fallback.call_key(self.name, step, arguments, static) for step in steps)
        return {kernel: config for key in keys for kernel, config in fallback.replacements(key).items()}

    def _decision(self, arguments: Arguments, static: Any, backend: str) -> Decision:
        path, reason = self.choose(arguments, static, backend)
        if path != "triton":
            describe = getattr(path_module(path, self.module), "describe", None)
            return Decision(self.name, path, reason, () if describe is None else (describe(*arguments, static),))
        replacements = self._replacements(arguments, static, "forward", "backward")
        configs = path_module(path, self.module).describe_configs(*arguments, static, replacements)
        return Decision(self.name, path, reason, configs, tune_command(self.name, arguments, static))


@cache
def path_module(path: str, name: str) -> ModuleType:
    """That of launch/ imports triton, so only when it is taken."""
    return import_module(f"..{'launch' if path == 'triton' else 'eager'}.{name}", __package__)
