"""Run a network once to see which features pass a part of it, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sdn_triton.features import Features, Select, find_features


def observe(model: nn.Module, target: nn.Module, at: str, side: str, select: Select, example: Any) -> Features:
    """The features that enter (``side="input"``) or leave ``target`` when ``model`` is called with ``example``.

    ``example`` is one argument, a tuple of positional ones, or a mapping of keyword ones. The call is made in
    evaluation mode without gradients; training flags, buffers and random states are afterwards what they were before.

    Raises:
        ValueError: ``target`` is not called, or called several times with different channels.
    """
    seen: list[Features] = []

    def look(module: nn.Module, args: Any, rest: Any) -> None:
        seen.append(find_features((args, rest) if side == "input" else rest, select))

    if side == "input":
        handle = target.register_forward_pre_hook(look, with_kwargs=True)
    else:
        handle = target.register_forward_hook(look)
    try:
        with unchanged(model), torch.no_grad():
            if isinstance(example, Mapping):
                model(**example)
            elif isinstance(example, tuple):
                model(*example)
            else:
                model(example)
    finally:
        handle.remove()
    if not seen:
        raise ValueError(f"at={at!r} is not called when the model is called with example")
    if len({features.channels() for features in seen}) > 1:
        calls = "; ".join(str(list(features.channels())) for features in seen)
        raise ValueError(f"at={at!r} is called with features of different channels, one neck cannot take them: {calls}")
    return seen[0]


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; training flags, buffers, and the random states of CPU and CUDA as before afterwards.

    What a first call adds stays: hooks of the network's own, buffers, and what lazy modules become. Flags of the
    network may say that it is there.
    """
    # Flags are set one by one: train() and eval() may be overridden, and parts may be frozen.
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module, _ in flags]
    values = [(buffer, buffer.clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        try:
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, training in flags:
                module.training = training
            for module, own in buffers:
                module._buffers.update(own)
            with torch.no_grad():
                for buffer, value in values:
                    # One whose elements share memory (of expand) cannot be written, by the model neither.
                    if not (buffer.is_meta or torch.equal(buffer, value)):
                        buffer.copy_(value)
