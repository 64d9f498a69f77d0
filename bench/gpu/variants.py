"""Other ways to compile a kernel whose result is wrong: the one that is right says where the fault is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from sdn_triton.launch import plan
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.tuning.configs import KernelConfig, Target
from sdn_triton.tuning.defaults import Work, default_config
from sdn_triton.tuning.lookup import chosen_by, from_tables

from .findings import AS_CHOSEN

Change = Callable[[KernelConfig, str, Work, Target], KernelConfig]
"""From the configuration that is chosen for a kernel to another one."""

WITHOUT_PTX = "without PTX"
CHANGES: dict[str, Change] = {
    "one stage": lambda config, *_: replace(config, num_stages=1),
    "4 warps": lambda config, *_: replace(config, num_warps=4),
    "8 warps": lambda config, *_: replace(config, num_warps=8),
    "unpaired": lambda config, kernel, work, target: default_config(kernel, work._replace(can_pair=False), target),
}
VARIANTS = (*CHANGES, WITHOUT_PTX)
"""What is tried after a wrong result."""


@contextmanager
def compiled(variant: str) -> Iterator[None]:
    """Inside, kernels are compiled in another way; a new choice needs new plans, which remember the old one."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(plan._plans, clear=True))
        if variant == WITHOUT_PTX:
            stack.enter_context(mock.patch.object(DifferenceCall, "pair_constants", _without_ptx))
        elif variant != AS_CHOSEN:
            change = CHANGES[variant]

            def choose(kernel: str, work: Work, target: Target) -> KernelConfig:
                return change(from_tables(kernel, work, target), kernel, work, target)

            stack.enter_context(chosen_by(choose))
        yield


_pair_constants = DifferenceCall.pair_constants


def _without_ptx(call: DifferenceCall) -> dict[str, Any]:
    return {**_pair_constants(call), "PTX": False}
