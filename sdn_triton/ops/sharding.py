"""How the operators run on DTensors: which placements of their arguments go with which placements of their results.

    images sharded          input, guidance S(d)           ->  output S(d)
                            grad, input, guidance S(d)     ->  their gradients S(d), those of the others partial sums
    output channels sharded weight, bias S(0)              ->  output S(1)
                            grad S(1), weight, bias S(0)   ->  gradients of these S(0), those of the others partial sums

Everything else is replicated. ``d`` is the batch; a fusion, which looks at one pixel at a time, takes rows and columns
too. DTensor itself moves what is placed otherwise, except that rows or columns of a difference convolution are refused:
to gather them would undo what they were sharded for, and :mod:`sdn_triton.distributed` exchanges their borders instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

import torch


class Operator(Protocol):
    """What the rules of an operator follow from."""

    name: ClassVar[str]
    Needs: ClassVar[Any]
    independent_dims: ClassVar[tuple[int, ...]]

    def has_one_group(self, options: Any) -> bool: ...

    def unflatten(self, *flat: Any) -> tuple[Any, Any]: ...


_registered: set[str] = set()


def register_rules_if_used(operators: Iterable[Operator]) -> None:
    """Tell DTensor the rules of ``operators``, once, if this process may have DTensors, which takes their module."""
    if "torch.distributed.tensor" in sys.modules:
        for operator in operators:
            if operator.name not in _registered:
                _register_rules(operator)
                _registered.add(operator.name)


def _register_rules(operator: Operator) -> None:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
    from torch.distributed.tensor.experimental import register_sharding

    remembered_by: Any = DTensor._op_dispatcher.sharding_propagator.op_to_schema_info
    tensors = len(operator.Needs._fields)
    for name, rules, first in (
        (operator.name, _forward_rules, 0),
        (f"{operator.name}_backward", _backward_rules, 1),
    ):
        overload = getattr(torch.ops.sdn_triton, name).default
        register_sharding(overload)(_bound(rules, operator))
        # DTensor remembers what it found for a call by the sizes of its tensors and by what follows from here on. Left
        # alone it would leave out lists of numbers and names, and with them what decides the result's size.
        remembered_by[overload] = RuntimeSchemaInfo(first + tensors, needs_pytree=True)


Rules = list[tuple[list[Any], list[Any]]]
"""The placements of the results and of the arguments, None for what is no tensor."""


def _bound(rules: Callable[..., Rules], operator: Operator) -> Callable[..., Rules]:
    return lambda *call: rules(operator, *call)


def _forward_rules(operator: Operator, *call: Any) -> Rules:
    from torch.distributed.tensor import Replicate, Shard

    _refuse_sharded_windows(operator, call)
    *flat, _ = call
    _, options = operator.unflatten(*flat)
    tensors = len(operator.Needs._fields)
    rules: Rules = [([Replicate()], [Replicate()] * tensors)]
    for dim in operator.independent_dims:
        rules.append(([Shard(dim)], [Shard(dim)] * 2 + [Replicate()] * (tensors - 2)))
    if operator.has_one_group(options):
        rules.append(([Shard(1)], [Replicate()] * 2 + [Shard(0)] * 2 + [Replicate()] * (tensors - 4)))
    return [(results, _matched(arguments, call)) for results, arguments in rules]


def _backward_rules(operator: Operator, grad: Any, *call: Any) -> Rules:
    from torch.distributed.tensor import Partial, Replicate, Shard

    _refuse_sharded_windows(operator, call)
    *flat, _, needs = call
    _, options = operator.unflatten(*flat)
    tensors = len(operator.Needs._fields)
    rules: Rules = [([Replicate()] * tensors, [Replicate()] * (1 + tensors))]
    for dim in operator.independent_dims:
        sums = [Shard(dim)] * 2 + [Partial()] * (tensors - 2)
        rules.append((sums, [Shard(dim)] * 3 + [Replicate()] * (tensors - 2)))
    if operator.has_one_group(options):
        sums = [Partial()] * 2 + [Shard(0)] * 2 + [Partial()] * (tensors - 4)
        rules.append((sums, [Shard(1)] + [Replicate()] * 2 + [Shard(0)] * 2 + [Replicate()] * (tensors - 4)))
    return [
        # What nobody needs is an empty tensor on every rank.
        ([r if need else Replicate() for r, need in zip(results, needs)], _matched(arguments, (grad, *call)))
        for results, arguments in rules
    ]


def _matched(placements: list[Any], call: tuple[Any, ...]) -> list[Any]:
    """``placements`` of the tensors among the arguments, None for what is None or no tensor."""
    padded = [*placements, *[None] * (len(call) - len(placements))]
    return [None if argument is None else placement for placement, argument in zip(padded, call)]


def _refuse_sharded_windows(operator: Operator, call: tuple[Any, ...]) -> None:
    for name, spec in zip(("input", "guidance"), call):
        for placement in spec.placements:
            if placement.is_shard() and placement.dim in (2, 3) and placement.dim not in operator.independent_dims:
                raise ValueError(
                    f"{name} is placed as {tuple(spec.placements)}: a pixel needs its neighbours, and gathering rows "
                    "or columns would undo their sharding. sdn_triton.distributed exchanges the borders of sharded "
                    "rows; or redistribute the tensor first"
                )
