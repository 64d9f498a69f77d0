"""Which cases are run under a name; a shape more is one line. What tells most comes first: a budget may end a suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cases import BenchCase, grid
from .networks import NETWORKS, Network
from .workloads import PASSES

SMALL = Network("Small", (16, 32), (4, 8))
IDLE = Network("Idle", (32,), (16,))
"""An image that leaves a device next to nothing to compute."""


def _named(*names: str) -> list[Network]:
    return [NETWORKS[name] for name in names]


def quick() -> list[BenchCase]:
    """A few small shapes: whether everything runs, in a minute or two."""
    return [
        *grid([SMALL], [(64, 64)]),
        *grid([SMALL], [(128, 128), (256, 256)], kinds=("layer",), stages=(1,), passes=("inference",)),
    ]


def common(on_gpu: bool) -> list[BenchCase]:
    """Layer, block and neck of one network, inference and training: what ``make bench`` runs, in minutes anywhere."""
    here: Any = dict(dtypes=("bfloat16",), formats=("channels_last",)) if on_gpu else {}
    (b0,) = _named("segformer-b0")
    return [
        *grid([b0], [(512, 512)], kinds=("layer",), stages=(1, 2, 3), **here),
        *grid([b0], [(512, 512)], kinds=("block",), stages=(1,), **here),
        *grid([b0], [(256, 256)], kinds=("neck",), **here),
        *grid([b0], [(256, 256)], kinds=("layer",), stages=(1,), passes=("inference",), **here),
        *grid([b0], [(1024, 1024)], kinds=("layer",), stages=(1,), passes=("inference",), **here),
    ]


def cpu() -> list[BenchCase]:
    """What two cores can do in a quarter of an hour, compilers included: float32, networks of common sizes."""
    b0, b2, fpn = _named("segformer-b0", "segformer-b2", "resnet-50-fpn")
    layer = ("layer",)
    return [
        *grid([b0], [(512, 512)], kinds=layer),
        *grid([b0], [(512, 512)], kinds=("block", "neck"), stages=(1, 2)),
        *grid([b2], [(512, 512)], kinds=layer, stages=(1,), passes=PASSES),
        *grid([b2], [(128, 128), (1024, 1024)], kinds=layer, stages=(1,), passes=("inference",)),
        *grid([b2], [(256, 256)], kinds=layer, stages=(1,), passes=("inference",), caches=("warm", "cold")),
        *grid([b0], [(512, 512)], kinds=layer, stages=(1, 2), formats=("channels_last",)),
        *grid([fpn], [(256, 256)], kinds=layer, stages=(1,), formats=("channels_last",)),
        *grid([b0], [(509, 765)], kinds=layer, stages=(1,)),
        *grid([b0], [(128, 128)], kinds=layer, stages=(1,), batches=(16,)),
        *grid([b2], [(256, 256)], kinds=layer, stages=(1,), passes=("inference",), dtypes=("bfloat16",)),
        *grid([IDLE], [(32, 32)], kinds=("layer", "block"), modes=("host",)),
    ]


def gpu() -> list[BenchCase]:
    """What a few minutes on a GPU can tell: the kernels alone, with a cold cache; then the host's time.

    A layer of 256 channels on 128x128 and 256x512 and of 64 on 128x128, a block of each, a neck.
    """
    kernels: Any = dict(dtypes=("bfloat16",), formats=("channels_last",), modes=("kernel",), caches=("cold",))
    b2, fpn = _named("segformer-b2", "resnet-50-fpn")
    host: Any = dict(dtypes=("bfloat16",), formats=("channels_last",), modes=("host",))
    return [
        *grid([fpn], [(512, 512), (1024, 2048)], kinds=("layer",), stages=(1,), **kernels),
        *grid([b2], [(512, 512)], kinds=("layer",), stages=(1,), **kernels),
        *grid([fpn, b2], [(512, 512)], kinds=("block",), stages=(1,), **kernels),
        *grid([b2], [(512, 512)], kinds=("neck",), **kernels),
        *grid([IDLE], [(32, 32)], kinds=("layer", "block"), **host),
    ]


def networks() -> list[BenchCase]:
    """Many networks on a GPU, kernels alone and as users call them, batches, odd sizes, other dtypes: half an hour."""
    common: Any = dict(dtypes=("bfloat16",), formats=("channels_last",))
    both = ("kernel", "operator")
    b0, b2, resnet, fpn, swin_t, swin_b, hrnet = _named(
        "segformer-b0", "segformer-b2", "resnet-50", "resnet-50-fpn", "swin-t", "swin-b", "hrnet-w48"
    )
    return [
        *grid([fpn, swin_b], [(1024, 2048)], kinds=("layer",), modes=("kernel",), caches=("cold",), **common),
        *grid([b2, fpn], [(512, 512)], kinds=("block", "neck"), modes=both, caches=("cold",), **common),
        *grid([fpn], [(512, 512)], kinds=("layer",), passes=PASSES, modes=both, caches=("cold", "warm"), **common),
        *grid([IDLE], [(32, 32)], kinds=("layer", "block"), modes=("host",), **common),
        *grid([b0, b2, swin_t, hrnet, resnet], [(512, 512)], modes=both, caches=("cold",), **common),
        *grid([b0, b2], [(1021, 2043)], kinds=("layer",), modes=("kernel",), caches=("cold",), **common),
        *grid([b2], [(512, 512)], batches=(4, 16), kinds=("layer",), modes=("kernel",), caches=("cold",), **common),
        *grid([b2], [(512, 512)], kinds=("layer",), formats=("contiguous",), dtypes=("float32", "float16")),
    ]


def full() -> list[BenchCase]:
    """Every network, both sizes and an odd one, three batch sizes: hours, for a run that is resumed."""
    networks = list({(n.channels, n.strides): n for n in reversed(NETWORKS.values())}.values())
    sizes = [(512, 512), (1024, 2048), (1021, 2043)]
    return grid(networks, sizes, batches=(1, 4, 16), dtypes=("bfloat16", "float32"), formats=("channels_last",))


SUITES: dict[str, Callable[[], list[BenchCase]]] = {
    "quick": quick,
    "cpu": cpu,
    "gpu": gpu,
    "networks": networks,
    "full": full,
}
