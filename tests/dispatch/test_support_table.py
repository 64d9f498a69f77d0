"""The README's support table, line by line: what it says of a call is what the library decides.

The CUDA column is decided on stand-ins for CUDA tensors, so it is checked on a machine without a GPU too.
"""

import re
import warnings
from collections.abc import Callable
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from support.places import README, TESTS
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.nn.parallel import DistributedDataParallel

from sdn_triton import SemanticDifferenceConv2d, backend, feature_fusion, semantic_difference_conv2d
from sdn_triton.distributed.images import Image, difference_conv
from sdn_triton.distributed.rows import Rows
from sdn_triton.options import DIFFUSIVITIES
from sdn_triton.tuning.configs import Target

pytest.importorskip("triton", reason="without triton everything is eager")

HALF = [torch.float16, torch.bfloat16]
Make = Callable[..., Tensor]


def difference(make: Make, weight=(4, 4, 3, 3), guides=4, dtypes=(torch.float32,) * 3, **options):
    def call() -> Tensor:
        u, v = (make(2, c, 6, 7, dtype=t) for c, t in zip((4, guides), dtypes))
        return semantic_difference_conv2d(u, v, make(*weight, dtype=dtypes[2]), **options)

    return call


def difference_of(make: Make, view: Callable[[Tensor], Tensor], *shape: int) -> Callable[[], Tensor]:
    return lambda: semantic_difference_conv2d(view(make(*shape)), view(make(*shape)), make(4, 4, 3, 3), padding=1)


def fusion(make: Make, **options):
    return lambda: feature_fusion(make(2, 4, 5, 5), make(2, 3, 5, 5), make(6, 7, 1, 1), **options)


def under_autocast(make: Make, dtype: torch.dtype, dtypes: tuple) -> Callable[[], Tensor]:
    call = difference(make, dtypes=dtypes)

    def run() -> Tensor:
        with torch.autocast(make(1).device.type, dtype):
            return call()

    return run


def placed(value: Tensor, placement: Placement) -> DTensor:
    """``value`` on a mesh of this one process, whose devices need not be there."""
    mesh = DeviceMesh(value.device.type, [0], _init_backend=False)
    return DTensor.from_local(value, mesh, [placement], run_check=False)


def sharded(make: Make, images: Placement, weight: Placement) -> Callable[[], Tensor]:
    def call() -> Tensor:
        u, v = (placed(make(2, 4, 6, 7), images) for _ in range(2))
        return semantic_difference_conv2d(u, v, placed(make(4, 4, 3, 3), weight), padding=1)

    return call


def by_rows(make: Make) -> Tensor:
    rows = Rows((0, 6), dist.distributed_c10d._get_default_group())
    u, v = (Image(make(2, 4, 6, 7), rows) for _ in range(2))
    options = dict(groups=1, diffusivity="charbonnier", contrast=1.0, similarity="channel", backend="auto")
    weight = make(4, 4, 3, 3)
    return difference_conv(
        u, v, weight, None, stride=1, padding=(0, 1), dilation=1, padding_mode="zeros", **options
    ).local


def replica(make: Make) -> Tensor:
    input = make(2, 4, 6, 7)
    if isinstance(input, FakeTensor):  # DDP does not take stand-ins, but calls the layer with just such tensors
        return difference(make, padding=1)()
    return DistributedDataParallel(SemanticDifferenceConv2d(4, 4, padding=1, device=input.device))(input)


@pytest.fixture(scope="module", autouse=True)
def one_process():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


# Start of the line in the table -> the calls it speaks of.
LINES: dict[str, Callable[[Make], list[Callable[[], Tensor]]]] = {
    "float32": lambda m: [difference(m, dtypes=(t,) * 3) for t in (torch.float32, *HALF)],
    "float64": lambda m: [difference(m, dtypes=(torch.float64,) * 3)],
    "any odd kernel": lambda m: [
        difference(m, weight=(4, 4, 1, 3), stride=(2, 1), dilation=2, padding=3),
        difference(m, weight=(4, 4, 5, 5), padding="same"),
        difference(m, weight=(4, 4, 1, 1), padding="valid"),
    ],
    "groups": lambda m: [difference(m, weight=(4, 2, 3, 3), groups=2), difference(m, weight=(12, 1, 3, 3), groups=4)],
    "padding_mode zeros": lambda m: [difference(m, padding=2, padding_mode=p) for p in ("zeros", "zero_flux")],
    "padding_mode replicate": lambda m: [
        difference(m, padding=2, padding_mode=p) for p in ("replicate", "reflect", "circular")
    ],
    "diffusivity": lambda m: [difference(m, diffusivity=g) for g in DIFFUSIVITIES],
    "contrast": lambda m: [
        difference(m, contrast=0.5),
        lambda: difference(m, contrast=m())(),
        lambda: difference(m, contrast=m(4))(),
    ],
    "similarity vector": lambda m: [
        difference(m, guides=5, similarity="vector"),
        difference(m, weight=(4, 2, 3, 3), groups=2, similarity="vector"),
    ],
    "feature fusion": lambda m: [
        fusion(m),
        fusion(m, activation="identity"),
        lambda: fusion(m, scale=m(3), shift=m(3))(),
    ],
    "channels_last": lambda m: [
        difference_of(m, lambda x: x.permute(0, 3, 1, 2), 2, 6, 7, 4),
        difference_of(m, lambda x: x.mT, 2, 4, 6, 7),
        difference_of(m, lambda x: x.expand(-1, 4, -1, -1), 2, 1, 6, 7),
        difference_of(m, lambda x: x.narrow(1, 1, 4).narrow(3, 3, 8), 2, 6, 12, 11),
    ],
    "no batch": lambda m: [
        difference_of(m, lambda x: x, 4, 6, 6),
        difference_of(m, lambda x: x, 0, 4, 6, 6),
        difference_of(m, lambda x: x, 2, 4, 1, 5),
        lambda: semantic_difference_conv2d(m(2, 1, 6, 6), m(2, 1, 6, 6), m(4, 1, 3, 3)),
    ],
    "float16 and bfloat16 autocast": lambda m: [
        under_autocast(m, t, dtypes)
        for t in HALF
        for dtypes in ((torch.float32, t, torch.float32), (t, HALF[0], HALF[1]))
    ],
    "DistributedDataParallel": lambda m: [lambda: replica(m)],
    "DTensors, batch": lambda m: [sharded(m, Shard(0), Replicate()), sharded(m, Replicate(), Shard(0))],
    "DTensors, rows": lambda m: [lambda: by_rows(m)],
    "integer": lambda m: [
        lambda: semantic_difference_conv2d(*[m(1, 4, 6, 6).int()] * 2, m(4, 4, 3, 3)),
        lambda: semantic_difference_conv2d(*[m(1, 4, 6, 6).to(torch.complex64)] * 2, m(4, 4, 3, 3)),
        difference(m, weight=(4, 4, 2, 2)),
        difference(m, weight=(4, 4, 9, 9)),
    ],
}
TABLE = re.findall(r"^\| (.+) \| (Triton|eager|error) \| (Triton|eager|error) \|$", README.read_text(), re.MULTILINE)


def test_every_line_of_the_table_is_checked():
    starts = [next((start for start in LINES if f"{line} |".startswith(start)), line) for line, _, _ in TABLE]
    assert sorted(starts) == sorted(LINES)


def decided(call: Callable[[], Tensor]) -> str:
    with warnings.catch_warnings(), backend.recorded_decisions() as decisions:
        warnings.simplefilter("ignore")
        try:
            call()
        except (TypeError, ValueError):
            return "error"
    assert len(decisions) == 1
    return {"triton": "Triton"}.get(decisions[0].path, decisions[0].path)


@pytest.mark.parametrize(("line", "on_cuda", "on_cpu"), TABLE, ids=[line[:40] for line, _, _ in TABLE])
def test_line(line, on_cuda, on_cpu):
    calls = next(calls for start, calls in LINES.items() if f"{line} |".startswith(start))

    def on_the_cpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(shape, dtype=dtype) + 0.1

    def on_a_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="cuda")

    for call in calls(on_the_cpu):
        assert decided(call) == on_cpu
    if "autocast" in line and not torch.cuda.is_available():
        return  # Without a GPU autocast turns itself off there; the CPU column shows that it is followed.
    with (
        FakeTensorMode(),
        mock.patch("torch.cuda.is_available", return_value=False),
        mock.patch("sdn_triton.launch.run._cuda_target", return_value=Target("cuda", 90, 132)),
    ):
        for call in calls(on_a_gpu):
            assert decided(call) == on_cuda


FEATURES = re.findall(r"^\| (.+) \| .+ \| (\w+/test_\w+(?:, \w+/test_\w+)*) \|$", README.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("feature", "files"), FEATURES, ids=[feature[:40] for feature, _ in FEATURES])
def test_what_pytorch_does_names_its_tests(feature, files):
    for name in files.split(", "):
        assert "def test_" in (TESTS / f"{name}.py").read_text(), feature


def test_every_promise_has_its_words_in_the_tests_that_it_names():
    """A line that loses its test has to go."""
    words = {
        "torch.compile,": "fullgraph=True", "CUDA graphs": "CUDAGraph", "torch.export": "export.load",
        "AOTInductor": "aoti_load_package", "ONNX": "InferenceSession", "torch.jit.trace": "jit.load(",
        "torch.fx": "create_feature_extractor(",
        "autocast": "GradScaler",
        "torch.func": "vmap(grad", "forward mode": "is_grads_batched", "second derivatives": "gradgradcheck",
        "gradients in any layout": "expand_as", "opcheck": "opcheck(", "copies": "AveragedModel",
        "BatchNorm": "fuse_conv_bn_eval(", "strict typing": "--strict",
    }  # fmt: skip
    assert len(FEATURES) == len(words)
    for (feature, files), (start, word) in zip(FEATURES, words.items(), strict=True):
        assert feature.startswith(start)
        assert any(word in (TESTS / f"{name}.py").read_text() for name in files.split(", ")), feature
