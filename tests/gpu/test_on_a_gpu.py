"""What the tests take for granted where they run on a GPU, checked where there is none."""

import inspect
import os

import pytest
import torch
from _pytest.pathlib import import_path
from support.devices import EMULATED
from support.kernel_reference import assert_same, far_apart
from support.places import ROOT, TESTS

from sdn_triton import backend, semantic_difference_conv2d
from sdn_triton.tuning.configs import INTERPRETER
from sdn_triton.tuning.precision import convolutions_may_use_tf32
from sdn_triton.tuning.pretended import pretended

pytest.importorskip("triton")
needs_interpreter = pytest.mark.skipif(not backend.is_interpreted(), reason="needs TRITON_INTERPRET=1")


@pytest.fixture(autouse=True)
def said_anew():
    backend._warn_once.cache_clear()
    yield
    backend._warn_once.cache_clear()


def call(dtype: torch.dtype, **options) -> str:
    """The path that a call takes."""
    image, weight = torch.randn(1, 10, 5, 5, dtype=dtype), torch.randn(10, 10 // options.get("groups", 1), 3, 3)
    with backend.recorded_decisions() as decisions:
        semantic_difference_conv2d(image, image, weight.to(dtype), padding=1, **options)
    return decisions[0].path


def test_float32_has_all_its_digits_and_products_a_fixed_order():
    assert not convolutions_may_use_tf32()
    assert "CUBLAS_WORKSPACE_CONFIG" in os.environ


@needs_interpreter
def test_cpu_tensors_are_taken_for_those_of_a_gpu():
    assert call(torch.float32) == "eager"
    with pretended(INTERPRETER):
        assert call(torch.float32) == "triton"
        assert call(torch.float32, backend="eager") == "eager"
        assert call(torch.float64) == "eager"


@needs_interpreter
def test_only_float64_may_fall_back_unasked():
    with pretended(INTERPRETER):
        assert call(torch.float64) == "eager"
        with pytest.raises(RuntimeWarning, match="at most 8 groups, got 10"):
            call(torch.float32, similarity="vector", groups=10)


def test_sums_in_another_order_are_the_same_where_kernels_are_compiled():
    """In the interpreter there is one order, so that every bit counts."""
    eps = torch.finfo(torch.float32).eps
    one = torch.tensor([1.0, -2.0])
    for device in map(torch.device, ("cpu", "cuda")):
        assert_same([one, None], [one.clone(), None], device)
        with pytest.raises(AssertionError):
            assert_same([one], [one + torch.tensor([20 * eps, 0.0])], device)
        with pytest.raises(AssertionError):
            assert_same([one], [None], device)
    another_order = one + torch.tensor([4 * eps, 0.0])
    assert_same([one], [another_order], torch.device("cuda"))
    if not EMULATED:
        with pytest.raises(AssertionError, match="one order"):
            assert_same([one], [another_order], torch.device("cpu"))


def test_who_reaches_over_gigabytes_says_so():
    """On a GPU few of these may run at a time."""
    users, marked = set(), set()
    for path in (TESTS / "kernels").glob("test_*.py"):
        for name, function in inspect.getmembers(
            import_path(path, mode="importlib", root=ROOT, consider_namespace_packages=False), inspect.isfunction
        ):
            if far_apart.__name__ in function.__code__.co_names:
                users.add((path.name, name))
            if any(mark.name == "huge" for mark in getattr(function, "pytestmark", [])):
                marked.add((path.name, name))
    assert len(users) >= 2
    assert users == marked
