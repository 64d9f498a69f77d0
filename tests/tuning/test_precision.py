"""PyTorch's settings of TF32, of which there are several: what is set here keeps all of them readable."""

from collections.abc import Iterator

import pytest
import torch
from torch.backends import cudnn

from sdn_triton.bench.measuring.environment import settle
from sdn_triton.tuning.precision import convolutions_in, convolutions_may_use_tf32, let_convolutions_use

CPU = torch.device("cpu")
HAS_NEWER = hasattr(cudnn, "conv")
needs_newer = pytest.mark.skipif(not HAS_NEWER, reason="this torch has one setting")


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    convolutions, products = cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    if HAS_NEWER:
        torch.backends.fp32_precision = "none"
    cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def settings() -> list[object]:
    newer = [x.fp32_precision for x in (cudnn.conv, cudnn.rnn)] if HAS_NEWER else []
    return [cudnn.allow_tf32, *newer, convolutions_may_use_tf32()]


def assert_all_say(precision: str) -> None:
    older, *newer, ours = settings()
    assert older is ours is (precision == "tf32")
    assert {(value == "tf32") for value in newer} <= {ours}


@pytest.mark.parametrize("around", ["tf32", "ieee"])
@pytest.mark.parametrize("inside", ["tf32", "ieee"])
def test_every_setting_says_the_same_inside_and_afterwards(around, inside):
    cudnn.allow_tf32 = around == "tf32"
    before = settings()
    with convolutions_in(inside):
        assert_all_say(inside)
        with convolutions_in(around):
            assert_all_say(around)
        assert_all_say(inside)
    assert settings() == before
    assert_all_say(around)


@needs_newer
@pytest.mark.parametrize("inside", ["tf32", "ieee"])
def test_the_setting_of_all_operators_does_not_show_through(inside):
    other = "tf32" if inside == "ieee" else "ieee"
    torch.backends.fp32_precision, cudnn.allow_tf32 = other, other == "tf32"
    with convolutions_in(inside):
        assert_all_say(inside)
    let_convolutions_use(inside)
    assert_all_say(inside)


@needs_newer
def test_settings_that_differ_are_left_so():
    """Then PyTorch's older one cannot be read, which is not for us to change."""
    cudnn.allow_tf32 = True
    cudnn.conv.fp32_precision = "ieee"
    for inside in ("tf32", "ieee"):
        with convolutions_in(inside):
            assert convolutions_may_use_tf32() is (inside == "tf32")
            assert cudnn.rnn.fp32_precision == "tf32"
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", "tf32")
    cudnn.conv.fp32_precision = "tf32"
    assert cudnn.allow_tf32


@needs_newer
@pytest.mark.parametrize("asked", [True, False])
def test_a_benchmark_sets_products_and_convolutions_whatever_was_set_before(asked):
    cudnn.conv.fp32_precision = "tf32"
    cudnn.rnn.fp32_precision = "ieee"
    settle(CPU, None, asked)
    assert_all_say("tf32" if asked else "ieee")
    assert torch.backends.cuda.matmul.allow_tf32 is asked
    cudnn.rnn.fp32_precision = "none"
    settle(CPU, None, None)
    assert torch.backends.cuda.matmul.allow_tf32 is asked
