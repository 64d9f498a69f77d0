"""Configurations that do not run: the next one, then eager; said once, remembered, and nothing else is swallowed."""

import json
import warnings

import pytest
import torch

pytest.importorskip("triton")
from support.table_files import content, entry
from triton.runtime.errors import OutOfResources

import sdn_triton.backend as backend
import sdn_triton.ops.path as path_module
from sdn_triton import BackendUnavailableError, explain, semantic_difference_conv2d
from sdn_triton.aot.examples import example_launches
from sdn_triton.backend import is_interpreted
from sdn_triton.eager import difference_conv as eager
from sdn_triton.launch import difference_conv as launch
from sdn_triton.launch import difference_gradients, image_copy, products, run
from sdn_triton.ops.difference_conv import difference_conv
from sdn_triton.options import DifferenceArguments, DifferenceOptions
from sdn_triton.tuning import fallback, lookup
from sdn_triton.tuning.configs import INTERPRETER, KernelConfig, config_to_json
from sdn_triton.tuning.defaults import PAIRED_KERNELS
from sdn_triton.tuning.fallback import failure_of_configuration, smaller
from sdn_triton.tuning.kernels import KERNELS

needs_interpreter = pytest.mark.skipif(not is_interpreted(), reason="needs TRITON_INTERPRET=1")
OPTIONS = DifferenceOptions((3, 3), padding=(1, 1))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setenv(lookup.ENVIRONMENT, "")
    fallback.forget()
    lookup.use_table(None)
    backend._warn_once.cache_clear()
    yield
    fallback.forget()
    lookup.use_table(None)


class Picky:
    """A kernel on a device that has room for tiles up to a size."""

    def __init__(self, kernel, fits, error=None):
        self.kernel, self.fits, self.error, self.tried = kernel, fits, error, []
        self.__name__ = kernel.__name__

    def __getitem__(self, grid):
        def launch(**arguments):
            block = arguments["BLOCK_O"]
            self.tried.append(block)
            if block > self.fits:
                raise self.error or OutOfResources(4096 * block, 65536, "shared memory")
            self.kernel[grid](**arguments)

        return launch


def picky_forward(monkeypatch, **settings):
    kernel = Picky(launch.difference_forward_kernel, **settings)
    monkeypatch.setattr(launch, "difference_forward_kernel", kernel)
    return kernel


def tensors(channels=6, outputs=40, requires_grad=False):
    x, v = torch.randn(2, 1, channels, 7, 9).unbind()
    return [t.requires_grad_(requires_grad) for t in (x, v, torch.randn(outputs, channels, 3, 3), torch.randn(outputs))]


def expected(x, v, weight, bias):
    return eager.forward(DifferenceArguments(x, v, weight, bias, 1.0), OPTIONS)


def call(*arguments):
    return semantic_difference_conv2d(*arguments, padding=1, backend="triton")


@needs_interpreter
def test_a_smaller_configuration_is_found_said_once_and_remembered(monkeypatch):
    kernel = picky_forward(monkeypatch, fits=16)
    arguments = tensors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.testing.assert_close(call(*arguments), expected(*arguments))
    assert kernel.tried == [64, 32, 16]
    (warning,) = [one for one in caught if one.category is RuntimeWarning]  # triton's interpreter may have its own
    assert "difference_forward does not run with" in str(warning.message)
    assert "Required: 262144" in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        torch.testing.assert_close(call(*arguments), expected(*arguments))
        other = tensors(channels=3, outputs=33)
        torch.testing.assert_close(call(*other), expected(*other))
        assert "16 outputs" in str(explain(call, *arguments))
    assert kernel.tried == [64, 32, 16, 16, 16]


@needs_interpreter
def test_other_calls_are_not_made_smaller(monkeypatch):
    """What fails for one set of options says nothing about a kernel compiled for another."""
    kernel = picky_forward(monkeypatch, fits=16)
    x, v, weight, bias = tensors()
    with pytest.warns(RuntimeWarning, match="does not run"):
        call(x, v, weight, bias)
    kernel.fits = 64
    kernel.tried.clear()
    semantic_difference_conv2d(x, v, weight, bias, padding=1, diffusivity="rational", backend="triton")
    assert kernel.tried == [64]


@needs_interpreter
def test_forced_triton_raises_when_nothing_is_left(monkeypatch):
    kernel = picky_forward(monkeypatch, fits=8)
    arguments = tensors()
    with (
        pytest.warns(RuntimeWarning, match="Smaller ones are tried"),
        pytest.raises(BackendUnavailableError, match="none of its configurations on this device: out of resource"),
    ):
        call(*arguments)
    assert kernel.tried == [64, 32, 16, 16]
    with pytest.raises(BackendUnavailableError, match="out of resource"):
        call(*arguments)
    assert kernel.tried == [64, 32, 16, 16]


def test_a_kernel_with_one_configuration_gives_the_call_up():
    """Nobody configures the kernel that copies images: trying it again would fail again, without end."""
    failure = fallback.LaunchFailedError("image_copy_kernel", image_copy.TILE, "out of resource: shared memory")
    fallback.step_down("a call", failure)
    assert fallback.why_exhausted("a call").startswith("image_copy_kernel runs with none of its configurations")
    assert not fallback.replacements("a call")


def as_on_cuda(given, input, why_not, *call):
    """The choice for a CUDA tensor, made for one that is on the CPU."""
    obstacle = why_not(*call)
    if obstacle is None:
        return "triton", "as on CUDA"
    backend._warn_once(obstacle)
    return "eager", obstacle


@needs_interpreter
def test_auto_goes_on_eagerly_with_one_more_warning(monkeypatch):
    kernel = picky_forward(monkeypatch, fits=8)
    monkeypatch.setattr(path_module, "choose", as_on_cuda)
    *arguments, bias = tensors()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            output = difference_conv.run_forward(DifferenceArguments(*arguments, bias, 1.0), OPTIONS, "as on CUDA")
            assert torch.equal(output, expected(*arguments, bias))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert "Smaller ones are tried" in messages[0]
    assert "runs eagerly on this GPU: difference_forward runs with none of its configurations" in messages[1]
    assert kernel.tried == [64, 32, 16, 16]


@needs_interpreter
def test_a_step_is_taken_again_as_a_whole(monkeypatch):
    """The second kernel of a backward pass fails after the first has run."""
    first = Picky(products.tap_products_kernel, fits=1 << 20)
    second = Picky(difference_gradients.difference_weight_gradient_kernel, fits=32)
    monkeypatch.setattr(products, "tap_products_kernel", first)
    monkeypatch.setattr(difference_gradients, "difference_weight_gradient_kernel", second)
    arguments = tensors(requires_grad=True)
    grad = torch.randn(1, 40, 7, 9)
    with pytest.warns(RuntimeWarning, match="difference_weight_gradient does not run"):
        found = torch.autograd.grad(call(*arguments), arguments, grad)
    exact = torch.autograd.grad(semantic_difference_conv2d(*arguments, padding=1, backend="eager"), arguments, grad)
    for gradient, reference in zip(found, exact, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4)
    assert (len(first.tried), second.tried) == (2, [64, 32])


@needs_interpreter
def test_a_table_s_configuration_gives_way_to_the_next_layer(monkeypatch, tmp_path):
    kernel = picky_forward(monkeypatch, fits=64)
    arguments = tensors()
    seen = []
    monkeypatch.setattr(
        "sdn_triton.launch.difference_call.config_for", lambda *a: seen.append(a) or lookup.config_for(*a)
    )
    call(*arguments)
    (name, work, _), *_ = seen
    large = KernelConfig(64, 8, 16, 128, 4, 1)
    table = tmp_path / "table.json"
    table.write_text(json.dumps(content(entry(large, name, work), target=INTERPRETER, name="interpreter")))
    lookup.use_table(table)
    kernel.tried.clear()
    with pytest.warns(RuntimeWarning, match=r"table\.json.*It is passed over"):
        torch.testing.assert_close(call(*arguments), expected(*arguments))
    assert kernel.tried == [128, 64]
    call(*arguments)
    assert kernel.tried == [128, 64, 64]
    assert "(interpreter)" in str(explain(call, *arguments))


class CudaError(RuntimeError):
    pass


@needs_interpreter
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
        CudaError("device-side assert triggered"),
        ValueError("Pointer argument cannot be accessed"),
    ],
    ids=str,
)
def test_other_errors_are_not_swallowed(error, monkeypatch):
    kernel = picky_forward(monkeypatch, fits=8, error=error)
    with pytest.raises(type(error)) as raised:
        call(*tensors())
    assert raised.value is error
    assert kernel.tried == [64]
    assert not fallback.anything_failed()


def test_what_counts_as_a_configuration_s_failure():
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import InterpreterError

    assert "Required: 9" in (failure_of_configuration(OutOfResources(9, 8, "shared memory")) or "")
    assert failure_of_configuration(CompilationError("x = 1", None, "no such layout")) is not None
    caller = CompilationError("y = called(x)", None)
    caller.__cause__ = CompilationError("x = 1", None, "no such layout")
    assert "no such layout" in (failure_of_configuration(caller) or "")
    assert failure_of_configuration(RuntimeError("PassManager::run failed")) is not None
    assert failure_of_configuration(InterpreterError("IndexError")) is None
    assert failure_of_configuration(RuntimeError("Triton Error [CUDA]: invalid argument")) is None


def test_the_order_ends_at_the_smallest_tile():
    config = KernelConfig(256, 32, 128, 8, num_warps=16, num_stages=4, source="heuristic")
    seen = []
    while config is not None:
        seen.append(config)
        assert len(seen) < 10
        config = smaller(config)
    assert [(c.block_p, c.block_w, c.block_c, c.block_o, c.num_warps, c.num_stages) for c in seen] == [
        (256, 32, 128, 8, 16, 4),
        (256, 32, 128, 8, 16, 1),
        (128, 32, 64, 8, 4, 1),
        (64, 32, 32, 8, 4, 1),
        (32, 32, 16, 8, 4, 1),
        (16, 16, 16, 8, 4, 1),
    ]
    assert config_to_json(seen[-1])["splits"] == 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_launches_know_what_they_are_tuned_as(kernel):
    config = KernelConfig(32, 16, 32, 32, 4, 1)
    launches = example_launches(kernel, "ieee", config, channels=128, outputs=32, size=(8, 8))
    assert launches
    assert {found.tuned_as for found in launches} == {kernel}
    assert isinstance(launches[0], run.Launch)


@pytest.mark.parametrize("kernel", PAIRED_KERNELS)
def test_pairs_are_given_up_before_tiles(kernel):
    config = KernelConfig(32, 16, 32, 32, 4, 2, pairs=True)
    launches = example_launches(kernel, "fp16", config, channels=32, outputs=32, size=(8, 8))
    assert {found.tuned_as for found in launches} == {kernel}
    following = smaller(config)
    assert following is not None
    assert (following.pairs, following.num_stages, following.block_p) == (False, 1, 32)


@needs_interpreter
def test_a_backward_with_kernels_after_an_eager_forward(monkeypatch):
    """What the eager forward kept for an eager backward is of no use to kernels, and is not handed to them."""
    *arguments, bias = tensors()

    def gradients():
        leaves = [x.clone().requires_grad_() for x in arguments]
        return torch.autograd.grad(semantic_difference_conv2d(*leaves, bias, padding=1).square().sum(), leaves)

    def by_step(given, input, why_not, arguments, options, step):
        return "triton" if step == "backward" else "eager", "by step"

    before = gradients()
    monkeypatch.setattr(path_module, "choose", by_step)
    for found, eagerly in zip(gradients(), before, strict=True):
        # Sums in another order, of float32 numbers: some ten roundings of the largest.
        assert (found - eagerly).abs().max() <= 10 * torch.finfo(torch.float32).eps * eagerly.abs().max()
