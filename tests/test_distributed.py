"""Several processes against one: data parallelism, DTensors, and images whose rows are spread over ranks.

A part's checks share their processes, which take longer to start than the checks do; tests/ranks/ has them.
"""

import pytest
import torch
from ranks import PASSED, outcomes

# Module in tests/ranks -> how many ranks it needs, and how many seconds they may take on slow cores.
PARTS = {"tensors": (2, 150)}


def assert_passed(part: str, device: str) -> None:
    found = outcomes(part, *PARTS[part], device)
    assert found
    failures = [f"{name}: {text}" for name, texts in found.items() for text in texts if text != PASSED]
    assert not failures, "\n\n".join(failures)


@pytest.mark.parametrize("part", PARTS)
def test_on_gloo(part):
    assert_passed(part, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("part", PARTS)
def test_on_nccl(part):
    if torch.cuda.device_count() < PARTS[part][0]:
        pytest.skip(f"needs {PARTS[part][0]} CUDA devices")
    assert_passed(part, "cuda")
