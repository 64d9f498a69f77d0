"""``save_pretrained`` and ``from_pretrained`` for networks that necks are attached to.

For every class with these two methods that keeps its weights as safetensors: those of transformers, those of
segmentation_models_pytorch, and others made with ``huggingface_hub.PyTorchModelHubMixin``. The folder is theirs, with
the necks' weights among the network's and one file more, which says where the necks are. It needs safetensors.
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

from sdn_triton.attachment import Attachment, attach, attachments_of
from sdn_triton.options import Contrast

try:
    from safetensors import safe_open
except ImportError as error:
    raise ImportError("sdn_triton.integrations.pretrained needs safetensors: pip install safetensors") from error

FILE = "sdn_necks.json"
"""Beside the weights: where the necks of a network are, and how they are made."""

OF_THE_LOADED = "contrast", "zero_init", "device", "dtype"
"""Options of a neck that are not written as they were given: its state has them, or the network that is loaded."""

M = TypeVar("M", bound=nn.Module)


class _Neck(TypedDict):
    """What is written of a neck; its weights are among those of the network."""

    at: str
    side: str
    name: str
    keys: str
    select: list[int | str] | None
    channels: list[int]
    coarse_to_fine: bool | None
    options: dict[str, Any]
    contrast: list[float | list[float]]


def save_pretrained(model: nn.Module, folder: str | PathLike[str], **options: Any) -> None:
    """Save ``model`` with its necks, for :func:`from_pretrained`.

    Args:
        model: a network with a ``save_pretrained``, and with necks by :func:`sdn_triton.attach`.
        folder: made where it is not there.
        options: of the network's own ``save_pretrained``.

    Raises:
        TypeError: ``model`` has no ``save_pretrained``.
        ValueError: no neck is attached to it.

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
    save = getattr(model, "save_pretrained", None)
    if save is None:
        raise TypeError(f"{type(model).__name__} has no save_pretrained: keep its state_dict() by torch.save")
    necks = [_describe(at, hook, module) for at, module, hook in attachments_of(model)]
    if not necks:
        raise ValueError(f"no neck is attached to this {type(model).__name__}: use its own save_pretrained")
    save(folder, **options)
    Path(folder, FILE).write_text(json.dumps(necks, indent=2) + "\n", encoding="utf-8")


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
    described = Path(folder, FILE)
    if not described.is_file():
        raise FileNotFoundError(
            f"there is no {FILE} in {str(folder)!r}: sdn_triton's save_pretrained writes it, into a folder of this "
            "machine (a hub's repository is brought there by huggingface_hub.snapshot_download)"
        )
    necks: list[_Neck] = json.loads(described.read_text(encoding="utf-8"))
    with _expected(kind, [rf"^{re.escape(neck['keys'])}" for neck in necks]):
        model: M = kind.from_pretrained(folder, **options)  # type: ignore[attr-defined]
    for neck in necks:
        attached: Any = neck["options"] | {"contrast": [_contrast(value) for value in neck["contrast"]]}
        attached |= {name: neck[name] for name in ("side", "select", "name")}
        attach(model, neck["at"], neck["channels"], **attached).load_state_dict(_weights(Path(folder), neck["keys"]))
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


def _describe(at: str, hook: Attachment, module: nn.Module) -> _Neck:
    if hook.options is None:
        raise ValueError(
            f"the neck {hook.name!r} at {at!r} was pickled by an older version: attach another one with its state"
        )
    prefix, neck = f"{at}." if at else "", hook.neck_of(module)
    return {
        "at": at,
        "side": hook.side,
        "name": hook.name,
        "keys": f"{prefix}{'.'.join(hook.path)}.",
        "select": None if hook.select is None else [*hook.select],
        "channels": [*hook.channels],
        "coarse_to_fine": hook.coarse_to_fine,
        "options": {name: value for name, value in hook.options.items() if name not in OF_THE_LOADED},
        "contrast": [_number(stage.sdc.current_contrast()) for stage in neck.stages],
    }


def _weights(folder: Path, keys: str) -> dict[str, Tensor]:
    """The tensors of a folder whose names begin with ``keys``, without that beginning."""
    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            own = [key for key in file.keys() if key.startswith(keys)]  # noqa: SIM118 (no mapping)
            weights |= {key.removeprefix(keys): file.get_tensor(key) for key in own}
    return weights


def _number(contrast: Contrast) -> float | list[float]:
    """A contrast as JSON has it: a list for one value per channel."""
    return contrast.tolist() if isinstance(contrast, Tensor) else contrast


def _contrast(value: float | list[float]) -> Contrast:
    return torch.tensor(value) if isinstance(value, list) else value
