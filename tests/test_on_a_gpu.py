"""What the tests take for granted where they run on a GPU, checked where there is none."""

import os

import pytest
import torch

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
