"""The part of a network that a neck is attached to: where its hook goes, and where its parameters are held."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module")
"""What the wrappers of torch.compile and of activation checkpointing call the module that they stand for."""

Modules = Mapping[str, nn.Module]
"""Those of a network by their names, one that is used in several places under each."""


class Part(NamedTuple):
    """A part of a network."""

    name: str
    module: nn.Module
    """The module that the hook goes to."""
    path: tuple[str, ...]
    """The way from there to the module that holds the neck: none, but for containers, which may run what they hold."""

    @property
    def holder(self) -> nn.Module:
        return self.module.get_submodule(".".join(self.path))


def uncompiled(model: object) -> nn.Module:
    """The network itself, if it was given to torch.compile.

    Raises:
        TypeError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    module: nn.Module = getattr(model, "_orig_mod", model)
    return module


def find_part(model: nn.Module, name: str, side: str) -> Part:
    """The part of ``model`` that takes a neck for ``name``: inside wrappers, and a child of a plain ``nn.Sequential``.

    Raises:
        TypeError: it is scripted.
        ValueError: there is none of that name, something wraps it that would not see the neck, or it can hold none.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    _check_there(modules, name)
    _check_not_distributed(modules, name)
    name = _inside_wrappers(modules, name)
    if isinstance(modules[name], torch.jit.ScriptModule):
        raise TypeError(f"at={name!r} is scripted: attach to the module it was made from")
    name = _inside_sequential(modules, name, side)
    return Part(name, modules[name], _path_to_holder(modules, name))


def _check_there(modules: Modules, name: str) -> None:
    if name not in modules:
        model = modules[""]
        close = difflib.get_close_matches(str(name), modules, n=3) or [child for child, _ in model.named_children()]
        raise ValueError(f"at={name!r} is no part of {type(model).__name__}; there are {', '.join(map(repr, close))}")


def _check_not_distributed(modules: Modules, name: str) -> None:
    """Raise where a wrapper around the part has to know all parameters when it is made."""
    steps = name.split(".") if name else []
    above = [modules[".".join(steps[:count])] for count in range(len(steps) + 1)]
    late = next((module for module in above if isinstance(module, _distributors())), None)
    if late is not None:
        raise ValueError(f"model is inside {type(late).__name__}, which would not see the neck: attach it before")


def _distributors() -> tuple[type, ...]:
    """Such wrappers; those of FSDP only if somebody imported it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    sharding = () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    return nn.parallel.DistributedDataParallel, *sharding


def _inside_wrappers(modules: Modules, name: str) -> str:
    """The name of what a part stands for, if it is a wrapper."""
    while (inner := next((wrapped for wrapped in WRAPPED if wrapped in modules[name]._modules), None)) is not None:
        name = _child(name, inner)
    return name


def _inside_sequential(modules: Modules, name: str, side: str) -> str:
    """The name of the first child of a plain ``nn.Sequential``, or of the last: it runs all its children."""
    while type(modules[name]).forward is nn.Sequential.forward and len(modules[name]._modules):
        name = _child(name, list(modules[name]._modules)[0 if side == "input" else -1])
        if sum(module is modules[name] for module in modules.values()) > 1:
            raise ValueError(
                f"{name!r}, where the neck would go, is used in several places: give it a module of its own"
            )
    return name


def _child(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


def _path_to_holder(modules: Modules, name: str) -> tuple[str, ...]:
    module = modules[name]
    is_called = type(module).forward is not nn.Module.forward or "forward" in vars(module)
    path = _path_out_of_containers(module) if is_called else None
    if path is None:
        raise ValueError(
            f"at={name!r} is a {type(module).__name__} that is never called, or holds nothing to keep a neck in: "
            "attach to a part of it, or to what takes its outputs"
        )
    return path


def _path_out_of_containers(module: nn.Module) -> tuple[str, ...] | None:
    """The way to the first part that is no container: it does not run whatever it holds. None: there is no such."""
    if not isinstance(module, CONTAINERS):
        return ()
    paths = ((name, _path_out_of_containers(child)) for name, child in module.named_children())
    return next(((name, *path) for name, path in paths if path is not None), None)
