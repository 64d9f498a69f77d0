"""attach: the one call that finds the features, and what it leaves behind."""

import copy

import pytest
import torch
from support.pyramid_network import CHANNELS, Network, attributes, image, make
from torch import nn

from sdn_triton import attach, detach


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
