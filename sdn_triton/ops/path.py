"""What every operator has in common: it runs on one of two paths, and is registered with PyTorch.

In eager mode a call goes straight to the path. Where PyTorch traces or intercepts calls (torch.compile, torch.export,
fake tensors, dispatch modes) it goes through an operator registered with ``torch.library``, which does the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sdn_triton.backend import Decision, choose, is_recording, note
from sdn_triton.dispatch_state import are_plain, in_memory, only_has_a_shape
from sdn_triton.ops.batching import image_by_image
from sdn_triton.ops.rehearsal import rehearsal
from sdn_triton.options import Arguments
from sdn_triton.outputs import empty_output
from sdn_triton.tuning import fallback
from sdn_triton.tuning.configs import Configs
from sdn_triton.tuning.shapes import note_call, tune_command

NAMESPACE = "sdn_triton"

A = TypeVar("A", bound=Arguments)
Options = TypeVar("Options")


class PathOperator(ABC, Generic[A, Options]):
    """One operator ``y = f(arguments, options)``, known to PyTorch as ``torch.ops.sdn_triton.<name>``.

    ``arguments`` are a named tuple, each a tensor, a number or None.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    """The file in ``eager/`` and in ``launch/`` that runs it: ``forward(arguments, options)``; in ``eager/`` perhaps
    ``describe``, too, for the scheme."""
    Arguments: type[A]
    schema: ClassVar[str]
    """The arguments of the registered operator."""
    returns: ClassVar[str] = "Tensor"
    """What it returns, as in its schema."""
    independent_dims: ClassVar[tuple[int, ...]]
    """Those along which the images can be cut and computed apart."""
    keeps: ClassVar[bool] = False
    """Whether the eager path's forward can keep something for its backward."""

    @abstractmethod
    def output_shape(self, arguments: A, options: Options) -> tuple[int, ...]:
        """The sizes of the output."""

    @abstractmethod
    def why_not(self, arguments: A, options: Options) -> str | None:
        """What the Triton kernels cannot do with a call; None if they can run it."""

    @abstractmethod
    def products(self, arguments: A, options: Options) -> int:
        """The multiplications of a call's forward, for FLOP formulas."""

    @abstractmethod
    def flatten(self, arguments: A, options: Options) -> tuple[Any, ...]:
        """A call as the registered operator takes it."""

    @abstractmethod
    def unflatten(self, *flat: Any) -> tuple[A, Options]:
        """The call that was flattened."""

    def __call__(self, arguments: A, options: Options, backend: str) -> Any:
        """Run the operator on the path that ``backend`` and the arguments lead to; nothing is recorded for autograd."""
        if not torch.compiler.is_compiling() and is_recording():
            self.note(arguments, options, backend)
        return self.forward(arguments, options, backend)

    def note(self, arguments: A, options: Options, backend: str) -> None:
        """Hand the decision about a call to whoever records decisions: to be called only where somebody does."""
        note(self._decision(arguments, options, backend))

    def register(self) -> None:
        """Make the operator known to ``torch.library`` as ``torch.ops.sdn_triton.<name>``."""
        name = f"{NAMESPACE}::{self.name}"
        torch.library.define(name, f"({self.schema}, str backend) -> {self.returns}")

        # PyTorch records what a registered kernel does, unless told not to.
        @torch.no_grad()
        def forward(*call: Any) -> Any:
            *flat, backend = call
            return self.run_forward(*self.unflatten(*flat), backend)

        def fake_forward(*call: Any) -> Any:
            *flat, _ = call
            return self.empty_output(*self.unflatten(*flat))

        # A multiplication and an addition are two operations, as everywhere in PyTorch's counter; what is done to every
        # element, like the similarity, is not counted there for any operator.
        def forward_flops(*call: Any, out_val: Any = None, **_: Any) -> int:
            *flat, _ = call
            return 2 * self.products(*self.unflatten(*flat))

        for key in ("CPU", "CUDA"):
            torch.library.impl(name, key, forward)
        torch.library.register_fake(name, fake_forward)
        register_flop_formula(getattr(torch.ops.sdn_triton, self.name), get_raw=True)(forward_flops)

    def forward(self, arguments: A, options: Options, backend: str) -> Any:
        """Compute the output, without its derivatives."""
        if are_plain(arguments):
            if only_has_a_shape(arguments.input):
                return self.empty_output(arguments, options)
            return self.run_forward(arguments, options, backend)
        self.prepare_registered()
        registered = getattr(torch.ops.sdn_triton, self.name)
        return registered(*self.flatten(arguments, options), backend)

    def prepare_registered(self) -> None:
        """What has to be done before the registered operator is called."""

    def empty_output(self, arguments: A, options: Options) -> Any:
        """A tensor like the output, with nothing in it."""
        return empty_output(self.output_shape(arguments, options), like=arguments.input)

    def run_forward(self, arguments: A, options: Options, backend: str) -> Any:
        """Run the forward of the path that the arguments lead to.

        Under deterministic algorithms the bits of an image's output do not depend on the images beside it, either.
        """
        note_call(arguments, options)
        path, _ = self.choose(arguments, options, backend)
        return self._run(path, "forward", arguments, options, backend)

    def run_forward_and_keep(self, arguments: A, options: Options, backend: str) -> tuple[Any, tuple[Tensor, ...]]:
        """The same, with what the eager path keeps for its backward, if it can keep something."""
        note_call(arguments, options)
        path, _ = self.choose(arguments, options, backend)
        if path == "triton" or not self.keeps or is_empty(arguments) or torch.are_deterministic_algorithms_enabled():
            return self._run(path, "forward", arguments, options, backend), ()
        output_and_kept: tuple[Any, tuple[Tensor, ...]] = path_module(path, self.module).forward_and_keep(
            arguments, options
        )
        return output_and_kept

    def _run(self, path: str, step: str, arguments: A, options: Options, backend: str, *rest: Any) -> Any:
        """Take a step, forward or backward, all of it again where a configuration of one of its kernels fails.

        A path writes to tensors of its own only, so that what the kernels before the failing one did is dropped.
        No path sees an empty batch. ``rest`` is what a step takes besides arguments and options.
        """
        if step == "forward" and is_empty(arguments):
            return self.empty_output(arguments, options)
        if path == "triton":
            replacements = self._replacements(step, arguments, options)
            try:
                return self._launch(
                    step, replacements, self.Arguments(*in_memory(arguments)), options, *in_memory(rest)
                )
            except fallback.LaunchFailedError as failure:
                fallback.step_down(fallback.call_key(self.name, step, arguments, options), failure)
            path, _ = self.choose(arguments, options, backend, step)
            return self._run(path, step, arguments, options, backend, *rest)
        function = getattr(path_module(path, self.module), step)
        if (
            step == "forward"
            and torch.are_deterministic_algorithms_enabled()
            and len(arguments.input) > 1
            and 0 in self.independent_dims
        ):
            return image_by_image(
                lambda *image: function(self.Arguments(*image), options),
                arguments,
                self.empty_output(arguments, options),
            )
        return function(arguments, options, *rest)

    def _launch(self, step: str, replacements: Configs | None, arguments: A, options: Options, *rest: Any) -> Any:
        """Take a step with the kernels; ``replacements`` are configurations instead of their own."""
        return getattr(path_module("triton", self.module), step)(arguments, options, *rest, replacements)

    def _replacements(self, step: str, arguments: A, options: Options) -> Configs | None:
        """The configurations that stand in for those that failed in a step of such calls before."""
        if not fallback.anything_failed():
            return None
        return fallback.replacements(fallback.call_key(self.name, step, arguments, options))

    def choose(self, arguments: A, options: Options, backend: str, step: str = "forward") -> tuple[str, str]:
        """The path that a call takes, and why."""
        return choose(backend, arguments.input, self.obstacle, arguments, options, step)

    def obstacle(self, arguments: A, options: Options, step: str) -> str | None:
        """What the kernels cannot do with a step of a call, or what they failed at; None if they can run it."""
        why_not = self.why_not(arguments, options)
        if why_not is None and fallback.anything_failed():
            why_not = fallback.why_exhausted(fallback.call_key(self.name, step, arguments, options))
        return why_not

    def _decision(self, arguments: A, options: Options, backend: str) -> Decision:
        path, reason = self.choose(arguments, options, backend)
        if path != "triton":
            describe = getattr(path_module(path, self.module), "describe", None)
            return Decision(self.name, path, reason, () if describe is None else (describe(arguments, options),))
        if is_empty(arguments):
            return Decision(self.name, path, reason, ("launches nothing: the batch is empty",))
        with rehearsal(arguments) as (stand_ins, launches):
            remarks = self.rehearse(arguments, self.Arguments(*stand_ins), options)
        lines = *path_module(path, "description").describe(launches), *remarks
        return Decision(self.name, path, reason, lines, tune_command(arguments, options))

    def rehearse(self, arguments: A, stand_ins: A, options: Options) -> tuple[str, ...]:
        """Launch all kernels of a call and its derivative inside :func:`rehearsal`; returns what else there is to say.

        They are launched on ``stand_ins`` for the ``arguments``.
        """
        self._launch("forward", self._replacements("forward", arguments, options), stand_ins, options)
        return ()


def is_empty(arguments: Arguments) -> bool:
    """Whether there are no images; nothing else of a call that was checked can be empty."""
    return arguments.input.size(0) == 0


def launched_gradient(path: str, module: str, *tensors: Tensor) -> Tensor | None:
    """The gradient that ``launch/<module>.py`` computes from tensors; None where PyTorch's own operations have to.

    These have to on the other path, where the gradient is differentiated, and where tensors are traced, intercepted or
    without values.
    """
    if path != "triton" or torch.is_grad_enabled() or not are_plain(tensors) or only_has_a_shape(tensors[0]):
        return None
    gradient: Tensor = path_module(path, module).gradient(*in_memory(tensors))
    return gradient


@cache
def path_module(path: str, name: str) -> ModuleType:
    """That of launch/ imports triton, so only when it is taken."""
    return import_module(f"..{'launch' if path == 'triton' else 'eager'}.{name}", __package__)
