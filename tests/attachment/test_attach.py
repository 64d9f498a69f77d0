"""attach: what enters a part passes the neck."""

from collections import OrderedDict

import pytest
import torch
from support.pyramid_network import CALLS, CHANNELS, Pyramid, image, is_feature, make, stir
from torch import Tensor, nn
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


class InPlace(nn.Module):
    """Changes its first argument in place before it reads its second."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Module()
        self.head.forward = lambda first, second, **others: first.mul_(2).sum() + second.square().sum()

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        return self.head(x, x, low=x)


@pytest.mark.parametrize("select", [None, [0], ["low"]], ids=str)
def test_a_tensor_that_enters_twice_is_one_feature(select):
    """A part that works in place sees at one place what it did at the other, with a neck as without."""
    model, x = InPlace(), torch.randn(1, 5, 6, 6)
    before = model(x)
    neck = attach(model, "head", example=x, select=select, zero_init=True)
    assert len(neck.stages) == 1
    assert torch.equal(model(x), before)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), before)


def test_views_leave_as_dense_copies_with_the_same_values():
    """What follows rounds as it does on a copy, with or without a neck."""
    model = nn.Sequential(nn.Identity(), nn.Conv2d(8, 5, 3))
    x = torch.randn(2, 8, 24, 20).to(memory_format=torch.channels_last)[:, :, 1:-3, 2:-1]
    on_a_copy = model(x.contiguous())
    neck = attach(model, "1", example=x, zero_init=True)
    assert torch.equal(neck([x])[0], x)
    assert torch.equal(model(x), on_a_copy)
