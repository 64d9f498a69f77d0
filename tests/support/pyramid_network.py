"""A small network with an encoder and a decode head, for the tests of attach."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

CHANNELS = (4, 6, 8)


class Pyramid(nn.Module):
    """Three stages of a quarter of the pixels each."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, *CHANNELS)
        self.steps = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(sizes))

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        for step in self.steps:
            image = step(image)
            features.append(image)
        return features


def is_feature(leaf) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point()


class Head(nn.Module):
    """Mixes what it is given, with batch normalisation and dropout, and keeps the last arguments for the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.ModuleList(nn.Conv2d(channels, 5, 1) for channels in CHANNELS)
        self.norm = nn.BatchNorm2d(5)
        self.dropout = nn.Dropout(0.3)

    def forward(self, *args, **kwargs) -> Tensor:
        if not torch.compiler.is_compiling():
            self.seen = pytree.tree_map_only(Tensor, Tensor.detach, (args, kwargs))
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if is_feature(x)]
        by_channels = {x.shape[1]: x for x in tensors}
        size = by_channels[CHANNELS[0]].shape[-2:]
        mixed = [nn.functional.interpolate(conv(by_channels[conv.in_channels]), size) for conv in self.mix]
        return self.dropout(self.norm(sum(mixed)))


class Network(nn.Module):
    def __init__(self, call=lambda head, features: head(features)) -> None:
        super().__init__()
        self.encoder = Pyramid()
        self.decode_head = Head()
        self.call = call

    def forward(self, image: Tensor) -> Tensor:
        return self.call(self.decode_head, self.encoder(image))


def make(**options) -> Network:
    return Network(**options).eval()


def stir(neck: nn.Module) -> None:
    """Away from the identity, statistics included."""
    with torch.no_grad():
        for tensor in (*neck.parameters(), *neck.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.2 + 0.05)


def image(batch: int = 2, height: int = 32, width: int = 40) -> Tensor:
    return torch.randn(batch, 3, height, width)


def attributes(model: nn.Module) -> dict:
    """Everything that every module holds, hooks and the order of submodules included."""
    skip = ("seen",)
    return {
        name: {
            key: (list(value) if hasattr(value, "keys") else value)
            for key, value in vars(module).items()
            if key not in skip
        }
        for name, module in model.named_modules()
    }


class Triple(NamedTuple):
    a: Tensor
    b: Tensor
    c: Tensor


class Record(OrderedDict):
    """A mapping that says how it is nested, as the outputs of transformers do."""


@dataclass
class Outputs:
    a: Tensor
    b: Tensor
    c: Tensor


torch.export.register_dataclass(Outputs)
pytree.register_pytree_node(
    Record, lambda r: (list(r.values()), list(r)), lambda values, keys: Record(zip(keys, values))
)

CALLS = {
    "list": lambda head, f: head(f),
    "tuple": lambda head, f: head(tuple(f)),
    "named tuple": lambda head, f: head(Triple(*f)),
    "dict": lambda head, f: head(dict(zip("abc", f))),
    "ordered dict": lambda head, f: head(OrderedDict(zip("abc", f))),
    "registered mapping": lambda head, f: head(Record(zip("abc", f))),
    "registered dataclass": lambda head, f: head(Outputs(*f)),
    "positional": lambda head, f: head(*f),
    "keyword": lambda head, f: head(features=f),
    "keywords": lambda head, f: head(fine=f[0], middle=f[1], coarse=f[2]),
    "mixed": lambda head, f: head(f[0], rest=(f[1], {"deep": f[2]})),
    "coarse to fine": lambda head, f: head(f[::-1]),
    "with others": lambda head, f: head(None, f, "name", f[0].flatten(2), mask=f[0] > 0, sizes=[(1, 2)], scale=2.0),
}
