"""Which tensors of a call are features, in nested lists, tuples and dicts, and how they come fine to coarse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils import _pytree as pytree

from sdn_triton.checks import shape
from sdn_triton.modules.pyramid import is_fine_to_coarse

Select: TypeAlias = Sequence[int] | Sequence[str] | None
"""Which features are meant: None for all, some by place among them, or those below some keys or keyword names."""


@dataclass
class Features:
    """Features found in a tree of arguments: ``places`` among its ``leaves``, in the order in which they come."""

    leaves: list[Any]
    nested: pytree.TreeSpec
    places: list[int]

    def tensors(self) -> list[Tensor]:
        return [self.leaves[place] for place in self.places]

    def channels(self) -> tuple[int, ...]:
        return tuple(tensor.shape[1] for tensor in self.tensors())

    def replaced(self, tensors: Iterable[Tensor]) -> Any:
        """The same tree with other tensors in place of the features; its containers are new, of the same types."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors):
            leaves = [tensor if leaf is self.leaves[place] else leaf for leaf in leaves]
        return pytree.tree_unflatten(leaves, self.nested)


def check_select(select: object) -> None:
    """Raise unless ``select`` is None, or ints or strings without repetition."""
    if select is None:
        return
    if isinstance(select, str) or not isinstance(select, Sequence):
        raise TypeError(f"select must be None, a sequence of ints or a sequence of strings, got {select!r}")
    if {type(item) for item in select} not in ({int}, {str}):
        raise TypeError(f"select must hold at least one, and ints only or strings only, got {list(select)!r}")
    if len(set(select)) < len(select):
        raise ValueError(f"select names a feature twice: {list(select)!r}")


def is_feature(value: object) -> bool:
    """Whether ``value`` is a floating-point tensor ``[N, C, H, W]`` with at least one channel."""
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point() and value.shape[1] > 0


def find_features(tree: Any, select: Select) -> Features:
    """The features in ``tree``; a tensor that is there several times is one of them, where it comes first.

    Raises:
        ValueError: there is none, or ``select`` names one that is not there; says what is there.
    """
    if select is not None and isinstance(select[0], str):  # paths cost more, and few need them
        named, nested = pytree.tree_flatten_with_path(tree)
        leaves, paths = [leaf for _, leaf in named], [[_key(step) for step in path] for path, _ in named]
    else:
        leaves, nested = pytree.tree_flatten(tree)
        paths = []
    places = [place for place, leaf in enumerate(leaves) if is_feature(leaf)]
    if not places:
        unknown = next((type(leaf).__name__ for leaf in leaves if _is_container(leaf)), None)
        hint = "" if unknown is None else f"; PyTorch does not look into {unknown} unless it is registered"
        raise ValueError(f"no feature [N, C, H, W] of a floating dtype is there, only {describe(leaves)}{hint}")
    firsts = {place: next(first for first in places if leaves[first] is leaves[place]) for place in places}
    different = list(dict.fromkeys(firsts.values()))
    return Features(leaves, nested, different if select is None else _selected(firsts, leaves, paths, select))


def _is_container(leaf: object) -> bool:
    """Whether a leaf may hold features: of a kind not registered, by ``torch.export.register_dataclass`` say."""
    return isinstance(leaf, (list, tuple, Mapping)) or (is_dataclass(leaf) and not isinstance(leaf, type))


def _key(step: Any) -> Any:
    """The dict key, attribute name or index that a step into a tree stands for."""
    return next(getattr(step, kind) for kind in ("key", "name", "idx") if hasattr(step, kind))


def _selected(
    firsts: dict[int, int], leaves: list[Any], paths: list[list[Any]], select: Sequence[int | str]
) -> list[int]:
    """The places of what ``select`` names; ``firsts`` says of each feature's place where its tensor comes first."""
    chosen: list[int] = []
    different = list(dict.fromkeys(firsts.values()))
    for item in select:
        if isinstance(item, str):
            below = [place for place in firsts if item in paths[place]]
        else:
            below = [different[item]] if -len(different) <= item < len(different) else []
        if not below:
            raise ValueError(f"select: no feature {item!r} among {describe(leaves[place] for place in different)}")
        chosen += below
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"select={list(select)!r} names one of {describe(leaves[place] for place in different)} twice")
    return list(dict.fromkeys(firsts[place] for place in chosen))


def in_order(
    features: Features, coarse_to_fine: bool | None, channels: tuple[int, ...] | None
) -> tuple[Features, bool | None]:
    """``features`` fine to coarse, and whether they come coarse to fine; None where sizes do not tell.

    ``coarse_to_fine`` is what is known from another call. Stages of one size tell nothing: there the order is that of
    ``channels``, if these are given, and else the one in which they come.

    Raises:
        ValueError: they come in neither order.
    """
    if coarse_to_fine is None:
        coarse_to_fine = _runs_coarse_to_fine(features.tensors())
    is_reversed = coarse_to_fine
    if is_reversed is None:
        is_reversed = features.channels() != channels and features.channels()[::-1] == channels
    return (replace(features, places=features.places[::-1]) if is_reversed else features), coarse_to_fine


def _runs_coarse_to_fine(features: Sequence[Tensor]) -> bool | None:
    """Whether features come coarse to fine, by their number of pixels; None where all are equal."""
    if is_fine_to_coarse(features):
        return None if is_fine_to_coarse(features[::-1]) else False
    if is_fine_to_coarse(features[::-1]):
        return True
    raise ValueError(
        f"features come neither fine to coarse nor coarse to fine: {describe(features)}; "
        "say which, in which order, by select=[places of the features, fine to coarse]"
    )


def describe(leaves: Iterable[Any]) -> str:
    """Shapes of tensors, types of what is none: ``[1, 8, 4, 4], [1, 16, 256], NoneType``."""
    return ", ".join(shape(leaf) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves) or "nothing"
