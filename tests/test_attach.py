"""attach: what enters a part passes the neck; the dry run; what is refused."""

import copy
import warnings
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from pyramid_network import CALLS, CHANNELS, Network, Pyramid, attributes, image, is_feature, make, stir
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from sdn_triton import attach, detach


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_features_pass_the_neck_and_all_else_stays(call):
    model, x = make(call=call), image()
    model(x)
    given = model.decode_head.seen
    neck = attach(model, "decode_head", CHANNELS)
    stir(neck)
    model(x)
    entered = model.decode_head.seen
    sharpened = {f.shape[1]: out for f, out in zip(model.encoder(x), neck(model.encoder(x)))}

    def expected(leaf):
        return sharpened[leaf.shape[1]] if is_feature(leaf) else leaf

    wanted = pytree.tree_map(expected, given)
    assert pytree.tree_structure(entered) == pytree.tree_structure(wanted)  # types of containers, keys, order
    for one, other in zip(pytree.tree_leaves(entered), pytree.tree_leaves(wanted)):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def test_the_callers_containers_are_left_alone():
    model, x = make(), image()
    kept = []
    model.call = lambda head, features: (kept.append((features, list(features))), head(features))[1]
    stir(attach(model, "decode_head", CHANNELS))
    model(x)
    ((features, before),) = kept
    assert all(now is then for now, then in zip(features, before))


def test_the_features_that_leave_a_part():
    model, x = make(), image()
    features = model.encoder(x)
    neck = attach(model, "encoder", side="output", example=x)
    stir(neck)
    sharpened = model.encoder(x)
    assert type(sharpened) is list
    assert all(torch.equal(one, other) for one, other in zip(sharpened, neck(features)))
    model(x)
    assert all(torch.equal(one, other) for one, other in zip(model.decode_head.seen[0][0], neck(features)))
    assert detach(model, "encoder", side="output") is neck
    assert all(torch.equal(one, other) for one, other in zip(model.encoder(x), features))


def test_the_model_itself():
    model, x = Pyramid(), image()
    before = model(x)
    stir(attach(model, "", example=x, side="output"))
    assert not torch.equal(model(x)[0], before[0])
    detach(model, "", side="output")
    assert torch.equal(model(x)[0], before[0])


SELECTIONS = {
    "places": ([0, 2], (4, 8)),
    "one": ([1], (6,)),
    "from the end": ([-1, 0], (4, 8)),
    "keys": (["fine", "coarse"], (4, 8)),
    "a key above": (["rest"], (6, 8)),
}


@pytest.mark.parametrize(("select", "channels"), SELECTIONS.values(), ids=SELECTIONS.keys())
@pytest.mark.parametrize("dry", [False, True], ids=["channels given", "dry run"])
def test_selected_features_only(select, channels, dry):
    model, x = make(call=lambda head, f: head(fine=f[0], rest={"middle": f[1], "coarse": f[2]})), image()
    if select == ["fine", "coarse"]:
        model.call = lambda head, f: head(fine=f[0], middle=f[1], coarse=f[2])
    features = {f.shape[1]: f for f in model.encoder(x)}
    neck = attach(model, "decode_head", None if dry else channels, example=x if dry else None, select=select)
    stir(neck)
    model(x)
    expected = features | dict(zip(channels, neck([features[c] for c in channels])))
    for tensor in pytree.tree_leaves(model.decode_head.seen):
        assert torch.equal(tensor, expected[tensor.shape[1]])


def test_equal_sizes_keep_their_direction():
    """Dilated stages have as many pixels as the one before; what is deeper shows from the others only."""

    class Dilated(nn.Module):
        def __init__(self, reverse):
            super().__init__()
            self.head, self.reverse = nn.Identity(), reverse

        def forward(self, *features):
            return self.head(features[::-1] if self.reverse else features)

    sizes = ((4, 16), (6, 8), (8, 8))
    features = [torch.randn(1, channels, size, size) for channels, size in sizes]
    for reverse in (False, True):
        model = Dilated(reverse).eval()
        neck = attach(model, "head", example=tuple(features))
        assert [stage.sdc.in_channels for stage in neck.stages] == [4, 6, 8]
        stir(neck)
        outputs = model(*features)
        assert all(torch.equal(o, e) for o, e in zip(outputs[::-1] if reverse else outputs, neck(features)))


class Backwards(nn.Module):
    """Hands its features on coarse to fine."""

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()

    def forward(self, *features):
        return self.head(features[::-1])


@pytest.mark.parametrize("channels", [(4, 6), (4, 4)], ids=str)
def test_stages_of_one_size_decide_nothing(channels):
    """A very small image makes all of them one pixel; the next call shows which is finer."""
    model = Backwards().eval()
    neck = attach(model, "head", channels)
    stir(neck)
    for coarse in (1, 3):
        fine = 1 if coarse == 1 else 2 * coarse
        features = [torch.randn(1, c, s, s) for c, s in zip(channels, (fine, coarse))]
        outputs = model(*features)
        if channels == (4, 6) or coarse > 1:
            assert all(torch.equal(o, e) for o, e in zip(outputs[::-1], neck(features)))


def test_a_call_that_fails_decides_nothing():
    model = Backwards().eval()
    stir(attach(model, "head", (4, 6)))
    features = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    with pytest.raises(ValueError, match=r"the input of 'head' is for features of \[4, 6\]"):
        model(torch.randn(1, 4, 4, 4), torch.randn(1, 6, 8, 8))
    assert [o.shape for o in model(*features)] == [f.shape for f in features[::-1]]


def test_an_example_of_one_size_does_not_turn_later_calls_round():
    model = Backwards().eval()
    attach(model, "head", example=(torch.randn(1, 4, 1, 1), torch.randn(1, 6, 1, 1)))
    with pytest.raises(ValueError, match=r"for features of \[6, 4\]"):
        model(torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4))


def test_a_selection_is_kept_as_it_was_given():
    model, x, chosen = make(), image(), [0, 2]
    attach(model, "decode_head", (4, 8), select=chosen)
    chosen.clear()
    model(x)


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_plain_sequential_takes_it_into_its_first_or_last_part(side):
    body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 2, 1)).eval()
    model, x = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 3, 1), body=body)).eval(), torch.randn(1, 3, 9, 9)
    before = model(x)
    neck = attach(model, "body", example=x, side=side)
    stir(neck)
    inside = {"input": "body.0.0", "output": "body.1"}[side]
    assert model.get_submodule(f"{inside}.sdn_neck") is neck
    output = model(x)
    detached = detach(model, "body", side=side)
    expected = body(detached(model.stem(x))[0]) if side == "input" else detached(before)[0]
    assert torch.equal(output, expected)
    assert torch.equal(model(x), before)


class Watchful(Network):
    """Everything that a call could change: buffers in place and replaced, random states, flags."""

    def __init__(self, fail=False):
        super().__init__()
        self.register_buffer("count", torch.zeros(3))
        self.register_buffer("last", None)
        self.register_buffer("places", torch.arange(4).expand(3, 4))  # cannot be written
        self.fail = fail

    def forward(self, image):
        self.count += 1
        self.last = image
        noise = torch.rand_like(image)
        output = super().forward(image + noise)
        if self.fail:
            raise ArithmeticError("on purpose")
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in self.modules())
        return output


@pytest.mark.parametrize("fail", [False, True])
def test_the_dry_run_leaves_no_trace(fail):
    model, x = Watchful(fail).train(), image()
    model.encoder.eval()  # a frozen part
    flags = [module.training for module in model.modules()]
    state, held = copy.deepcopy(model.state_dict()), attributes(model)
    random, count = torch.get_rng_state(), model.count
    if fail:
        with pytest.raises(ArithmeticError):
            attach(model, "decode_head", example=x)
    else:
        attach(model, "decode_head", example=x)
        detach(model, "decode_head")
        torch.set_rng_state(random)  # the neck's own parameters were drawn
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == flags
    assert model.count is count
    assert model.last is None
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert attributes(model) == held
    assert all(p.grad is None for p in model.parameters())


def test_what_a_first_call_makes_stays_made():
    """A flag says that it is there, and transformers hang up hooks so: half of it taken back would be worse."""

    class Cached(Network):
        ready = False

        def forward(self, image):
            if not self.ready:
                self.register_buffer("grid", torch.ones(3))
                self.ready = True
            return super().forward(image + self.grid.mean())

    model, x = Cached().eval(), image()
    attach(model, "decode_head", example=x, zero_init=True)
    first = model(x)
    assert torch.equal(model(x), first)


def test_a_dry_run_makes_lazy_modules_real():
    model = Network()
    model.decode_head.norm, model.decode_head.mix[0] = nn.LazyBatchNorm2d(), nn.LazyConv2d(5, 1)
    x = image()
    model.decode_head.mix[0].in_channels = CHANNELS[0]  # the head looks its features up by it
    attach(model.eval(), "decode_head", example=x)
    assert type(model.decode_head.norm) is nn.BatchNorm2d
    assert model(x).isfinite().all()
    assert not any(module.training for module in model.modules())


def test_the_dry_run_draws_no_random_numbers():
    """What the neck is initialised with does not depend on whether its channels were given or found."""
    necks = []
    for options in (dict(channels=CHANNELS), dict(example=image())):
        model = Watchful()
        torch.manual_seed(4)
        necks.append(attach(model, "decode_head", **options).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(necks[0].values(), necks[1].values()))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"image": x}], ids=["one", "tuple", "mapping"])
def test_forms_of_an_example(wrap):
    neck = attach(make(), "decode_head", example=wrap(image()))
    assert [stage.sdc.in_channels for stage in neck.stages] == list(CHANNELS)


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
        "container": (ValueError, "is a ModuleList", listed, "parts", dict(channels=3)),
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
