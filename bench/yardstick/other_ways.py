"""What other ways to the result of a 3x3 layer with C = O cost on a device, from bytes, operations and its rates.

All times are those of one pass over the tensor cores' time for the convolution's same pass, as in
``machine_code/prediction.py``. Nothing was measured. What is assumed is in favour of the other ways: a kernel takes
what its busiest part takes at the rates of ``machine_code/throughput.py``, launches take nothing, and a kernel reads or
writes every tensor once.

A way's time is given by pass, and as *training* for all three over three of the convolution's. That is less than their
sum where the weight's gradient takes differences that the forward has written, which by itself it has to make.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sdn_triton.aot.examples import DTYPES
from sdn_triton.eager import difference_conv as eager
from sdn_triton.options import DifferenceArguments, DifferenceNeeds, DifferenceOptions

from ..machine_code.kernel_work import COLUMNS, IMAGES, ROWS, TAPS
from ..machine_code.prediction import SIMULATED
from ..machine_code.throughput import MULTIPROCESSORS, Multiprocessor
from ..problems.cases import FORMATS
from ..problems.providers import unfold
from .aims import PASSES, TRAINING

OPTIONS = DifferenceOptions((3, 3), padding=(1, 1))
NEEDS = {
    "weight_gradient": DifferenceNeeds(input=False, guidance=False, weight=True, bias=True, contrast=False),
    "data_gradient": DifferenceNeeds(input=True, guidance=True, weight=False, bias=False, contrast=False),
    "backward": DifferenceNeeds(input=True, guidance=True, weight=True, bias=True, contrast=False),
}
"""What a backward pass is asked for."""
PRODUCT_SHARE = 0.79
"""Of the tensor cores' rate, what a library's product and convolution reach where our kernels are simulated: what the
same simulation gives a plain product (tests/aot/test_machine_code.py). Where ours are a bound it is all of the rate."""


@dataclass(frozen=True)
class Layer:
    """A 3x3 layer with as many outputs as channels, on a device."""

    arch: str
    arithmetic: str
    memory_format: str
    channels: int

    @property
    def device(self) -> Multiprocessor:
        """Its rates."""
        return MULTIPROCESSORS[self.arch]

    @property
    def dtype(self) -> torch.dtype:
        """That of its tensors."""
        return DTYPES[self.arithmetic]

    @property
    def unit(self) -> float:
        """Clocks of one multiprocessor in which its tensor cores do a pass of the convolution for a pixel."""
        return 2.0 * (TAPS + 1) * self.channels**2 / self.device.tensor[self.arithmetic]

    def product_rate(self, dtype: torch.dtype | None = None) -> float:
        """Operations a clock that a library's product reaches; in float32 it takes TF32."""
        arithmetic = "tf32" if dtype == torch.float32 else self.arithmetic
        return self.device.tensor[arithmetic] * (PRODUCT_SHARE if self.arch == SIMULATED else 1.0)

    def tensors(self, images: int, **settings: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Input, guidance, weight and bias; images are as large as those that kernels are examined for."""
        channels, memory_format = self.channels, FORMATS[self.memory_format]

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.dtype, **settings)

        input, guidance = (
            torch.empty_like(empty(images, channels, ROWS, COLUMNS), memory_format=memory_format, **settings)
            for _ in range(2)
        )
        return input, guidance, empty(channels, channels, 3, 3), empty(channels)


class Sweep(NamedTuple):
    """A kernel that goes over all pixels once; the numbers are those of one pixel and channel."""

    what: str
    moved: int
    """Numbers read and written, each in the layer's dtype."""
    products: int = 0
    """Multiplications with a row of C weights."""
    roots: int = 0
    source: str = "assumed"

    def ratio(self, layer: Layer) -> float:
        """Its time."""
        device = layer.device
        bytes_moved = self.moved * layer.channels * layer.dtype.itemsize
        flop = 2.0 * self.products * layer.channels**2
        roots = device.pipe_clocks({"special": self.roots * layer.channels})["special"]
        return max(bytes_moved / device.memory_bytes, flop / layer.product_rate(), roots) / layer.unit


DIFFERENCES = Sweep("all eight weighted differences, from input and guidance, in one kernel", 2 + TAPS, roots=TAPS)
PRODUCT = Sweep("a library's product of eight differences and the weight", TAPS + 1, products=TAPS)
GATHER = Sweep("both gradients from those of the differences, in one kernel", TAPS + 2 + 2, roots=TAPS)
COMPILED = {
    "forward": (DIFFERENCES, PRODUCT),
    "weight_gradient": (DIFFERENCES, PRODUCT),
    "data_gradient": (PRODUCT, GATHER),
    TRAINING: (DIFFERENCES, PRODUCT, PRODUCT, PRODUCT, GATHER),
}
FUSED = (
    "torch.compile of the plain formula, as well as it could be. Assumed: it computes in the layer's dtype; it "
    "leaves the centre out; it fuses all that is no product into one kernel a pass, which gathers where "
    "autograd would scatter and writes in the layout that the product wants; it keeps the differences of the "
    "forward for the weight's gradient."
)
CONVOLUTION = Sweep("the 3x3 convolution, or a gradient of it", 2, products=TAPS + 1)
CONVERSION = Sweep(
    "both images to channels-last or back, inside cuDNN: its kernels for half types take nothing else",
    4,
    source="NVIDIA, Convolutional Layers User's Guide, Tensor Layouts In Memory",
)


def per_pass(ratios: Mapping[str, float]) -> dict[str, float]:
    """The time of a training step over its three passes."""
    return {name: ratio / len(PASSES) if name == TRAINING else ratio for name, ratio in ratios.items()}


def compiled(layer: Layer) -> dict[str, float]:
    """torch.compile of the plain formula."""
    return per_pass({name: sum(sweep.ratio(layer) for sweep in sweeps) for name, sweeps in COMPILED.items()})


def convolution(layer: Layer) -> dict[str, float]:
    """The plain convolution itself."""
    converts = layer.memory_format == "contiguous" and layer.dtype != torch.float32
    sweeps = (CONVOLUTION, CONVERSION) if converts else (CONVOLUTION,)
    return dict.fromkeys((*PASSES, TRAINING), sum(sweep.ratio(layer) for sweep in sweeps))


class Tally(NamedTuple):
    """What an operator of PyTorch reads and writes, in bytes, and computes."""

    bytes: int
    flop: float
    dtype: torch.dtype


class Operators(TorchDispatchMode):
    """Takes down what PyTorch's operators do inside; views, empty tensors and questions do nothing.

    ``counts`` says of an operator's tensors whether it is taken down.
    """

    NOTHING = ("aten::_unsafe_view", "aten::empty", "aten::new_empty")
    OVERWRITE = ("aten::copy_", "aten::fill_", "aten::zero_")

    def __init__(self, counts: Callable[[list[Tensor]], bool] = bool) -> None:
        super().__init__()
        self.counts = counts
        self.tallies: list[Tally] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function._schema.name
        if function.is_view or name.startswith(self.NOTHING):
            return result
        only_written = args[:1] if name in self.OVERWRITE else kwargs.get("out")
        read, written, overwritten = (_tensors(part) for part in ((args, kwargs), result, only_written))
        tensors = [t for t in read if not any(t is other for other in overwritten)] + written
        if written and self.counts(tensors):
            count = flop_registry.get(getattr(torch.ops.aten, name.removeprefix("aten::").rstrip("_"), None))
            flop = 0.0 if count is None else float(count(*args, **kwargs, out_val=result))
            self.tallies.append(Tally(sum(map(_bytes, tensors)), flop, tensors[0].dtype))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """What is read of a tensor; a dimension that repeats itself counts once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return math.prod(sizes) * tensor.itemsize


def taken_down(call: Callable[[], Any]) -> list[Tally]:
    """What the operators of a call do."""
    with Operators() as operators:
        call()
    return operators.tallies


def ratio_of(tallies: Iterable[Tally], layer: Layer, pixels: int) -> float:
    """The time of operators that run over so many pixels."""
    device = layer.device
    clocks = [max(t.bytes / device.memory_bytes, t.flop / layer.product_rate(t.dtype)) for t in tallies]
    return sum(clocks) / pixels / layer.unit


@cache
def _unfolding(arithmetic: str, memory_format: str, channels: int) -> dict[str, list[Tally]]:
    layer = Layer(SIMULATED, arithmetic, memory_format, channels)
    with FakeTensorMode():
        input, guidance, weight, bias = layer.tensors(IMAGES, requires_grad=True)
        output = unfold(input, guidance, weight, bias)
        gradient = partial(torch.autograd.grad, output, grad_outputs=torch.empty_like(output), retain_graph=True)
        forward = taken_down(lambda: unfold(input, guidance, weight, bias))
        by_weight = taken_down(lambda: gradient(inputs=(weight, bias)))
        by_data = taken_down(lambda: gradient(inputs=(input, guidance)))
        differences = list(takewhile(lambda tally: not tally.flop, forward))
        return {
            "forward": forward,
            "weight_gradient": differences + by_weight,
            "data_gradient": by_data,
            TRAINING: forward + by_weight + by_data,
        }


@cache
def _eager(arithmetic: str, memory_format: str, channels: int) -> dict[str, list[Tally]]:
    layer = Layer(SIMULATED, arithmetic, memory_format, channels)
    arguments = DifferenceArguments(*layer.tensors(1), 1.0)
    backward = partial(eager.backward, arguments, OPTIONS, torch.empty_like(arguments.input))
    forward = taken_down(lambda: eager.forward(arguments, OPTIONS))
    gradients = {name: taken_down(partial(backward, needs)) for name, needs in NEEDS.items()}
    return {"forward": forward, **gradients, TRAINING: sum(gradients.values(), forward)}


def unfolding(layer: Layer) -> dict[str, float]:
    """Nine copies of input and guidance and one product, as public rewrites have it: the operators that run."""
    counted = _unfolding(layer.arithmetic, layer.memory_format, layer.channels)
    return per_pass({name: ratio_of(tallies, layer, IMAGES * ROWS * COLUMNS) for name, tallies in counted.items()})


def eager_path(layer: Layer) -> dict[str, float]:
    """This library without its kernels: the operators that run, in strips as on a CPU."""
    counted = _eager(layer.arithmetic, layer.memory_format, layer.channels)
    return per_pass({name: ratio_of(tallies, layer, ROWS * COLUMNS) for name, tallies in counted.items()})


WAYS = {"compiled": compiled, "unfolding": unfolding, "eager": eager_path, "convolution": convolution}


def describe() -> dict[str, Any]:
    """The assumptions, for a file."""
    return {
        "rates_of_a_multiprocessor": {
            name: {"memory_bytes": device.memory_bytes, "tensor_flop": dict(device.tensor)}
            for name, device in MULTIPROCESSORS.items()
        },
        "product_share": {SIMULATED: PRODUCT_SHARE},
        "compiled_is": FUSED,
        "compiled": {name: [sweep._asdict() for sweep in sweeps] for name, sweeps in COMPILED.items()},
        "convolution": [CONVOLUTION._asdict()],
        "convolution_of_contiguous_half_types": [CONVOLUTION._asdict(), CONVERSION._asdict()],
    }
