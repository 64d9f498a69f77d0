"""The shape of one operator call, as it is named to ``sdn-triton tune``, written to JSON and recorded from a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdn_triton.options import (
    ACTIVATIONS,
    DIFFUSIVITIES,
    SIMILARITIES,
    Arguments,
    BlockArguments,
    Contrast,
    DifferenceOptions,
    FusionArguments,
)
from sdn_triton.tuning.files import write_json
from sdn_triton.tuning.precision import convolutions_may_use_tf32

OPERATORS = ("difference", "fusion", "block")
ARITHMETICS = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHORT_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""What PyTorch's names are called in tables; both are understood."""
DTYPES = ("float32", "tf32", "float16", "bfloat16")
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
BORDERS = ("zeros", "zero_flux")
CONTRASTS = ("number", "scalar", "channel")
CHOICES: dict[str, Sequence[str]] = {
    "op": OPERATORS,
    "dtype": tuple(ARITHMETICS),
    "layout": tuple(LAYOUTS),
    "border": BORDERS,
    "diffusivity": DIFFUSIVITIES,
    "similarity": SIMILARITIES,
    "contrast": CONTRASTS,
    "activation": ACTIVATIONS,
}


@dataclass(frozen=True)
class LayerShape:
    """Everything that the kernels of one operator call are chosen and compiled for.

    ``op`` is "difference", "fusion" or "block", a block in evaluation; ``n, c, h, w`` is the input; ``o`` are the
    outputs (0: as many as channels), ``r`` the responses inside a block, ``cg`` the channels of the guidance, or of the
    response in a fusion (0: as many as the input's). Pairs are written 3x3. ``padding`` of -1x-1 keeps the size at
    stride 1. ``dtype`` is fp32, tf32, fp16 or bf16, or PyTorch's name; fp32 and tf32 are float32 with PyTorch's setting
    for convolutions off and on; ``contrast`` is a number, a 0-d tensor, or one value a channel.

    Example:
        >>> shape = LayerShape.parse("c=256,h=64,w=64,dtype=bf16")
        >>> shape.options.padding, shape.outputs, str(shape)
        ((1, 1), 256, 'op=difference,c=256,h=64,w=64,dtype=bf16')
    """

    op: str = "difference"
    n: int = 1
    c: int = 0
    o: int = 0
    r: int = 0
    cg: int = 0
    h: int = 0
    w: int = 0
    dtype: str = "bf16"
    layout: str = "channels_last"
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (-1, -1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    border: str = "zeros"
    diffusivity: str = "charbonnier"
    similarity: str = "channel"
    contrast: str = "number"
    activation: str = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", SHORT_NAMES.get(self.dtype, self.dtype))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("n", "c", "h", "w", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be given, a positive number, got {getattr(self, name)}")
        if self.c % self.groups or self.outputs % self.groups:
            raise ValueError(f"groups={self.groups} must divide c={self.c} and o={self.outputs}")
        if self.op == "block" and self.groups > 1:
            raise ValueError(f"groups must be 1 in a block, got {self.groups}")
        if self.op != "block" and self.r:
            raise ValueError(f"r must not be given but for op=block, got {self.r}")
        if self.op != "fusion" and self.similarity == "channel" and self.guidance_channels != self.c:
            raise ValueError(f"cg must be c={self.c} with similarity=channel, got {self.cg}")
        if self.op != "fusion":
            if any(size % 2 == 0 or size < 1 for size in self.kernel) or min(*self.stride, *self.dilation) < 1:
                raise ValueError(f"kernel must be odd and stride, dilation positive, got {self}")
            if min(self.options.output_size(self.h, self.w)) < 1:
                raise ValueError(f"the output of {self} is empty")

    @property
    def outputs(self) -> int:
        return self.o or self.c

    @property
    def responses(self) -> int:
        """Outputs of the difference convolution: those of the layer, but for a block."""
        return (self.r or self.c) if self.op == "block" else self.outputs

    @property
    def guidance_channels(self) -> int:
        return self.cg or self.c

    @property
    def torch_dtype(self) -> torch.dtype:
        return ARITHMETICS[self.dtype]

    @property
    def memory_format(self) -> torch.memory_format:
        return LAYOUTS[self.layout]

    @property
    def options(self) -> DifferenceOptions:
        """The options of a difference convolution."""
        same = tuple(d * (k // 2) for d, k in zip(self.dilation, self.kernel))
        return DifferenceOptions(
            kernel_size=self.kernel,
            stride=self.stride,
            padding=same if self.padding == (-1, -1) else self.padding,  # type: ignore[arg-type]
            dilation=self.dilation,
            groups=self.groups,
            border=self.border,
            diffusivity=self.diffusivity,
            similarity=self.similarity,
        )

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, and ``op``."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {"op": self.op, **{name: list(v) if isinstance(v, tuple) else v for name, v in changed.items()}}

    def __str__(self) -> str:
        shown = {
            name: f"{value[0]}x{value[1]}" if isinstance(value, list) else value
            for name, value in {**self.as_json(), "dtype": self.dtype}.items()
        }
        return ",".join(f"{name}={value}" for name, value in shown.items())

    @staticmethod
    def from_json(content: Any) -> LayerShape:
        """The shape with these fields.

        Raises:
            ValueError: a field is unknown, of the wrong type or out of range.
        """
        if not isinstance(content, Mapping):
            raise ValueError(f"a shape must be an object, got {content!r}")
        defaults = {field.name: field.default for field in fields(LayerShape)}
        if unknown := content.keys() - defaults.keys():
            raise ValueError(f"a shape has no {', '.join(sorted(unknown))}: choose from {', '.join(defaults)}")
        values: dict[str, Any] = {}
        for name, value in content.items():
            is_pair = isinstance(value, list | tuple) and [type(v) for v in value] == [int, int]
            normalised = tuple(value) if is_pair else value
            if type(normalised) is not type(defaults[name]):
                raise ValueError(f"{name} must be like {defaults[name]!r}, got {value!r}")
            values[name] = normalised
        return LayerShape(**values)

    @staticmethod
    def parse(text: str) -> LayerShape:
        """The shape that ``key=value,key=value`` names; pairs as 3x3.

        Raises:
            ValueError: a key is unknown, or a value is wrong.
        """
        content: dict[str, Any] = {}
        for part in text.split(","):
            key, separator, value = part.strip().partition("=")
            if not separator:
                raise ValueError(f"{part!r} is not KEY=VALUE")
            numbers = value.split("x")
            if all(number.removeprefix("-").isdigit() for number in numbers):
                content[key] = int(value) if len(numbers) == 1 else [int(number) for number in numbers]
            else:
                content[key] = value
        return LayerShape.from_json(content)


def shape_of_call(arguments: Arguments, options: Any) -> LayerShape | None:
    """The shape of a call of an operator; None for dtypes that no kernel computes in."""
    input, weight = arguments.input, arguments.weight
    dtype = _dtype_of(input)
    if dtype is None or input.numel() == 0:
        return None
    channels = input.shape[1]

    def unless_as_many(number: int) -> int:
        return 0 if number == channels else number

    other = arguments.response if isinstance(arguments, FusionArguments) else arguments.guidance
    common: dict[str, Any] = dict(
        n=input.shape[0],
        c=channels,
        o=unless_as_many(weight.shape[0]),
        cg=unless_as_many(other.shape[1]),
        h=input.shape[2],
        w=input.shape[3],
        dtype=dtype,
        layout="channels_last" if is_channels_last(input) else "contiguous",
    )
    if isinstance(arguments, FusionArguments):
        return LayerShape(op="fusion", activation=options, **common)
    if isinstance(arguments, BlockArguments):
        outputs = unless_as_many(arguments.fusion_weight.shape[0])
        common |= dict(op="block", o=outputs, r=unless_as_many(weight.shape[0]))
        options = options.difference
    same = tuple(d * (k // 2) for d, k in zip(options.dilation, options.kernel_size))
    return LayerShape(
        **common,
        kernel=options.kernel_size,
        stride=options.stride,
        padding=(-1, -1) if options.padding == same else options.padding,
        dilation=options.dilation,
        groups=options.groups,
        border=options.border,
        diffusivity=options.diffusivity,
        similarity=options.similarity,
        contrast=_contrast_of(arguments.contrast),
    )


def tune_command(arguments: Arguments, options: Any) -> str | None:
    """The command that measures configurations for a call; None where there is nothing to tune."""
    shape = shape_of_call(arguments, options)
    return None if shape is None else f"sdn-triton tune --shape {shape}"


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the channels of a pixel lie side by side."""
    return tensor.stride(1) == 1


def _contrast_of(contrast: Contrast) -> str:
    if not isinstance(contrast, Tensor):
        return "number"
    return "channel" if contrast.ndim else "scalar"


def _dtype_of(input: Tensor) -> str | None:
    if input.dtype == torch.float32:
        return "tf32" if convolutions_may_use_tf32() else "fp32"
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(input.dtype)


_recording: ContextVar[dict[LayerShape, None] | None] = ContextVar("sdn_triton_shapes", default=None)


@contextmanager
def record_shapes(path: str | os.PathLike[str]) -> Iterator[Sequence[LayerShape]]:
    """Write the shapes of all operator calls made inside to a JSON file, for ``sdn-triton tune --shapes FILE``.

    Any device will do: a model that runs on a CPU meets the same shapes. Calls in float64 and empty batches have no
    kernels and are left out. The file is written at the end, in full or not at all, also after an error inside.

    Example:
        >>> import tempfile, torch
        >>> from sdn_triton import SDN
        >>> from sdn_triton.tuning import record_shapes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with record_shapes(f"{folder}/shapes.json") as shapes:
        ...         _ = SDN(8)(torch.zeros(2, 8, 16, 16), torch.zeros(2, 8, 8, 8))
        >>> for shape in shapes:
        ...     print(shape)
        op=difference,n=2,c=8,h=16,w=16,dtype=tf32,layout=contiguous
        op=fusion,n=2,c=8,h=16,w=16,dtype=tf32,layout=contiguous
    """
    recorded: dict[LayerShape, None] = {}
    met: list[LayerShape] = []
    token = _recording.set(recorded)
    try:
        yield met
    finally:
        _recording.reset(token)
        met.extend(recorded)
        write_json(Path(path), [shape.as_json() for shape in recorded])


def note_call(arguments: Arguments, options: Any) -> None:
    """Hand a call to :func:`record_shapes` if it is active."""
    recorded = _recording.get()
    if recorded is not None and (shape := shape_of_call(arguments, options)) is not None:
        recorded[shape] = None


def read_shapes(path: Path) -> list[LayerShape]:
    """The shapes of a JSON list.

    Raises:
        ValueError: the file cannot be read, or is no list of shapes; the message says what is wrong.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from error
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}: not a list of shapes")
    shapes = []
    for number, entry in enumerate(content, start=1):
        try:
            shapes.append(LayerShape.from_json(entry))
        except ValueError as error:
            raise ValueError(f"{path}: shape {number}: {error}") from error
    return shapes
