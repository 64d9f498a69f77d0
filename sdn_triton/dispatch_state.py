"""Is a call plain eager, or does PyTorch trace, transform or intercept it?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.fx import Proxy
from torch.jit._trace import TracerWarning
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._pytree import tree_leaves

from sdn_triton.tuning.pretended import pretended_target

Result = TypeVar("Result")

ORDINARY = (Tensor, torch.nn.Parameter)
"""Classes of tensors without rules of their own, which subclasses bring."""

decomposing = False
"""Whether the plain form of the operators was asked for; set by :func:`sdn_triton.export.decomposed`."""


def takes_plain_form() -> bool:
    """Whether the operators are to be PyTorch's own operations: asked for, or all that ONNX or TorchScript can hold."""
    in_onnx = torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()
    return decomposing or in_onnx or is_jit_traced()


def is_jit_traced() -> bool:
    """Whether ``torch.jit.trace`` records the call: sizes are tensors then."""
    return torch._C._get_tracing_state() is not None


def quietly(check: Callable[..., Result], *arguments: Any) -> Result:
    """What ``check(*arguments)`` returns, without the warnings of ``torch.jit.trace`` that it compares sizes."""
    if not is_jit_traced():
        return check(*arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        return check(*arguments)


def is_symbolic(value: object) -> bool:
    """Whether ``value`` is a ``torch.fx.Proxy``, which stands for a tensor and has no shape."""
    return isinstance(value, Proxy)


def symbolic_call(module: torch.nn.Module, *arguments: Any) -> Any:
    """``module`` as one node of the ``torch.fx`` graph that the proxies among ``arguments`` belong to.

    By itself ``torch.fx`` would trace into the module, where shapes and devices decide what is called.
    """
    tracer = next(leaf for leaf in tree_leaves(arguments) if is_symbolic(leaf)).tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, {})


def is_ordinary(tensor: Tensor) -> bool:
    """Whether ``tensor`` is of no subclass but fake tensors."""
    return torch.compiler.is_compiling() or type(tensor) in ORDINARY or isinstance(tensor, FakeTensor)


def is_plain(tensor: Tensor) -> bool:
    """Whether operations on ``tensor`` run at once, neither traced nor intercepted."""
    return not torch.compiler.is_compiling() and type(tensor) in ORDINARY and torch._C._len_torch_dispatch_stack() == 0


def are_plain(arguments: Sequence[Any]) -> bool:
    """Whether that holds for all tensors among ``arguments``: one DTensor is enough to intercept a call."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    for argument in arguments:  # noqa: SIM110  # a generator takes the host twice as long
        if type(argument) not in ORDINARY and isinstance(argument, Tensor):
            return False
    return True


def in_memory(arguments: Sequence[Any]) -> list[Any]:
    """The arguments for kernels, which read memory: a tensor whose memory does not hold its values is copied.

    Such are tensors that are negated lazily (``z.conj().imag``), and zeros without memory. PyTorch's dispatcher does
    the same before a registered operator.
    """
    return [x.clone() if isinstance(x, Tensor) and is_lazy(x) else x for x in arguments]


def is_lazy(tensor: Tensor) -> bool:
    """Whether the memory of ``tensor`` does not hold its values."""
    return tensor.is_neg() or tensor._is_zerotensor()


def has_own_memory(tensor: Tensor) -> bool:
    """Whether ``tensor`` has an address, or an offset for one as fake tensors have; wrappers have neither."""
    is_wrapper = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return (type(tensor) in ORDINARY or isinstance(tensor, FakeTensor)) and not is_wrapper


def only_has_a_shape(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a meta tensor, unless a pretended device takes it: its launches can be recorded."""
    return tensor.is_meta and pretended_target() is None


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation may be at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_untouched(module: torch.nn.Module, kind: type[torch.nn.Module]) -> bool:
    """Whether calling ``module`` is calling the forward of exactly the class ``kind``: no hooks, nothing overridden."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module) is kind and not any(hooks) and "forward" not in vars(module) and not _has_any_global_hook()
