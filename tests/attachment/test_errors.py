"""attach and detach: what is refused, with what words."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from support.pyramid_network import CHANNELS, attributes, image, make
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sdn_triton import attach, detach


@dataclass
class Unseen:
    """A container that PyTorch is not told of."""

    fine: Tensor


def errors():
    def ddp(model):
        return DistributedDataParallel(model)

    scripted = nn.Module()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        scripted.part = torch.jit.script(nn.Conv2d(3, 3, 1))
    shared = nn.Module()
    relu = nn.ReLU()
    shared.head, shared.other = nn.Sequential(relu, nn.Conv2d(3, 3, 1)), nn.Sequential(relu)
    tokens = make(call=lambda head, f: head([x.flatten(2) for x in f]))
    mixed = make(call=lambda head, f: head([f[1], f[0], f[2]]))
    varying = make(call=lambda head, f: head(f) if len(f) < 3 else (head(f), head(f[::-1] + f[:1]))[0])
    unseen = make(call=lambda head, f: head(Unseen(f[0])))
    listed = nn.Module()
    listed.parts = nn.ModuleList([nn.Conv2d(3, 3, 1)])
    x = image()
    return {
        "model": (TypeError, "model must be an nn.Module, got str", "net", "head", dict(channels=3)),
        "unknown": (
            ValueError,
            r"at='decode_hed' is no part of Network; there are 'decode_head'",
            make(),
            "decode_hed",
            {},
        ),
        "unlike any": (ValueError, r"there are 'encoder', 'decode_head'", make(), "zzz", {}),
        "side": (ValueError, "side must be one of 'input', 'output', got 'in'", make(), "encoder", dict(side="in")),
        "neither": (ValueError, r"give channels .* or example", make(), "decode_head", {}),
        "select text": (TypeError, "select must be None, a sequence", make(), "encoder", dict(select="out")),
        "select mixed": (TypeError, "ints only or strings only", make(), "encoder", dict(select=[1, "out"])),
        "select none": (TypeError, "at least one", make(), "encoder", dict(select=[])),
        "select twice": (ValueError, "names a feature twice", make(), "encoder", dict(select=[1, 1])),
        "select same": (ValueError, "twice", make(), "decode_head", dict(select=[2, -1], example=x)),
        "select far": (
            ValueError,
            r"no feature 3 among \[2, 4, 16, 20\]",
            make(),
            "decode_head",
            dict(select=[3], example=x),
        ),
        "select key": (ValueError, r"no feature 'out' among", make(), "decode_head", dict(select=["out"], example=x)),
        "option": (TypeError, "contrasts", make(), "decode_head", dict(channels=CHANNELS, contrasts=1)),
        "name": (
            ValueError,
            "name must be a Python identifier, got 'a.b'",
            make(),
            "encoder",
            dict(channels=3, name="a.b"),
        ),
        "taken": (ValueError, "has an attribute 'norm' already", make(), "decode_head", dict(channels=3, name="norm")),
        "channels": (
            ValueError,
            r"for features of \[4, 6\] channels, fine to coarse, but there are \[4, 6, 8\]: \[2, 4, 16, 20\].*select=",
            make(),
            "decode_head",
            dict(channels=(4, 6), example=x),
        ),
        "channels text": (TypeError, "ints, got 'abc'", make(), "decode_head", dict(channels="abc")),
        "channels float": (TypeError, "ints, got 3.0", make(), "decode_head", dict(channels=3.0)),
        "channels none": (ValueError, "must be positive", make(), "decode_head", dict(channels=[4, 0, 8])),
        "channels bool": (ValueError, "must be positive", make(), "decode_head", dict(channels=True)),
        "tokens": (
            ValueError,
            r"no feature \[N, C, H, W\].* only \[2, 4, 320\]",
            tokens,
            "decode_head",
            dict(example=x),
        ),
        "unseen": (
            ValueError,
            "only Unseen; PyTorch does not look into Unseen unless it is registered",
            unseen,
            "decode_head",
            dict(example=x),
        ),
        "order": (ValueError, "neither fine to coarse nor coarse to fine", mixed, "decode_head", dict(example=x)),
        "two forms": (ValueError, "features of different channels", varying, "decode_head", dict(example=x)),
        "not called": (ValueError, "is not called", make(), "encoder.steps.0", dict(example=x, side="input")),
        "container": (ValueError, "is a ModuleList that is never called", listed, "parts", dict(channels=3)),
        "empty": (ValueError, "is a Sequential", nn.Sequential(), "", dict(channels=3)),
        "shared": (
            ValueError,
            r"'head.0', where the neck would go, is used in several places",
            shared,
            "head",
            dict(channels=3),
        ),
        "scripted": (TypeError, "scripted", scripted, "part", dict(channels=3)),
    }


ERRORS = errors()


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS.keys())
def test_errors_name_what_is_wrong_and_leave_the_model_alone(case):
    kind, message, model, at, options = case
    if "is not called" in message:
        model.call = lambda head, features: head(features)
        model.encoder.forward = lambda x: [torch.randn(2, c, 8 // i, 8 // i) for i, c in zip((1, 2, 4), CHANNELS)]
    held = attributes(model) if isinstance(model, nn.Module) and message != "scripted" else None
    with pytest.raises(kind, match=message):
        attach(model, at, **options)
    if held is not None:
        assert attributes(model) == held


def test_twice_at_one_place_is_an_error():
    model = make()
    attach(model, "decode_head", CHANNELS)
    with pytest.raises(ValueError, match="a neck 'sdn_neck' is attached at 'decode_head' already"):
        attach(model, "decode_head", CHANNELS)


def test_detaching_what_is_not_there_says_what_is():
    model = make()
    with pytest.raises(
        ValueError, match="no neck 'sdn_neck' is attached at 'encoder', side 'input'; attached are: none"
    ):
        detach(model, "encoder")
    attach(model, "decode_head", CHANNELS)
    with pytest.raises(ValueError, match=r"attached are: 'decode_head\.sdn_neck'"):
        detach(model, "encoder")
    with pytest.raises(ValueError, match=r"attached are: 'decode_head\.sdn_neck'"):
        detach(model, "decode_head", side="output")
    detach(model, "decode_head")
    with pytest.raises(ValueError, match="attached are: none"):
        detach(model, "decode_head")


def test_other_features_than_those_it_was_made_for():
    model = make()
    attach(model, "decode_head", (4, 6, 9))
    with pytest.raises(ValueError, match=r"at the input|input of 'decode_head' is for features of \[4, 6, 9\]"):
        model(image())
