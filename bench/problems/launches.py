"""Every kernel of the library on small awkward shapes: what the emulator runs in the tests, and a GPU before all else.

An example is an operator called forward and, where there is one, backward. The eager path in float64 says what is
right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sdn_triton.ops.moments import response_gradient
from sdn_triton.ops.path import path_module
from sdn_triton.ops.resize import resized_gradient
from sdn_triton.options import (
    BlockArguments,
    BlockOptions,
    DifferenceArguments,
    DifferenceNeeds,
    DifferenceOptions,
    FusionArguments,
    FusionNeeds,
)
from sdn_triton.tuning.configs import ARITHMETICS, PAIRED_CHANNELS
from sdn_triton.tuning.defaults import FLOAT32_ARCHITECTURES, PACKED_ARCHITECTURES, PAIRED_ARCHITECTURES

from ..measuring.contract import error_and_bound

Results = dict[str, Tensor]

EPS = 1e-3
"""Of the block's normalisation."""
ALIGNED_CHANNELS, ALIGNED_ROWS, ALIGNED_COLUMNS = 32, 4, 16
HALF = ("fp16", "bf16")
WITHOUT_PRODUCTS = ("ieee", *HALF)
"""A kernel that forms no matrix products is one and the same whether TF32 is allowed or not."""


@dataclass(frozen=True)
class Arguments:
    """The tensors of an example; an operator takes those that it needs."""

    input: Tensor
    guidance: Tensor
    weight: Tensor
    bias: Tensor
    contrast: float | Tensor
    response: Tensor
    """Another image with as many channels as there are outputs."""
    fusion_weight: Tensor
    fusion_bias: Tensor
    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor
    grad: Tensor
    options: DifferenceOptions

    def wide(self) -> Arguments:
        """The same numbers in float64 on the CPU."""
        tensors: dict[str, Any] = {k: v.cpu().double() for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


Call = Callable[[Arguments, str], Results]
"""An operator on a path, "triton" or "eager": its outputs and gradients by name."""


def difference(a: Arguments, path: str) -> Results:
    """The difference convolution, and all its gradients."""
    operator = path_module(path, "difference_conv")
    arguments = DifferenceArguments(a.input, a.guidance, a.weight, a.bias, a.contrast)
    needs = DifferenceNeeds(True, True, True, True, isinstance(a.contrast, Tensor))
    output = operator.forward(arguments, a.options)
    return {"output": output, **_named(operator.backward(arguments, a.options, a.grad, needs))}


def moments(a: Arguments, path: str) -> Results:
    """The mean and variance of its output, and the gradient that passes through them."""
    operator = path_module(path, "moments")
    arguments = DifferenceArguments(a.input, a.guidance, a.weight, a.bias, a.contrast)
    output, mean, variance = operator.forward(arguments, a.options)
    total = response_gradient((a.grad, a.scale, a.shift), a.response, a.mean, path)
    return {"output": output, "mean": mean, "variance": variance, "gradient": total}


def fusion(a: Arguments, path: str) -> Results:
    """The fusion with normalisation and activation, and all its gradients."""
    operator = path_module(path, "fusion")
    arguments = FusionArguments(a.input, a.response, a.fusion_weight, a.fusion_bias, a.scale, a.shift)
    output = operator.forward(arguments, "relu")
    needs = FusionNeeds(*(True for _ in FusionNeeds._fields))
    return {"output": output, **_named(operator.backward(arguments, "relu", a.grad, needs))}


def block(a: Arguments, path: str) -> Results:
    """The block in evaluation."""
    difference = a.input, a.guidance, a.weight, a.bias, a.contrast
    arguments = BlockArguments(*difference, a.mean, a.variance, a.scale, a.shift, a.fusion_weight, a.fusion_bias)
    return {"output": path_module(path, "block").forward(arguments, BlockOptions(a.options, EPS))}


def resize(a: Arguments, path: str) -> Results:
    """The gradient of guidance that was half as large."""
    rows, columns = a.guidance.shape[2:]
    small = a.guidance[:, :, : (rows + 1) // 2, : (columns + 1) // 2].contiguous()
    return {"gradient": resized_gradient(a.guidance, small, path)}


def _named(gradients: Any) -> Results:
    return {f"d{name}": grad for name, grad in gradients._asdict().items() if grad is not None}


@dataclass(frozen=True)
class Example:
    """A call of an operator; ``kernels`` are those that it is there for, as Triton names them without "_kernel".

    ``architectures`` are those that it is there for, all if there are none; it runs on all of them.
    """

    name: str
    call: Call
    kernels: tuple[str, ...]
    channels: int
    outputs: int
    size: tuple[int, int]
    images: int = 1
    guidance_channels: int | None = None
    contrast: str = "number"
    options: DifferenceOptions = field(default_factory=lambda: DifferenceOptions((3, 3), padding=(1, 1)))
    memory_format: torch.memory_format = torch.contiguous_format
    arithmetics: tuple[str, ...] = ARITHMETICS
    architectures: tuple[int | str, ...] = ()

    def aligned(self) -> Example:
        """The same with channels, outputs and columns that are multiples of what kernels load and store at once."""
        channels = _rounded_up(self.channels, ALIGNED_CHANNELS)
        is_depthwise = self.options.groups == self.channels
        guides = self.guidance_channels
        return replace(
            self,
            channels=channels,
            outputs=self.outputs // self.channels * channels
            if is_depthwise
            else _rounded_up(self.outputs, ALIGNED_CHANNELS),
            size=(_rounded_up(self.size[0], ALIGNED_ROWS), _rounded_up(self.size[1], ALIGNED_COLUMNS)),
            guidance_channels=None if guides is None else _rounded_up(guides, ALIGNED_CHANNELS),
            options=replace(self.options, groups=channels) if is_depthwise else self.options,
        )

    def arguments(self, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Arguments:
        """Random tensors, the same on all devices."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, kind: torch.dtype = dtype) -> Tensor:
            drawn = torch.randn(shape, generator=generator).to(kind)
            return (drawn.contiguous(memory_format=self.memory_format) if len(shape) == 4 else drawn).to(device)

        def positive(length: int) -> Tensor:
            return (torch.rand(length, generator=generator) + 0.5).to(device)

        C, O, o = self.channels, self.outputs, self.options
        contrasts: dict[str, float | Tensor] = {
            "number": 0.7,
            "scalar": torch.tensor(0.7, device=device),
            "channel": positive(C),
        }
        return Arguments(
            input=normal(self.images, C, *self.size),
            guidance=normal(self.images, self.guidance_channels or C, *self.size),
            weight=normal(O, C // o.groups, *o.kernel_size),
            bias=normal(O),
            contrast=contrasts[self.contrast],
            response=normal(self.images, O, *self.size),
            fusion_weight=normal(O, C + O, 1, 1),
            fusion_bias=normal(O),
            scale=normal(O, kind=torch.float32),
            shift=normal(O, kind=torch.float32),
            mean=normal(O, kind=torch.float32),
            variance=positive(O),
            grad=normal(self.images, O, *o.output_size(*self.size)),
            options=o,
        )


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def errors_and_bounds(
    example: Example, arithmetic: str, arguments: Arguments, results: Results
) -> dict[str, tuple[float, float]]:
    """The error of each result against float64, infinite if it is not finite, and what the contract allows."""
    wide = arguments.wide()
    with torch.no_grad():
        peers, exact = example.call(arguments, "eager"), example.call(wide, "eager")
    # Guidance and contrast scaled together change nothing, so that these are the terms of the contrast's gradient.
    terms = {"dcontrast": (wide.guidance * exact["dguidance"]).norm().item()} if "dcontrast" in exact else {}
    pairs = {}
    for name, result in results.items():
        error, bound = error_and_bound(
            result, peers[name], exact[name], is_tf32=arithmetic == "tf32", terms=terms.get(name, 0.0)
        )
        pairs[name] = error if result.isfinite().all() else float("inf"), bound
    return pairs


def _paired(name: str, call: Call, kernels: tuple[str, ...], **fields: Any) -> Example:
    """An example whose channels are packed in pairs."""
    return Example(
        f"{name}-paired",
        call,
        kernels,
        2 * PAIRED_CHANNELS,
        9,
        (3, 21),
        memory_format=torch.channels_last,
        arithmetics=HALF,
        **{"architectures": PAIRED_ARCHITECTURES, **fields},
    )


DIFFERENCE = ("difference_forward", "tap_products", "difference_data_gradient", "difference_weight_gradient")
EXAMPLES = (
    Example(
        "difference",
        difference,
        DIFFERENCE,
        *(20, 17, (7, 5)),
        contrast="channel",
        options=DifferenceOptions((3, 3), (2, 2), (1, 2), (1, 2), border="zero_flux"),
    ),
    _paired(
        "difference",
        difference,
        ("paired_forward", "tap_products", "paired_data_gradient", "paired_weight_gradient"),
    ),
    Example(
        "difference-edges",
        difference,
        ("edge_products", "difference_data_gradient"),
        *(128, 9, (3, 21)),
        contrast="scalar",
        options=DifferenceOptions((3, 3), padding=(0, 2), border="zero_flux"),
        memory_format=torch.channels_last,
    ),
    Example(
        "difference-edges-paired",
        difference,
        ("edge_products", "paired_data_gradient"),
        *(128, 9, (3, 21)),
        memory_format=torch.channels_last,
        arithmetics=HALF,
        architectures=PACKED_ARCHITECTURES,
    ),
    _paired(
        "difference-gathered",
        difference,
        ("difference_forward", "tap_products", "paired_data_gradient", "paired_weight_gradient"),
        architectures=tuple(sorted({*PACKED_ARCHITECTURES} - {*PAIRED_ARCHITECTURES})),
    ),
    Example(
        "difference-copied",
        difference,
        ("image_copy", "paired_forward", "tap_products", "paired_data_gradient", "paired_weight_gradient"),
        *(40, 16, (3, 21)),
        arithmetics=HALF,
        architectures=PAIRED_ARCHITECTURES,
    ),
    Example(
        "difference-words",
        difference,
        ("paired_forward", "paired_weight_gradient"),
        *(2 * PAIRED_CHANNELS, 9, (3, 21)),
        memory_format=torch.channels_last,
        arithmetics=("tf32",),
        architectures=FLOAT32_ARCHITECTURES,
    ),
    Example(
        "difference-words-copied",
        difference,
        ("image_copy", "paired_forward", "paired_weight_gradient"),
        *(40, 16, (4, 24)),
        contrast="channel",
        arithmetics=("tf32",),
        architectures=FLOAT32_ARCHITECTURES,
    ),
    Example(
        "depthwise",
        difference,
        ("depthwise_forward", "difference_data_gradient", "depthwise_weight_gradient"),
        *(6, 12, (5, 9)),
        contrast="scalar",
        options=DifferenceOptions((3, 1), padding=(1, 0), groups=6, diffusivity="exponential"),
        arithmetics=WITHOUT_PRODUCTS,
    ),
    Example(
        "depthwise-paired",
        difference,
        ("paired_depthwise_forward", "paired_depthwise_data_gradient", "paired_depthwise_weight_gradient"),
        *(40, 40, (3, 21)),
        options=DifferenceOptions((3, 3), padding=(1, 1), groups=40, border="zero_flux"),
        memory_format=torch.channels_last,
        arithmetics=HALF,
        architectures=PACKED_ARCHITECTURES,
    ),
    Example(
        "vector",
        difference,
        ("similarity", "similarity_gradient", *DIFFERENCE),
        *(5, 7, (4, 9)),
        guidance_channels=3,
        contrast="scalar",
        options=DifferenceOptions((1, 3), padding=(0, 1), diffusivity="rational", similarity="vector"),
        arithmetics=WITHOUT_PRODUCTS,
    ),
    Example(
        "moments",
        moments,
        ("difference_forward", "merge_moments", "moments_gradient"),
        *(8, 20, (5, 13)),
        options=DifferenceOptions((1, 3), padding=(0, 1)),
    ),
    Example(
        "fusion",
        fusion,
        ("fusion_forward", "fusion_data_gradient", "fusion_weight_gradient"),
        *(72, 40, (5, 9)),  # three blocks of channels, and two: loops go round
        memory_format=torch.channels_last,
    ),
    Example(
        "block",
        block,
        ("block_forward",),
        *(8, 20, (5, 9)),
        contrast="channel",
        options=DifferenceOptions((1, 3), padding=(0, 1)),
    ),
    _paired("block", block, ("paired_block_forward",), contrast="channel"),
    Example("resize", resize, ("resize_gradient",), 5, 3, (7, 9), arithmetics=WITHOUT_PRODUCTS),
)
"""Each kernel of the library is named by at least one."""
