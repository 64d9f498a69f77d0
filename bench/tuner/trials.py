"""One kernel of one shape on trial: its tensors, how to run it with a configuration, and what results are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sdn_triton.aot.compile import compile_launch
from sdn_triton.eager import block as eager_block
from sdn_triton.eager import difference_conv as eager_difference
from sdn_triton.eager import fusion as eager_fusion
from sdn_triton.launch import block as launch_block
from sdn_triton.launch import difference_conv as launch_difference
from sdn_triton.launch import fusion as launch_fusion
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.run import Launch, recorded_launches
from sdn_triton.options import (
    BlockArguments,
    BlockOptions,
    DifferenceArguments,
    DifferenceNeeds,
    FusionArguments,
    FusionNeeds,
)
from sdn_triton.tuning.buckets import Bucket, bucket_of
from sdn_triton.tuning.configs import KernelConfig, Target
from sdn_triton.tuning.defaults import Work
from sdn_triton.tuning.fallback import LaunchFailedError, failure_of_configuration
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.shapes import LayerShape

from ..machine_code import hazards
from ..machine_code.control_flow import UnreadableCodeError
from ..machine_code.examination import read_code
from ..measuring.contract import TF32_EPS, bound_of, floor_of
from ..measuring.poison import poisoned

Results = dict[str, Tensor]
EPS = 1e-5


@dataclass(frozen=True)
class Unit:
    """What one entry of a table is measured for: a kernel, and a shape out of its bucket."""

    shape: LayerShape
    kernel: str
    work: Work

    @property
    def bucket(self) -> Bucket:
        return bucket_of(self.work)

    @property
    def title(self) -> str:
        return f"{self.kernel} {self.shape}"


def units_of(shapes: list[LayerShape], target: Target) -> list[Unit]:
    """The kernels of all shapes as they are launched on ``target``; of several shapes in one bucket the first.

    The device decides, too: whether images are copied so that channels can be read packed, for one.
    """
    units: dict[tuple[str, Bucket], Unit] = {}
    for shape in shapes:
        for unit in _units_of_shape(shape, target):
            units.setdefault((unit.kernel, unit.bucket), unit)
    return list(units.values())


def _units_of_shape(shape: LayerShape, target: Target) -> list[Unit]:
    tensors = _Tensors(shape, torch.device("meta"))
    with precision_of(shape), recorded_launches(target) as launches:
        if shape.op == "fusion":
            work = launch_fusion.work_of(tensors.input, tensors.second, tensors.weight)
            return [Unit(shape, kernel, work) for kernel in _launched(shape, tensors, launches)]
        arguments = DifferenceArguments(tensors.input, tensors.second, tensors.weight, tensors.bias, tensors.contrast)
        layout = DifferenceCall.of(arguments, shape.options, None).layout
        learned = isinstance(tensors.contrast, Tensor)
        if shape.op == "block":
            maps = [Unit(shape, "similarity", layout.work("similarity", False))] if layout.uses_maps else []
            return [*maps, Unit(shape, "block_forward", layout.work("block_forward", False))]
        return [Unit(shape, kernel, layout.work(kernel, learned)) for kernel in _launched(shape, tensors, launches)]


def _launched(shape: LayerShape, tensors: _Tensors, launches: list[Launch]) -> list[str]:
    """The kernels that a fusion or a difference convolution launches forward and backward, those that are tuned."""
    family = "fusion" if shape.op == "fusion" else "difference"
    for kernel, spec in KERNELS.items():
        if spec.family == family and spec.step != "products":
            _run("triton", shape, kernel, tensors)
    return list(dict.fromkeys(launch.tuned_as for launch in launches if launch.tuned_as in KERNELS))


@contextmanager
def precision_of(shape: LayerShape) -> Iterator[None]:
    """PyTorch's setting for float32 convolutions as the shape wants it, for a while."""
    with convolutions_in("tf32" if shape.dtype == "tf32" else "ieee"):
        yield


class _Tensors:
    """The tensors of one call, drawn from a fixed seed."""

    def __init__(self, shape: LayerShape, device: torch.device) -> None:
        generator = None if device.type == "meta" else torch.Generator(device).manual_seed(0)
        dtype = shape.torch_dtype

        def draw(*size: int, scale: float = 1.0, kind: torch.dtype = dtype) -> Tensor:
            return (scale * torch.randn(size, generator=generator, device=device)).to(kind)

        def image(channels: int, rows: int, columns: int) -> Tensor:
            return draw(shape.n, channels, rows, columns).contiguous(memory_format=shape.memory_format)

        self.input = image(shape.c, shape.h, shape.w)
        self.second = image(shape.guidance_channels, shape.h, shape.w)
        """The guidance, or the response that a fusion takes."""
        self.bias = draw(shape.outputs)
        self.contrast: float | Tensor = 0.7
        if shape.op == "fusion":
            columns, size = shape.c + shape.guidance_channels, (shape.h, shape.w)
            self.weight = draw(shape.outputs, columns, 1, 1, scale=columns**-0.5)
            self.scale, self.shift = (draw(shape.guidance_channels, kind=torch.float32) for _ in range(2))
        else:
            size = shape.options.output_size(shape.h, shape.w)
            inner = shape.c // shape.groups
            self.weight = draw(shape.responses, inner, *shape.kernel, scale=(inner * 8) ** -0.5)
            if shape.contrast != "number":
                drawn = draw(*([shape.c] if shape.contrast == "channel" else []), kind=torch.float32)
                self.contrast = drawn.abs() + 0.5
        if shape.op == "block":
            wide = torch.float32
            self.norm = [draw(shape.responses, kind=wide), draw(shape.responses, kind=wide).abs() + 0.5]
            columns = shape.c + shape.responses
            self.fusion_weight = draw(shape.outputs, columns, 1, 1, scale=columns**-0.5)
        self.grad = image(shape.outputs, *size)

    def double(self) -> _Tensors:
        """The same numbers in float64."""
        wide = object.__new__(_Tensors)
        for name, value in vars(self).items():
            is_list = isinstance(value, list)
            doubles = [x.double() if isinstance(x, Tensor) else x for x in (value if is_list else [value])]
            setattr(wide, name, doubles if is_list else doubles[0])
        return wide


def _run(path: str, shape: LayerShape, kernel: str, tensors: _Tensors, *configs: Any) -> Results:
    """What a kernel has a part in, computed on a path."""
    t = tensors
    is_weight = KERNELS[kernel].step == "weight_gradient"
    is_data = KERNELS[kernel].step in ("data_gradient", "products")
    if shape.op == "block":
        module: Any = launch_block if path == "triton" else eager_block
        mean, variance = t.norm
        difference = DifferenceArguments(t.input, t.second, t.weight, None, t.contrast)
        whole = BlockArguments(*difference, mean, variance, None, None, t.fusion_weight, t.bias)
        return {"output": module.forward(whole, BlockOptions(shape.options, EPS), *configs)}
    if shape.op == "fusion":
        module = launch_fusion if path == "triton" else eager_fusion
        fused = FusionArguments(t.input, t.second, t.weight, t.bias, t.scale, t.shift)
        if kernel == "fusion_forward":
            return {"output": module.forward(fused, shape.activation, *configs)}
        needs: Any = FusionNeeds(is_data, is_data, is_weight, is_weight, is_data, is_data)
        gradients = module.backward(fused, shape.activation, t.grad, needs, *configs)
    else:
        module = launch_difference if path == "triton" else eager_difference
        arguments = DifferenceArguments(t.input, t.second, t.weight, t.bias, t.contrast)
        if not (is_data or is_weight):
            return {"output": module.forward(arguments, shape.options, *configs)}
        learned = is_data and isinstance(t.contrast, Tensor)
        needs = DifferenceNeeds(is_data, is_data, is_weight, is_weight, learned)
        gradients = module.backward(arguments, shape.options, t.grad, needs, *configs)
    named = zip(gradients._fields, gradients)
    return {f"gradient of {name}": gradient for name, gradient in named if gradient is not None}


class Trial:
    """A unit with its tensors on a device, and the float64 results that configurations are held to."""

    def __init__(self, unit: Unit, device: torch.device) -> None:
        self.unit, self.device = unit, device
        self.tensors = _Tensors(unit.shape, device)

    def call(self, config: KernelConfig) -> Callable[[], Results]:
        """The operator's step that the kernel belongs to, with this configuration of the kernel."""
        unit = self.unit
        configs = {unit.kernel: config}
        return lambda: _run("triton", unit.shape, unit.kernel, self.tensors, configs)

    def why_not_run(self, config: KernelConfig, target: Target) -> str | None:
        """Why the machine code of a configuration must not be run on ``target``; None if it may be.

        A wrong result may come by chance only, so that :meth:`why_wrong` need not see it.

        Raises:
            ToolError: there is no disassembler that can read it.
        """
        if target.kind != "cuda" or target.architecture not in hazards.ARCHITECTURES:
            return None
        with recorded_launches() as launches:
            self.call(config)()
        own = [launch for launch in launches if launch.tuned_as == self.unit.kernel]
        if not own:
            raise RuntimeError(f"{self.unit.title} launches nothing with {config}")
        try:
            for launch in own:
                compiled = compile_launch(launch, target)
                code = read_code(compiled, config.num_warps, self.unit.work.arithmetic)
                if reason := hazards.why_hazardous(code):
                    return f"it is not run: {reason}"
        except UnreadableCodeError as error:
            return f"it is not run: its machine code is not understood: {error}"
        except Exception as error:
            if (failure := failure_of_configuration(error)) is None:
                raise
            return f"it does not run: {failure}"
        return None

    def why_wrong(self, config: KernelConfig) -> str | None:
        """What is wrong with the results of a configuration; None if they are right.

        Every output starts as NaN; each is compared with float64, and a second run must give the same bits.
        """
        try:
            with poisoned():
                first, second = self.call(config)(), self.call(config)()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except LaunchFailedError as failure:
            return f"it does not run: {failure.reason}"
        for name, (exact, bound, size) in self.expected.items():
            error = (first[name].double() - exact).abs().max().item() / size
            if not error <= bound:
                return f"{name}: error {error:.1e}, allowed {bound:.1e}"
            if not torch.equal(first[name], second[name]):
                return f"{name}: two runs differ"
        return None

    @cached_property
    def expected(self) -> dict[str, tuple[Tensor, float, float]]:
        """For each result its float64 value, the largest error allowed, and the size that errors are relative to."""
        unit = self.unit
        exact = _run("eager", unit.shape, unit.kernel, self.tensors.double())
        peers = _run("eager", unit.shape, unit.kernel, self.tensors)
        eps = TF32_EPS if unit.shape.dtype == "tf32" else torch.finfo(unit.shape.torch_dtype).eps
        expected = {}
        for name, value in exact.items():
            size = max(value.abs().max().item(), self._terms(name, exact), torch.finfo(torch.float32).tiny)
            peer = (peers[name].double() - value).abs().max().item() / size
            expected[name] = value, bound_of(peer, floor_of(eps)), size
        return expected

    def _terms(self, name: str, exact: Results) -> float:
        """How large the terms of a gradient are that may cancel; only those of the contrast do."""
        if name != "gradient of contrast":
            return 0.0
        # Guidance and contrast scaled together change nothing: k dL/dk is minus the sum of these.
        return (self.tensors.second.double() * exact["gradient of guidance"]).norm().item()
