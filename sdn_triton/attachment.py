"""An SDN neck in front of a part of somebody else's network, or behind it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure
from typing_extensions import Unpack  # comes with torch; Python's own since 3.11

from sdn_triton.checks import Size, check_name, integers
from sdn_triton.dispatch_state import is_symbolic
from sdn_triton.dry_run import check_channels_first, check_no_image, observe
from sdn_triton.features import (
    Features,
    Select,
    check_select,
    describe,
    differ_in_size,
    find_features,
    runs_coarse_to_fine,
)
from sdn_triton.modules import SDNNeck
from sdn_triton.options import Backend, Contrast, Diffusivity, PaddingMode, Similarity

Side = Literal["input", "output"]
SIDES: tuple[Side, ...] = get_args(Side)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module")
"""What the wrappers of torch.compile and of activation checkpointing call the module that they stand for."""


class NeckOptions(TypedDict, total=False):
    """The options of :class:`~sdn_triton.SDNNeck`, for type checkers."""

    kernel_size: Size
    dilation: Size
    groups: int
    bias: bool
    padding_mode: PaddingMode
    diffusivity: Diffusivity
    contrast: Contrast | Sequence[Contrast]
    learn_contrast: bool
    similarity: Similarity
    zero_init: bool
    eps: float
    momentum: float | None
    backend: Backend
    device: torch.device | str | None
    dtype: torch.dtype | None


def attach(
    model: nn.Module,
    at: str,
    channels: int | Sequence[int] | None = None,
    *,
    example: Any = None,
    side: Side = "input",
    select: Select = None,
    name: str = "sdn_neck",
    **options: Unpack[NeckOptions],
) -> SDNNeck:
    """Put an :class:`~sdn_triton.SDNNeck` in front of a part of ``model``, and return it.

    The features that enter the part, tensors ``[N, C, H, W]`` in any nesting of lists, tuples and dicts, positional or
    keyword, pass the neck first; everything else enters as it is, and containers keep their types. A tensor that enters
    at several places is one feature, and what the neck makes of it enters at all of them.

    The neck becomes a submodule of the part and is called by a forward hook there. Against a wrapper in the part's
    place, this leaves every name as it was: checkpoints made without the neck load as before (``strict=False`` once it
    is attached, since its own keys, ``{at}.{name}.*``, are missing there), and whoever asks for the part's class or
    attributes finds them. The hook holds no module but looks the neck up in the module it is called on, so copies,
    pickles and replicas call their own. ``torch.compile`` and ``torch.export`` trace through it. Attach before an
    optimizer, ``DistributedDataParallel`` or ``fully_shard`` is given the parameters.

    Args:
        model: any network. It is changed in place.
        at: name of the part, as in ``model.named_modules()``; ``""`` is the model itself. A plain ``nn.Sequential``
            runs all its children, so there the neck goes to the first of them (``side="output"``: the last). Encoders
            that are containers with a ``forward`` of their own (timm's ``features_only``, torchvision's
            ``IntermediateLayerGetter``) may do so, too: there the neck is called at the encoder, and held by the first
            part of it that is no container, so that its keys are ``{at}.{that part}.{name}.*``.
        channels: channels of each feature, fine to coarse; an int for one. None: found by calling the model once with
            ``example`` in evaluation mode; flags, buffers and random states stay as they are.
        example: an input of the model: one argument, a tuple of positional ones, or a mapping of keyword ones. With it,
            features that look like ``[N, H, W, C]`` are an error unless ``channels`` are given, too.
        side: ``"input"``, or ``"output"`` for the features that leave the part.
        select: which features pass the neck, where some must not (an image among them, stages that the decoder does
            not use): places among the different 4-D floating tensors of the call, or keys and keyword names. Features
            must then run from fine to coarse or from coarse to fine by size; which is decided when ``example`` is
            given, else at the first call where sizes differ. With ``example``, an image among the features is an error
            unless ``select`` names it.
        name: of the submodule; another one for a second neck at the same part.
        options: of :class:`~sdn_triton.SDNNeck`. With ``zero_init=True`` the model's outputs stay exactly what they are
            until it is trained (see the note for views). ``device`` and ``dtype`` are by default those of the part's
            first parameter.

    Raises:
        TypeError: ``model`` is no module or a scripted one, ``select`` or an option is of the wrong kind.
        ValueError: there is no part ``at`` (the message lists close names), it has a neck of that name already, it
            cannot hold one, it is inside ``DistributedDataParallel`` or FSDP, or the features do not fit. Calling the
            model raises it, too, where the features are not those that the neck was made for.

    Note:
        A module that runs all its children without naming them would run the neck, too: attach to one of them. Where
        features are not finite, ``zero_init`` does not keep outputs: zero times infinity is no number. Views with gaps
        in memory leave the neck as dense copies with the same values, so what follows may round as it does after
        ``features.contiguous()``. A part that changes its inputs in place changes what the neck returned: who else
        holds the features does not see it.

        What ``torch.compile`` has compiled so far is compiled anew, in the whole process: it does not notice hooks.

    Example:
        >>> import torch
        >>> class Network(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        ...         self.decode_head = torch.nn.Conv2d(8, 2, 1)
        ...     def forward(self, image):
        ...         return self.decode_head(self.encoder(image))
        >>> model, image = Network(), torch.randn(1, 3, 16, 16)
        >>> before = model(image)
        >>> neck = attach(model, at="decode_head", example=image, zero_init=True)
        >>> torch.equal(model(image), before), "decode_head.sdn_neck.guidance.weight" in model.state_dict()
        (True, True)
    """
    model, target, at, inside = _part(model, at, side, select)
    holder = target.get_submodule(".".join(inside))
    _check_free(target, holder, at, name)
    each = None if channels is None else integers("channels", channels)
    coarse_to_fine: bool | None = None
    if example is not None:
        seen = observe(model, target, at, side, select, example)
        found = seen.tensors()
        what = f"the {side} of {at!r}"
        if select is None:
            check_no_image(what, found, example)
        if each is None:
            check_channels_first(what, found, example)
        # Stages of one size tell nothing: they are taken as they come, and other calls may tell.
        coarse_to_fine = runs_coarse_to_fine(found) if differ_in_size(found) else None
        found = found[:: -1 if coarse_to_fine else 1]
        each = tuple(feature.shape[1] for feature in found) if each is None else each
        _check_channels(at, side, found, each)
    if each is None:
        raise ValueError(
            "give channels (of each feature, fine to coarse) or example (an input of the model, to find them)"
        )
    like = next((p for p in (*target.parameters(), *model.parameters()) if p.is_floating_point()), torch.empty(0))
    placed: NeckOptions = {"device": like.device, "dtype": like.dtype}
    neck = SDNNeck(each, **(placed | options)).train(target.training)
    hook = Attachment(at, side, (*inside, name), None if select is None else (*select,), each, coarse_to_fine)
    if example is not None:
        hook.remember(seen, -1 if coarse_to_fine else 1)
    holder.add_module(name, neck)
    hook.register(target)
    _forget_compiled()
    return neck


def detach(model: nn.Module, at: str, *, side: Side = "input", name: str = "sdn_neck") -> SDNNeck:
    """Take the neck away that :func:`attach` put there, and return it; the model is what it was before.

    Raises:
        ValueError: no neck of that name is attached there; says where some are.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 2, 1))
        >>> neck = attach(model, at="1", channels=8)
        >>> detach(model, at="1") is neck, len(model.state_dict())
        (True, 4)
    """
    model, target, at, inside = _part(model, at, side, None)
    hook = next((h for h in _hooks_of(target) if (h.name, h.side) == (name, side)), None)
    if hook is None:
        raise ValueError(f"no neck {name!r} is attached at {at!r}, side {side!r}; attached are: {_attached(model)}")
    hook.handle.remove()
    holder = target.get_submodule(".".join(inside))
    neck: SDNNeck = getattr(holder, name)
    delattr(holder, name)
    _forget_compiled()
    return neck


class Attachment:
    """The forward hook that sends features through the neck of the module it is called on."""

    places: tuple[int, list[int]] | None = None
    """How many leaves the last call had, and which of them were the features, fine to coarse."""

    def __init__(
        self,
        at: str,
        side: str,
        path: tuple[str, ...],
        select: Select,
        channels: tuple[int, ...],
        coarse_to_fine: bool | None,
    ) -> None:
        self.at = at
        self.side = side
        self.path = path
        self.select = select
        self.channels = channels
        self.coarse_to_fine = coarse_to_fine

    def register(self, target: nn.Module) -> None:
        # The handle is kept here, where copies and pickles of the model take it along.
        if self.side == "input":
            self.handle = target.register_forward_pre_hook(self, with_kwargs=True)
        else:
            self.handle = target.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, rest: Any) -> Any:
        """``rest`` is a dict of keyword arguments before the module runs, its output afterwards."""
        tree = (args, rest) if self.side == "input" else rest
        try:
            features = find_features(tree, self.select)
        except ValueError as error:
            if any(map(is_symbolic, tree_leaves(tree))):
                return self._symbolic(module, tree)
            raise ValueError(f"the neck at the {self.side} of {self.at!r}: {error}") from None
        found = features.tensors()
        coarse_to_fine = self._runs_coarse_to_fine(found)
        step = -1 if coarse_to_fine else 1
        _check_channels(self.at, self.side, found[::step], self.channels)
        if differ_in_size(found) and not torch.compiler.is_compiling():  # a trace has no side effects
            self.coarse_to_fine = coarse_to_fine
        if not torch.compiler.is_compiling():
            self.remember(features, step)
        return features.replaced(self._neck_of(module)(found[::step])[::step])

    def remember(self, features: Features, step: int) -> None:
        """Where features were, for who cannot see it."""
        self.places = len(features.leaves), features.places[::step]

    def _symbolic(self, module: nn.Module, tree: Any) -> Any:
        """For ``torch.fx``, whose stand-ins have no shape: features are where they were in the last call."""
        leaves = tree_leaves(tree)
        if self.places is None or self.places[0] != len(leaves):
            raise ValueError(
                f"the neck at the {self.side} of {self.at!r}: torch.fx shows no shapes, so the features are taken from "
                "where the last call had them, and there was none like this one: call the model once before"
            )
        _, places = self.places
        outputs = self._neck_of(module)([leaves[place] for place in places])
        features = Features(list(leaves), tree_structure(tree), places)
        return features.replaced(outputs[i] for i in range(len(places)))

    def _neck_of(self, module: nn.Module) -> Any:
        for name in self.path:
            module = getattr(module, name)
        return module

    @property
    def name(self) -> str:
        return self.path[-1]

    def _runs_coarse_to_fine(self, features: list[Tensor]) -> bool:
        if self.coarse_to_fine is not None:
            return self.coarse_to_fine
        if differ_in_size(features):
            return runs_coarse_to_fine(features)
        channels = tuple(feature.shape[1] for feature in features)
        return channels != self.channels and channels[::-1] == self.channels


def _part(model: nn.Module, at: str, side: str, select: Select) -> tuple[nn.Module, nn.Module, str, tuple[str, ...]]:
    """The model, the part of it that takes a neck, that part's name, and the way from it to the neck's holder."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    check_name("side", side, SIDES)
    check_select(select)
    model = getattr(model, "_orig_mod", model)  # what torch.compile returned
    names = dict(model.named_modules(remove_duplicate=False))
    if at not in names:
        close = difflib.get_close_matches(str(at), names, n=3) or [name for name, _ in model.named_children()]
        raise ValueError(f"at={at!r} is no part of {type(model).__name__}; there are {', '.join(map(repr, close))}")
    above = [names[""], *(names[".".join(at.split(".")[: i + 1])] for i in range(at.count(".") + 1) if at)]
    late = next((module for module in above if isinstance(module, _distributors())), None)
    if late is not None:
        raise ValueError(f"model is inside {type(late).__name__}, which would not see the neck: attach it before")
    target = names[at]
    while (inner := next((name for name in WRAPPED if name in target._modules), None)) is not None:
        at = f"{at}.{inner}" if at else inner
        target = names[at]
    if isinstance(target, torch.jit.ScriptModule):
        raise TypeError(f"at={at!r} is scripted: attach to the module it was made from")
    while type(target).forward is nn.Sequential.forward and len(target):
        child = list(target._modules)[0 if side == "input" else -1]
        at = f"{at}.{child}" if at else child
        target = names[at]
        if sum(module is target for module in names.values()) > 1:
            raise ValueError(f"{at!r}, where the neck would go, is used in several places: give it a module of its own")
    inside = None if _is_never_called(target) else _holder(target)
    if inside is None:
        raise ValueError(
            f"at={at!r} is a {type(target).__name__} that is never called, or holds nothing to keep a neck in: "
            "attach to a part of it, or to what takes its outputs"
        )
    return model, target, at, inside


def _is_never_called(module: nn.Module) -> bool:
    return type(module).forward is nn.Module.forward and "forward" not in vars(module)


def _holder(module: nn.Module) -> tuple[str, ...] | None:
    """The way to the first part of a container that is none itself: it does not run whatever it holds. None: no way."""
    if not isinstance(module, CONTAINERS):
        return ()
    ways = ((name, _holder(child)) for name, child in module.named_children())
    return next(((name, *way) for name, way in ways if way is not None), None)


def _distributors() -> tuple[type, ...]:
    """Wrappers that have to know all parameters when they are made; those of FSDP only if somebody imported it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    sharding = () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    return nn.parallel.DistributedDataParallel, *sharding


def _check_free(target: nn.Module, holder: nn.Module, at: str, name: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"name must be a Python identifier, got {name!r}")
    if any(hook.name == name for hook in _hooks_of(target)):
        raise ValueError(f"a neck {name!r} is attached at {at!r} already: detach it, or give this one another name")
    if hasattr(holder, name):
        raise ValueError(f"{at!r} has an attribute {name!r} already: give the neck another name")


def _check_channels(at: str, side: str, features: Sequence[Tensor], channels: tuple[int, ...]) -> None:
    """Raise unless ``features``, fine to coarse, are those a neck is made for."""
    seen = tuple(feature.shape[1] for feature in features)
    if seen != channels:
        is_reversed = seen == channels[::-1]
        advice = f"channels={list(seen)} would be" if is_reversed else "leave some out by select=[places among them]"
        raise ValueError(
            f"the neck at the {side} of {at!r} is for features of {list(channels)} channels, fine to coarse, "
            f"but there are {list(seen)}: {describe(features)}; {advice}"
        )


def _hooks_of(module: nn.Module) -> list[Attachment]:
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return [hook for hook in hooks if isinstance(hook, Attachment)]


def _attached(model: nn.Module) -> str:
    found = [".".join((at, *hook.path)) for at, module in model.named_modules() for hook in _hooks_of(module)]
    return ", ".join(map(repr, found)) or "none"


def _forget_compiled() -> None:
    # torch.compile puts no guard on hooks, so that code compiled before would go on without the neck, or with it.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
