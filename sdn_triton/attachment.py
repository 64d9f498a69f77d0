"""An SDN neck in front of a part of somebody else's network, or behind it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_structure
from typing_extensions import Unpack  # comes with torch; Python's own since 3.11

from sdn_triton.checks import Size, check_name, integers
from sdn_triton.dispatch_state import is_symbolic
from sdn_triton.dry_run import check_channels_first, check_no_image, observe
from sdn_triton.features import Features, Select, check_select, describe, find_features, in_order
from sdn_triton.modules import SDNNeck
from sdn_triton.options import Backend, Contrast, Diffusivity, PaddingMode, Similarity
from sdn_triton.parts import Part, find_part, uncompiled

Side = Literal["input", "output"]
SIDES: tuple[Side, ...] = get_args(Side)


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
    model = uncompiled(model)
    check_name("side", side, SIDES)
    check_select(select)
    part = find_part(model, at, side)
    _check_free(part, name)
    each = None if channels is None else integers("channels", channels)
    features: Features | None = None
    coarse_to_fine: bool | None = None
    if example is not None:
        observed = observe(model, part.module, part.name, side, select, example)
        what = f"the {side} of {part.name!r}"
        if select is None:
            check_no_image(what, observed.tensors(), example)
        if each is None:
            check_channels_first(what, observed.tensors(), example)
        features, coarse_to_fine = in_order(observed, None, each)
        each = features.channels() if each is None else each
        _check_channels(part.name, side, features, each)
    if each is None:
        raise ValueError(
            "give channels (of each feature, fine to coarse) or example (an input of the model, to find them)"
        )
    like = next((p for p in (*part.module.parameters(), *model.parameters()) if p.is_floating_point()), torch.empty(0))
    placed: NeckOptions = {"device": like.device, "dtype": like.dtype}
    neck = SDNNeck(each, **(placed | options)).train(part.module.training)
    hook = Attachment(part.name, side, (*part.path, name), None if select is None else (*select,), each, coarse_to_fine)
    if features is not None:
        hook.remember(features)
    part.holder.add_module(name, neck)
    hook.register(part.module)
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
    model = uncompiled(model)
    check_name("side", side, SIDES)
    part = find_part(model, at, side)
    hook = next((h for h in _hooks_of(part.module) if (h.name, h.side) == (name, side)), None)
    if hook is None:
        raise ValueError(
            f"no neck {name!r} is attached at {part.name!r}, side {side!r}; attached are: {_attached(model)}"
        )
    hook.handle.remove()
    neck: SDNNeck = getattr(part.holder, name)
    delattr(part.holder, name)
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
        features, coarse_to_fine = in_order(features, self.coarse_to_fine, self.channels)
        _check_channels(self.at, self.side, features, self.channels)
        if not torch.compiler.is_compiling():  # a trace has no side effects
            self.coarse_to_fine = coarse_to_fine
            self.remember(features)
        return features.replaced(self.neck_of(module)(features.tensors()))

    def remember(self, features: Features) -> None:
        """Where features were, for a call that shows no shapes."""
        self.places = len(features.leaves), features.places

    def _symbolic(self, module: nn.Module, tree: Any) -> Any:
        """For ``torch.fx``, whose stand-ins have no shape: features are where they were in the last call."""
        leaves = tree_leaves(tree)
        if self.places is None or self.places[0] != len(leaves):
            raise ValueError(
                f"the neck at the {self.side} of {self.at!r}: torch.fx shows no shapes, so the features are taken from "
                "where the last call had them, and there was none like this one: call the model once before"
            )
        _, places = self.places
        features = Features(list(leaves), tree_structure(tree), places)
        outputs = self.neck_of(module)(features.tensors())
        return features.replaced(outputs[i] for i in range(len(places)))

    def neck_of(self, module: nn.Module) -> Any:
        """The neck of a copy of the part."""
        for name in self.path:
            module = getattr(module, name)
        return module

    @property
    def name(self) -> str:
        return self.path[-1]


def _check_free(part: Part, name: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"name must be a Python identifier, got {name!r}")
    if any(hook.name == name for hook in _hooks_of(part.module)):
        raise ValueError(
            f"a neck {name!r} is attached at {part.name!r} already: detach it, or give this one another name"
        )
    if hasattr(part.holder, name):
        raise ValueError(f"{part.name!r} has an attribute {name!r} already: give the neck another name")


def _check_channels(at: str, side: str, features: Features, channels: tuple[int, ...]) -> None:
    """Raise unless ``features``, fine to coarse, are those a neck is made for."""
    present = features.channels()
    if present != channels:
        is_reversed = present == channels[::-1]
        advice = f"channels={list(present)} would be" if is_reversed else "leave some out by select=[places among them]"
        raise ValueError(
            f"the neck at the {side} of {at!r} is for features of {list(channels)} channels, fine to coarse, "
            f"but there are {list(present)}: {describe(features.tensors())}; {advice}"
        )


def _hooks_of(module: nn.Module) -> list[Attachment]:
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return [hook for hook in hooks if isinstance(hook, Attachment)]


def attachments_of(model: nn.Module) -> list[tuple[str, nn.Module, Attachment]]:
    """The parts of ``model`` that have necks, by name, and how each neck is attached."""
    return [(at, module, hook) for at, module in model.named_modules() for hook in _hooks_of(module)]


def _attached(model: nn.Module) -> str:
    necks = [".".join((at, *hook.path)) for at, _, hook in attachments_of(model)]
    return ", ".join(map(repr, necks)) or "none"


def _forget_compiled() -> None:
    # torch.compile puts no guard on hooks, so that code compiled before would go on without the neck, or with it.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
