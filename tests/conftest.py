"""Where the tests run: on the GPU if there is one, else on the CPU with Triton's interpreter.

Triton reads TRITON_INTERPRET when it is first imported, so it is set here, before anything else. The ahead-of-time
compile tests need it off and therefore a process of their own: ``TRITON_INTERPRET=0 pytest tests/aot``.
"""

import os
import sys
from collections.abc import Iterator

import pytest
import torch
import torchvision_schemas
from devices import DEVICE

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# One unless asked for more: several workers share the processor, and the tensors are small.
torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))

# What `make test` keeps apart from everything else, and what it takes to import it on a CPU: see the Makefile.
sys.path.append(os.path.join(sys.prefix, "frameworks"))
TORCHVISION = torchvision_schemas.define_if_missing()

try:
    from hypothesis import settings
except ImportError:
    pass  # The property tests say themselves that they need it.
else:
    settings.register_profile("sdn_triton", deadline=None, derandomize=True, max_examples=40)
    settings.load_profile("sdn_triton")


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill whatever torch allocates with NaN, so that what nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
