"""attach: parameters, checkpoints, copies; detach."""

import copy
import io
import pickle

import pytest
import torch
from support.pyramid_network import CHANNELS, attributes, image, make, stir
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel

from sdn_triton import SDNNeck, attach, detach


def outputs_and_keys(model: nn.Module, x: Tensor) -> list:
    """Outputs, gradients and statistics of a step in evaluation and in training, and the state's keys."""
    model = copy.deepcopy(model)
    found = [model(x).detach(), list(model.state_dict())]
    model.train()
    torch.manual_seed(5)  # dropout
    output = model(x)
    output.square().sum().backward()
    return [*found, output.detach(), *(p.grad for p in model.parameters()), *model.buffers()]


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one, other)
    )


@pytest.mark.parametrize("side", ["input", "output"])
def test_detach_restores_the_model_bit_for_bit(side):
    at = {"input": "decode_head", "output": "encoder"}[side]
    model, x = make(), image()
    before, held = outputs_and_keys(model, x), attributes(model)
    neck = attach(model, at, example=x, side=side)
    stir(neck)
    model.train()
    model(x)
    model.decode_head.norm.reset_running_stats()
    model.eval()
    assert not same(outputs_and_keys(model, x), before)
    assert detach(model, at, side=side) is neck
    assert same(outputs_and_keys(model, x), before)
    assert attributes(model) == held


def test_zero_init_changes_no_output():
    model, x = make(), image()
    before = model(x)
    attach(model, "decode_head", example=x, zero_init=True)
    assert torch.equal(model(x), before)
    model.train()
    torch.manual_seed(1)
    trained = model(x)
    detach(model, "decode_head")
    torch.manual_seed(1)
    assert torch.equal(model(x), trained)


def test_the_neck_is_part_of_the_model():
    model = make()
    own = set(model.state_dict())
    neck = attach(model, "decode_head", CHANNELS, learn_contrast=True)
    assert set(model.state_dict()) - own == {f"decode_head.sdn_neck.{key}" for key in neck.state_dict()}
    assert {id(p) for p in neck.parameters()} <= {id(p) for p in model.parameters()}
    assert not neck.training
    model.train()
    assert neck.training
    model.double()
    assert {p.dtype for p in neck.parameters()} == {torch.float64}
    model.to("meta")
    assert {p.device.type for p in neck.parameters()} == {"meta"}


def test_options_device_and_dtype():
    neck = attach(make().double(), "decode_head", CHANNELS, similarity="vector", contrast=0.3)
    assert {p.dtype for p in neck.parameters()} == {torch.float64}
    assert neck.stages[0].sdc.similarity == "vector"
    assert neck.stages[0].sdc.contrast == 0.3
    assert {p.dtype for p in attach(make(), "decode_head", CHANNELS, dtype=torch.float64).parameters()} == {
        torch.float64
    }
    assert {p.device.type for p in attach(make().to("meta"), "decode_head", CHANNELS).parameters()} == {"meta"}
    assert not attach(make().eval(), "decode_head", CHANNELS).training
    assert attach(make().train(), "decode_head", CHANNELS).training


def test_weights_load_before_and_after():
    x, pretrained = image(), make().state_dict()
    before, after = make(), make()
    before.load_state_dict(pretrained)
    attach(before, "decode_head", CHANNELS, zero_init=True)
    neck = attach(after, "decode_head", CHANNELS, zero_init=True)
    missing, unexpected = after.load_state_dict(pretrained, strict=False)
    assert unexpected == []
    counters = {key for key in neck.state_dict() if key.endswith("num_batches_tracked")}  # never called missing
    assert set(missing) == {f"decode_head.sdn_neck.{key}" for key in neck.state_dict().keys() - counters}
    assert torch.equal(before(x), after(x))
    stir(neck)
    again = make()
    attach(again, "decode_head", CHANNELS)
    assert again.load_state_dict(after.state_dict())
    assert torch.equal(again(x), after(x))


def _saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def first_argument(head, features):
    return head(features)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": _saved,
}


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_a_copy_has_a_neck_of_its_own(duplicate, side):
    at = {"input": "decode_head", "output": "encoder"}[side]
    model, x = make(call=first_argument), image()
    plain = model(x)
    neck = attach(model, at, example=x, side=side)
    stir(neck)
    expected = model(x)
    twin = duplicate(model)
    assert torch.equal(twin(x), expected)
    own = twin.get_submodule(f"{at}.sdn_neck")
    assert own is not neck
    stir(own)
    assert torch.equal(model(x), expected)
    assert not torch.equal(twin(x), expected)
    assert detach(twin, at, side=side) is own
    assert torch.equal(twin(x), plain)
    assert torch.equal(model(x), expected)


def test_a_part_copied_alone_takes_its_neck_along():
    model, x = make(), image()
    neck = attach(model, "decode_head", CHANNELS)
    stir(neck)
    expected = model(x)
    head = copy.deepcopy(model.decode_head)
    other = make()
    other.encoder, other.decode_head = model.encoder, head
    assert torch.equal(other(x), expected)


def test_an_average_averages_the_neck():
    model = make(call=first_argument)
    neck = attach(model, "decode_head", CHANNELS)
    average = AveragedModel(model)
    average.update_parameters(model)
    first = neck.guidance.weight.detach().clone()
    stir(neck)
    average.update_parameters(model)
    expected = (first + neck.guidance.weight.detach()) / 2
    torch.testing.assert_close(average.module.decode_head.sdn_neck.guidance.weight.detach(), expected)
    x = image()
    before = average(x)
    stir(average.module.decode_head.sdn_neck)
    assert not torch.equal(average(x), before)


def test_other_parameters_for_one_call():
    model, x = make(), image()
    neck = attach(model, "decode_head", CHANNELS, zero_init=True)
    before = model(x)
    zeros = {f"decode_head.sdn_neck.{n}": torch.zeros_like(p) for n, p in neck.named_parameters()}
    assert not torch.equal(functional_call(model, zeros, (x,)), before)
    assert torch.equal(model(x), before)


def test_a_neck_replaced_is_the_one_that_runs():
    """Wrappers (checkpointing, compilation) put another module in the neck's place."""
    model, x = make(), image()
    neck = attach(model, "decode_head", CHANNELS)
    calls = []

    class Wrapper(nn.Module):
        def forward(self, features):
            calls.append(len(features))
            return neck(features)

    model.decode_head.sdn_neck = Wrapper()
    model(x)
    assert calls == [3]


def test_every_call_of_the_part_passes_the_neck():
    model, x = make(call=lambda head, f: head(f) + head([g * 2 for g in f])), image()
    neck = attach(model, "decode_head", example=x)
    calls = []
    neck.register_forward_hook(lambda *_: calls.append(1))
    stir(neck)
    output = model(x)
    assert len(calls) == 2
    features = model.encoder(x)
    head, detached = model.decode_head, detach(model, "decode_head")
    assert torch.equal(output, head(list(detached(features))) + head(list(detached([2 * f for f in features]))))


def test_a_part_that_calls_itself():
    class Recursive(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x, depth=2):
            return x if depth == 0 else self.conv(self(nn.functional.avg_pool2d(x, 2), depth - 1))

    model, x = nn.ModuleDict({"part": Recursive()})["part"], torch.randn(2, 4, 16, 16)
    neck = attach(model, "", 4)
    stir(neck.eval())
    detached = copy.deepcopy(neck)

    def expected(x, depth=2):
        (x,) = detached(x)
        return x if depth == 0 else model.conv(expected(nn.functional.avg_pool2d(x, 2), depth - 1))

    torch.testing.assert_close(model(x), expected(x))


def test_two_necks_at_one_part_run_in_turn():
    model, x = make(), image()
    first = attach(model, "decode_head", CHANNELS)
    second = attach(model, "decode_head", CHANNELS, name="second")
    stir(first)
    stir(second)
    model(x)
    entered = model.decode_head.seen[0][0]
    assert all(torch.equal(a, b) for a, b in zip(entered, second(first(model.encoder(x)))))
    assert detach(model, "decode_head") is first
    model(x)
    assert all(torch.equal(a, b) for a, b in zip(model.decode_head.seen[0][0], second(model.encoder(x))))


def test_it_returns_a_neck_like_any_other():
    assert type(attach(make(), "decode_head", CHANNELS)) is SDNNeck
