"""Results repeat bit for bit: tolerance zero, with PyTorch's deterministic algorithms asked for."""

import copy
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sdn_triton import SDN, feature_fusion, semantic_difference_conv2d
from sdn_triton.ops.resize import repeatable_gradient, resized_gradient

TIMES, TIMES_OF_A_BLOCK = 20, 8
INTERPRETED = 3  # times: on one thread, one program after another, there is no other order
PATHS = ["eager", "triton", "compiled"]
OPTIONS = {
    "plain": {},
    "zero-flux-vector": dict(padding_mode="zero_flux", similarity="vector"),
    "depthwise": dict(groups=4),
    "stride2-dilation2": dict(stride=2, dilation=2),
    "replicate": dict(padding_mode="replicate"),
}


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on(path, call):
    """``call`` with a backend; ``path`` may be missing here."""
    if path == "triton" and importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton")
    backend = "triton" if path == "triton" else "eager"
    forced = lambda *tensors: call(*tensors, backend=backend)  # noqa: E731
    return torch.compile(forced, backend="aot_eager", fullgraph=True) if path == "compiled" else forced


def bits(call, tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    output = call(*leaves)
    output.backward(torch.cos(torch.arange(output.numel(), device=output.device).float()).view_as(output))
    return [output, *(leaf.grad for leaf in leaves)]


def assert_repeats(path, call, tensors):
    call = on(path, call)
    first = bits(call, tensors)
    for _ in range(INTERPRETED if path == "triton" and first[0].device.type == "cpu" else TIMES):
        for one, other in zip(first, bits(call, tensors), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.sampled(3)
def test_difference_repeats(path, options, device):
    if path == "triton" and device.type == "cpu" and options in (OPTIONS["stride2-dilation2"], OPTIONS["replicate"]):
        pytest.skip("the interpreter is slow, and runs the kernels of the plain case")
    channels = 1 if "groups" in options else 4
    shapes = (2, 4, 7, 6), (2, 4, 7, 6), (8, channels, 3, 3), (8,)
    tensors = [torch.randn(s, device=device) for s in shapes]
    contrast = torch.tensor(0.7, device=device) if "similarity" in options else torch.rand(4, device=device) + 0.5

    def call(u, v, weight, bias, k, backend):
        return semantic_difference_conv2d(u, v, weight, bias, padding=1, contrast=k, backend=backend, **options)

    assert_repeats(path, call, [*tensors, contrast])


@pytest.mark.parametrize("path", PATHS)
def test_fusion_repeats(path, device):
    tensors = [torch.randn(s, device=device) for s in ((2, 4, 7, 6), (2, 3, 7, 6), (5, 7, 1, 1), (5,), (3,), (3,))]

    def call(u, y, weight, bias, scale, shift, backend):
        return feature_fusion(u, y, weight, bias, scale=scale, shift=shift, backend=backend)

    assert_repeats(path, call, tensors)


def test_block_repeats_with_several_threads(device):
    """Large enough that PyTorch divides its operations, and the eager path its rows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        block = SDN(16, 8).to(device)
        tensors = [torch.randn(s, device=device) for s in ((2, 16, 96, 96), (2, 8, 48, 48))]
        state = copy.deepcopy(block.state_dict())
        first = None
        for _ in range(TIMES_OF_A_BLOCK):
            block.load_state_dict(state)
            block.zero_grad()
            found = [*bits(block, tensors), *(p.grad for p in block.parameters()), *block.buffers()]
            found = [x.clone() for x in found]
            first = first or found
            for one, other in zip(first, found, strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


# Sizes for which PyTorch sums in another order in another batch, among others.
SIZES = {
    "small": (4, 4, 6, 7, torch.float32),
    "strips": (16, 16, 96, 96, torch.float32),
    "narrow": (16, 8, 7, 64, torch.float32),
    "one-output": (4, 1, 33, 16, torch.float32),
    "odd": (17, 8, 33, 90, torch.float32),
    "half": (64, 4, 33, 7, torch.bfloat16),
    "double": (8, 32, 33, 4, torch.float64),
}
BATCHES = [4], [2], [0, 3], [1, 2, 3], [3, 4, 0, 1]


def assert_independent(call, *images):
    """The outputs of images are the same bits in any batch."""
    together = call(*images)
    for batch in BATCHES:
        assert torch.equal(call(*(x[batch] for x in images)), together[batch])


@pytest.mark.parametrize("path", ["eager", "triton"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.sampled(2)
def test_an_image_does_not_depend_on_its_batch(path, options, size, device):
    C, O, H, W, dtype = size
    if path == "triton" and (dtype == torch.float64 or (device.type == "cpu" and H * W > 100)):
        pytest.skip("the interpreter is slow, and no kernel computes in float64")
    O, groups = (C, C) if "groups" in options else (O, 1)
    weight = torch.randn(O, C // groups, 3, 3, device=device, dtype=dtype)
    u, v = torch.randn(2, 5, C, H, W, device=device, dtype=dtype)
    others = {**options, "groups": groups}

    def call(u, v, backend):
        return semantic_difference_conv2d(u, v, weight, padding=1, backend=backend, **others)

    assert_independent(on(path, call), u, v)
    assert_independent(on(path, call), *(x.to(memory_format=torch.channels_last) for x in (u, v)))


@pytest.mark.parametrize("path", ["eager", "triton"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_a_fused_image_does_not_depend_on_its_batch(path, size, device):
    C, O, H, W, dtype = size
    if path == "triton" and (dtype == torch.float64 or (device.type == "cpu" and H * W > 100)):
        pytest.skip("the interpreter is slow, and no kernel computes in float64")
    u, y = torch.randn(2, 5, C, H, W, device=device, dtype=dtype)
    weight = torch.randn(O, 2 * C, 1, 1, device=device, dtype=dtype)
    assert_independent(on(path, lambda u, y, backend: feature_fusion(u, y, weight, backend=backend)), u, y)


RESIZINGS = [((16, 18), (8, 9)), ((9, 7), (4, 5)), ((4, 5), (9, 11)), ((13, 12), (1, 1)), ((7, 9), (3, 9))]


@pytest.mark.parametrize(("large", "small"), RESIZINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_gradient_of_resizing_in_a_fixed_order_is_pytorch_s_own(dtype, large, small, device):
    grad, image = (torch.randn(2, 3, *size, dtype=dtype, device=device) for size in (large, small))
    grad = grad.to(memory_format=torch.channels_last)
    exact = image.cpu().double().requires_grad_()
    F.interpolate(exact, size=large, mode="bilinear", align_corners=False).backward(grad.cpu().double())
    found = repeatable_gradient(grad, image)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.cpu(), exact.grad.to(dtype))
    torch.autograd.gradcheck(repeatable_gradient, (grad.double().requires_grad_(), image.double()), fast_mode=True)


class Called(TorchDispatchMode):
    """The operations that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("path", ["eager", "traced"])
def test_no_gradient_of_resizing_is_an_error_on_a_gpu(path):
    """PyTorch's own is, under deterministic algorithms."""
    with FakeTensorMode(), Called() as called:
        grad, image = (torch.empty(2, 3, *size, device="cuda") for size in ((8, 10), (4, 5)))
        assert resized_gradient(grad, image, path).shape == image.shape
    assert "index_add" in called.names
    assert "upsample_bilinear2d_backward" not in called.names
