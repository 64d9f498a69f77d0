"""``save_pretrained`` and ``from_pretrained`` for networks that necks are attached to.

For every class with these two methods: those of transformers, those of segmentation_models_pytorch, and others made
with ``huggingface_hub.PyTorchModelHubMixin``. The folder is theirs, with two files more: where the necks are and how
they are made, and their weights, which are among the network's, too, by names that its framework chooses. It needs
safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sdn_triton.attachment import Attachment, attach, attachments_of
from sdn_triton.modules import SDN, SDNNeck
from sdn_triton.options import Contrast
from sdn_triton.parts import uncompiled

try:
    from safetensors.torch import load_file, save_file
except ImportError as error:
    raise ImportError("sdn_triton.integrations.pretrained needs safetensors: pip install safetensors") from error

FILE = "sdn_necks.json"
"""Where the necks of a network are, and how they are made."""
WEIGHTS = "sdn_necks.safetensors"
"""Their states, by their numbers in that file."""

M = TypeVar("M", bound=nn.Module)


class _Neck(TypedDict):
    """What is written of a neck beside its state."""

    at: str
    side: str
    name: str
    keys: str
    select: list[int | str] | None
    channels: list[int]
    coarse_to_fine: bool | None
    dtype: str | None
    """Where it is another than that of the part it is attached to."""
    options: dict[str, Any]
    contrast: list[float | list[float]]


def save_pretrained(model: nn.Module, folder: str | PathLike[str], **options: Any) -> None:
    """Save ``model`` with its necks, for :func:`from_pretrained`.

    Args:
        model: a network with a ``save_pretrained``, and with necks by :func:`sdn_triton.attach`.
        folder: made where it is not there.
        options: of the network's own ``save_pretrained``, but for ``push_to_hub``: upload the folder afterwards.

    Raises:
        TypeError: ``model`` has no ``save_pretrained``.
        ValueError: no neck is attached to it, or one that :func:`sdn_triton.attach` would not make, such as one whose
            stages have different options; or ``push_to_hub``.

    Example:
        >>> from tempfile import mkdtemp
        >>> import torch, huggingface_hub, sdn_triton
        >>> class Network(torch.nn.Sequential, huggingface_hub.PyTorchModelHubMixin):
        ...     def __init__(self):
        ...         super().__init__(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 2, 1))
        >>> model, folder, image = Network().eval(), mkdtemp(), torch.randn(1, 3, 8, 8)
        >>> neck = sdn_triton.attach(model, "1", channels=8)
        >>> save_pretrained(model, folder)
        >>> torch.equal(from_pretrained(Network, folder)(image), model(image))
        Loading weights from local directory
        True
    """
    model = uncompiled(model)
    save = getattr(model, "save_pretrained", None)
    if save is None:
        raise TypeError(f"{type(model).__name__} has no save_pretrained: keep its state_dict() by torch.save")
    if options.get("push_to_hub"):
        raise ValueError("push_to_hub would upload the network without its necks: upload the folder afterwards")
    attached = [(hook.neck_of(part), hook, part, at) for at, part, hook in attachments_of(model)]
    if not attached:
        raise ValueError(f"no neck is attached to this {type(model).__name__}: use its own save_pretrained")
    description = json.dumps([_describe(*each) for each in attached], indent=2)
    states = enumerate(neck.state_dict() for neck, *_ in attached)
    save(folder, **options)
    dense = torch.contiguous_format
    weights = {f"{i}.{key}": value.clone(memory_format=dense) for i, state in states for key, value in state.items()}
    save_file(weights, Path(folder, WEIGHTS))
    Path(folder, FILE).write_text(description + "\n", encoding="utf-8")


def from_pretrained(kind: type[M], folder: str | PathLike[str], **options: Any) -> M:
    """Load a network with its necks from a folder that :func:`save_pretrained` has written.

    Args:
        kind: the network's class.
        folder: on this machine; of a hub's repository, what ``huggingface_hub.snapshot_download`` returns.
        options: of the class's own ``from_pretrained``.

    Raises:
        FileNotFoundError: the folder has no necks, or is no folder of this machine.
        RuntimeError: its weights are not those of its necks.
    """
    if not Path(folder, FILE).is_file():
        raise FileNotFoundError(
            f"there is no {FILE} in {str(folder)!r}: sdn_triton's save_pretrained writes it, into a folder of this "
            "machine (a hub's repository is brought there by huggingface_hub.snapshot_download)"
        )
    necks: list[_Neck] = json.loads(Path(folder, FILE).read_text(encoding="utf-8"))
    with _expected(kind, [rf"^{re.escape(neck['keys'])}" for neck in necks]):
        model: M = kind.from_pretrained(folder, **options)  # type: ignore[attr-defined]
    states = load_file(Path(folder, WEIGHTS))
    for i, neck in enumerate(necks):
        attached: Any = neck["options"] | {"contrast": [_contrast(value) for value in neck["contrast"]]}
        attached |= {name: neck[name] for name in ("side", "select", "name")}
        if neck["dtype"] is not None:
            attached["dtype"] = getattr(torch, neck["dtype"])
        made = attach(model, neck["at"], neck["channels"], **attached)
        prefix = f"{i}."
        made.load_state_dict({key.removeprefix(prefix): w for key, w in states.items() if key.startswith(prefix)})
    hooks = {(at, hook.side, hook.name): hook for at, _, hook in attachments_of(model)}
    for neck in necks:
        hooks[neck["at"], neck["side"], neck["name"]].coarse_to_fine = neck["coarse_to_fine"]
    return model


@contextmanager
def _expected(kind: type[nn.Module], patterns: list[str]) -> Iterator[None]:
    """Inside, transformers does not report these keys as unexpected: necks get their weights after the network."""
    name = "_keys_to_ignore_on_load_unexpected"
    before = vars(kind).get(name)
    setattr(kind, name, [*(getattr(kind, name, None) or []), *patterns])
    try:
        yield
    finally:
        if before is None:
            delattr(kind, name)
        else:
            setattr(kind, name, before)


def _describe(neck: SDNNeck, hook: Attachment, part: nn.Module, at: str) -> _Neck:
    stages = [_options(stage) for stage in neck.stages]
    if any(stage != stages[0] for stage in stages):
        raise ValueError(f"the stages of the neck {hook.name!r} at {at!r} have different options: {stages}")
    layers: list[Any] = [stage.sdc for stage in neck.stages]
    own = set(neck.parameters())
    other_dtypes = (p.dtype for p in part.parameters() if p not in own and p.is_floating_point())
    dtype = next(neck.parameters()).dtype
    return {
        "at": at,
        "side": hook.side,
        "name": hook.name,
        "keys": ".".join((*([at] if at else []), *hook.path, "")),
        "select": None if hook.select is None else [*hook.select],
        "channels": [*hook.channels],
        "coarse_to_fine": hook.coarse_to_fine,
        "dtype": None if dtype == next(other_dtypes, None) else str(dtype).removeprefix("torch."),
        "options": stages[0],
        "contrast": [_number(sdc.current_contrast()) for sdc in layers],
    }


def _options(stage: Any) -> dict[str, Any]:
    """The options of a block as they are, which its state does not have."""
    if not isinstance(stage, SDN) or not isinstance(stage.fusion.norm, _BatchNorm):
        raise ValueError(f"a neck can be written whose stages are SDN with a batch normalisation, got {stage}")
    sdc, norm = stage.sdc, stage.fusion.norm
    return {
        "kernel_size": [*sdc.kernel_size],
        "dilation": [*sdc.dilation],
        "groups": sdc.groups,
        "bias": sdc.bias is not None,
        "padding_mode": sdc.padding_mode,
        "diffusivity": sdc.diffusivity,
        "learn_contrast": sdc.learn_contrast,
        "similarity": sdc.similarity,
        "eps": norm.eps,
        "momentum": norm.momentum,
        "backend": sdc.backend,
    }


def _number(contrast: Contrast) -> float | list[float]:
    """A contrast as JSON has it: a list for one value per channel."""
    return contrast.tolist() if isinstance(contrast, Tensor) else contrast


def _contrast(value: float | list[float]) -> Contrast:
    return torch.tensor(value) if isinstance(value, list) else value
