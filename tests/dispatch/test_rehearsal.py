"""What explain() says of kernels is what forward and backward launch: it runs the same launch code on stand-ins."""

from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from sdn_triton import SDN, Explanation, explain, feature_fusion, semantic_difference_conv2d
from sdn_triton.aot.compile import TARGETS
from sdn_triton.backend import recorded_decisions
from sdn_triton.launch.description import describe
from sdn_triton.launch.run import Launch, recorded_launches
from sdn_triton.ops.difference_conv import difference_conv
from sdn_triton.ops.rehearsal import rehearsal
from sdn_triton.options import DifferenceArguments, DifferenceOptions
from sdn_triton.tuning import fallback
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.lookup import chosen_by
from sdn_triton.tuning.other_way import COMPILED_AHEAD
from sdn_triton.tuning.pretended import pretended

HALF = torch.bfloat16


class Layer(nn.Module):
    """A function of an image and guidance or a response, with its weights."""

    def __init__(self, function, weight, **options) -> None:
        super().__init__()
        self.function, self.options = function, options
        self.weight = nn.Parameter(torch.zeros(weight, dtype=HALF))
        self.bias = nn.Parameter(torch.zeros(weight[0], dtype=HALF))

    def forward(self, first, second):
        return self.function(first, second, self.weight, self.bias, **self.options)


def difference(*weight: int, **options) -> Layer:
    return Layer(semantic_difference_conv2d, weight, padding=1, **options)


CALLS = {
    "channels_last": (lambda: difference(64, 64, 3, 3), (64, 64), torch.channels_last),
    "copies": (lambda: difference(600, 40, 3, 3), (40, 40), torch.contiguous_format),
    "several-strips": (lambda: difference(8, 128, 3, 3), (128, 128, 256, 256), torch.contiguous_format),
    "depthwise": (lambda: difference(64, 1, 3, 3, groups=64), (64, 64), torch.contiguous_format),
    "vector": (lambda: difference(8, 32, 3, 3, similarity="vector"), (32, 5), torch.contiguous_format),
    "constant": (lambda: difference(8, 32, 3, 3, diffusivity="constant"), (32, 32), torch.channels_last),
    "learned": (
        lambda: difference(8, 64, 3, 3, contrast=torch.ones(64, requires_grad=True)),
        (64, 64),
        torch.contiguous_format,
    ),
    "fusion": (lambda: Layer(feature_fusion, (24, 56, 1, 1)), (40, 16), torch.contiguous_format),
    "block-training": (lambda: SDN(64, dtype=HALF), (64, 64), torch.contiguous_format),
    "block-evaluation": (lambda: SDN(64, dtype=HALF).eval().requires_grad_(False), (64, 64), torch.contiguous_format),
}


def images(channels, memory_format):
    first, second, *size = channels
    return [
        torch.zeros(2, c, *(size or (33, 47)), dtype=HALF).contiguous(memory_format=memory_format)
        for c in (first, second)
    ]


def launched(call, tensors: list[torch.Tensor]) -> list[Launch]:
    """What a call and its backward launch."""
    is_trained = any(parameter.requires_grad for parameter in call.parameters())
    tensors = [tensor.requires_grad_(is_trained) for tensor in tensors]
    with recorded_launches() as launches:
        output = call(*tensors)
        if output.requires_grad:
            output.backward(torch.empty_like(output))
    return launches


def lines_of(explanation: Explanation) -> set[str]:
    """Those about kernels."""
    return {line for decision in explanation.decisions for line in decision.configs} - {COMPILED_AHEAD}


def small_tiles(kernel, work, target) -> KernelConfig:
    splits = 3 if KERNELS[kernel].is_split else 1
    return KernelConfig(16, 8, 16, 16, 4, 1, splits, source="fixed")


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("fixed", [False, True], ids=["heuristic", "fixed"])
@pytest.mark.parametrize("name", CALLS)
def test_explained_is_what_is_launched(name, fixed, target):
    make, channels, memory_format = CALLS[name]
    call, tensors = make(), images(channels, memory_format)
    with pretended(TARGETS[target]), chosen_by(small_tiles) if fixed else nullcontext():
        explanation = explain(call, *tensors)
        launches = launched(call, tensors)
    lines = lines_of(explanation)
    assert lines == set(describe(launches))
    tuned = {f"{launch.tuned_as}: {launch.config}" for launch in launches if launch.tuned_as in KERNELS}
    assert {line.partition(";")[0] for line in lines} == tuned
    assert all(("(fixed)" in line) == fixed for line in lines)
    has_copies = any(launch.name == "image_copy_kernel" for launch in launches)
    assert has_copies == any("in channels_last" in line or "channels_last cop" in line for line in lines)


def test_the_bytes_are_those_of_what_is_allocated():
    make, channels, memory_format = CALLS["copies"]
    with pretended(TARGETS["sm_90"]):
        lines = {line.partition(":")[0]: line for line in lines_of(explain(make(), *images(channels, memory_format)))}
    copies, incoming, products = 2 * 2 * 64 * 33 * 47 * 2, 2 * 600 * 33 * 47 * 2, 2 * 33 * 47 * 8 * 64 * 2
    assert f"; reads channels_last copies of input and guidance ({copies:,} bytes)" in lines["difference_forward"]
    for kernel in ("difference_data_gradient", "difference_weight_gradient"):
        assert f"input and guidance ({copies:,} bytes, one set for the backward)" in lines[kernel]
    for kernel in ("tap_products", "difference_weight_gradient"):
        assert f"; reads a channels_last copy of the incoming gradient ({incoming:,} bytes)" in lines[kernel]
    assert lines["tap_products"].endswith(f"; makes products of up to {products:,} bytes at a time")


def test_one_tensor_in_two_roles_is_copied_once():
    make, _, _ = CALLS["copies"]
    u = torch.zeros(2, 40, 33, 47, dtype=HALF)
    with pretended(TARGETS["sm_90"]):
        text = str(explain(make(), u, u))
    assert text.count(f"reads channels_last copies of input ({2 * 64 * 33 * 47 * 2:,} bytes") == 3


def test_gradients_that_are_written_elsewhere_first():
    make, channels, memory_format = CALLS["depthwise"]
    with pretended(TARGETS["sm_90"]):
        (line,) = (
            line
            for line in lines_of(explain(make(), *images(channels, memory_format)))
            if line.startswith("depthwise_data_gradient")
        )
    assert line.endswith(f"; writes gradients in channels_last first ({2 * 2 * 64 * 33 * 47 * 2:,} bytes)")


class Unused(TorchDispatchMode):
    """Somebody who counts operations: those of a rehearsal are none of the call."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        pytest.fail(f"{function} was seen")


def test_nothing_is_allocated_or_seen():
    image, weight = torch.zeros(1, 40, 9, 9, dtype=HALF), torch.zeros(8, 40, 3, 3, dtype=HALF)
    arguments, options = DifferenceArguments(image, image.clone(), weight, None, 1.0), DifferenceOptions((3, 3))
    with pretended(TARGETS["sm_90"]), Unused(), rehearsal(arguments) as (stand_ins, launches):
        difference_conv.rehearse(arguments, DifferenceArguments(*stand_ins), options)
    passed = [x for launch in launches for x in launch.arguments.values() if isinstance(x, torch.Tensor)]
    assert passed
    assert all(x.is_meta for x in passed)


@pytest.mark.parametrize("lies_between_words", [False, True])
def test_memory_of_another_library(lies_between_words):
    """Where it starts decides whether channels are read as they lie; a fake tensor's offset does not say it."""
    offset = 2 if lies_between_words else 0
    memory = torch.frombuffer(bytearray(2 * 32 * 64 + offset), dtype=torch.float16, offset=offset)
    u, weight = memory.view(1, 8, 8, 32).permute(0, 3, 1, 2), torch.zeros(8, 32, 3, 3, dtype=torch.float16)
    assert (u.data_ptr() % 4 == 2) == lies_between_words
    assert u.storage_offset() == 0
    with pretended(TARGETS["sm_90"]):
        given = str(explain(semantic_difference_conv2d, u, u, weight, padding=1))
        enclosed = str(explain(lambda: semantic_difference_conv2d(u, u, weight, padding=1)))
    assert enclosed == given
    assert ("channels_last copies of input (" in given) == lies_between_words


def test_the_device_is_that_of_the_tensors():
    def lines(device: str) -> set[str]:
        with recorded_decisions() as decisions:
            image, guidance = (torch.empty(2, 40, 33, 47, dtype=HALF, device=device) for _ in range(2))
            semantic_difference_conv2d(image, guidance, image.new_empty(600, 40, 3, 3), padding=1)
        return lines_of(Explanation(tuple(decisions)))

    with FakeTensorMode():
        with pretended(TARGETS["sm_90"]):
            expected = lines("cpu")
        with (
            mock.patch("torch.cuda.is_available", return_value=False),
            mock.patch("sdn_triton.launch.run._cuda_target", return_value=TARGETS["sm_90"]),
        ):
            assert lines("cuda") == expected
    assert any("in pairs" in line for line in expected)


def test_calls_inside_torch_func_are_explained():
    x, weight = torch.zeros(3, 32, 8, 8, dtype=HALF), torch.zeros(8, 32, 3, 3, dtype=HALF)
    x = x.contiguous(memory_format=torch.channels_last)

    def call(image):
        return semantic_difference_conv2d(image[None], image[None], weight, padding=1).sum()

    with pretended(TARGETS["sm_90"]):
        for transformed in (torch.func.vmap(call), torch.func.vmap(torch.func.grad(call))):
            assert "difference_forward: " in str(explain(transformed, x))


def test_an_empty_batch_launches_nothing():
    make, _, _ = CALLS["channels_last"]
    with pretended(TARGETS["sm_90"]):
        (decision,) = explain(make(), *torch.zeros(2, 0, 64, 8, 8, dtype=HALF)).decisions
    assert decision.path == "triton"
    assert decision.details == ("launches nothing: the batch is empty",)


def test_a_backward_without_kernels_is_said(monkeypatch):
    monkeypatch.setattr(fallback, "_exhausted", {})
    monkeypatch.setattr(fallback, "anything_failed", lambda: True)
    monkeypatch.setattr(fallback, "why_exhausted", lambda key: "none runs" if "backward" in key else None)
    make, channels, memory_format = CALLS["channels_last"]
    with pretended(TARGETS["sm_90"]):
        lines = lines_of(explain(make(), *images(channels, memory_format)))
    assert {line.partition(":")[0] for line in lines} == {"difference_forward", "the backward runs eagerly"}
