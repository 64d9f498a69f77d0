"""Where the tests run: on the GPU if there is one, else on the CPU with Triton's interpreter.

Triton reads TRITON_INTERPRET when it is first imported, so it is set here, before anything else. The ahead-of-time
compile tests need it off and therefore a process of their own: ``TRITON_INTERPRET=0 pytest tests/aot``.

What would fail on a GPU for reasons of the tests can be seen without one. ``SDN_TRITON_PRETEND=1 pytest tests`` takes
the kernels with ``backend="auto"``, so that every fallback shows. With ``TRITON_INTERPRET=0`` as well it runs the tests
whose tensors are on the CPU in any case: beside a GPU no kernel could run on these.
"""

import os
import sys
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
from support import torchvision_schemas
from support.devices import DEVICE, EMULATED, PRETENDS
from support.sampling import mark_what_a_sample_leaves_out, share_of

if EMULATED:
    os.environ["TRITON_INTERPRET"] = "0"
elif not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Products of float32 have all its digits, so that one reference serves all devices, and cuBLAS keeps to the fixed order
# that tests of bits ask for; on a GPU both have to be said.
torch.backends.cudnn.allow_tf32 = False
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# One unless asked for more: several workers share the processor, and the tensors are small.
torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))

EMULATED_TESTS = Path(__file__).parent / "kernels"
"""The tests that launch kernels on tensors: what `make emulate` runs."""

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", default="1/1", help="k/n: one of n equal shares of the tests, drawn by their names")


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


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mark_what_a_sample_leaves_out(items)
    items[:] = share_of(items, config.getoption("share"))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") and not is_emulated(item):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        elif pretends(item) and os.environ["TRITON_INTERPRET"] == "0":
            item.add_marker(pytest.mark.skip(reason="its kernels would run on the GPU"))


def is_emulated(item: pytest.Item) -> bool:
    """Whether a test launches kernels and these are to run in the emulator."""
    return bool(EMULATED) and item.path.parent == EMULATED_TESTS


def pretends(item: pytest.Item) -> bool:
    """Whether a test would run on a GPU, and is to be shown as if it did."""
    names = item.fixturenames if isinstance(item, pytest.Function) else ()
    return PRETENDS and ("device" in names or hasattr(item.getparent(pytest.Module).obj, "DEVICE"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test of kernels in the emulator, if that is asked for; what is found there fails it."""
    if pretends(item):
        from sdn_triton.tuning.configs import INTERPRETER
        from sdn_triton.tuning.pretended import pretended

        with pretended(INTERPRETER), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*interpreter computes bfloat16 wrongly", RuntimeWarning)
            return (yield)
    if not is_emulated(item):
        return (yield)
    import emulator

    architecture, mode = emulator.chosen_for(item.nodeid, *EMULATED)
    with emulator.emulated(architecture, mode):
        return (yield)
