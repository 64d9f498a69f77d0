"""Nothing that nobody chooses: every kernel is launched and every tile is a default for some call on some device."""

import importlib
from itertools import product

import pytest
import torch

pytest.importorskip("triton")

from support.places import ROOT

from sdn_triton import feature_fusion, semantic_difference_conv2d
from sdn_triton.aot.compile import TARGETS
from sdn_triton.launch import block, moments, resize
from sdn_triton.launch.run import recorded_launches
from sdn_triton.options import BlockArguments, BlockOptions, DifferenceArguments, DifferenceOptions
from sdn_triton.tuning import defaults, tiles
from sdn_triton.tuning.defaults import Work, default_config
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.pretended import pretended

LAYOUTS = (torch.contiguous_format, torch.channels_last)
LAYERS = {
    "dense, edges": dict(channels=128),
    "dense, taps": dict(channels=96),
    "few channels": dict(channels=5),
    "depthwise": dict(channels=64, groups=64),
    "depthwise, few channels": dict(channels=5, groups=5),
    "vector": dict(channels=64, similarity="vector"),
}


def names_of_kernels() -> set[str]:
    modules = [importlib.import_module(f"sdn_triton.kernels.{path.stem}") for path in (ROOT / "kernels").glob("*.py")]
    return {name for module in modules for name in vars(module) if name.endswith("_kernel")}


def launch_everything(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Forward and backward of every layer, of a fusion, of blocks, and what training a block takes besides."""

    def image(channels: int, size: int = 64) -> torch.Tensor:
        made = torch.empty((2, channels, size, size), device="meta", dtype=dtype).to(memory_format=layout)
        return made.requires_grad_()

    for layer in LAYERS.values():
        channels, groups = layer["channels"], layer.get("groups", 1)
        weight = torch.empty((channels, channels // groups, 3, 3), device="meta", dtype=dtype, requires_grad=True)
        output = semantic_difference_conv2d(
            image(channels), image(channels), weight, padding=1, groups=groups, backend="triton",
            similarity=layer.get("similarity", "channel"),
        )  # fmt: skip
        output.sum().backward()
    first = torch.empty((96, 192, 1, 1), device="meta", dtype=dtype, requires_grad=True)
    vector = torch.empty(96, device="meta", requires_grad=True)
    feature_fusion(image(96), image(96), first, scale=vector, shift=vector, backend="triton").sum().backward()
    for channels in (5, 64):
        with torch.no_grad():
            options = DifferenceOptions((3, 3), padding=(1, 1))
            weight = torch.empty((channels, channels, 3, 3), device="meta", dtype=dtype)
            difference = DifferenceArguments(image(channels), image(channels), weight, None, 1.0)
            last = torch.empty((channels, 2 * channels, 1, 1), device="meta", dtype=dtype)
            norm = (torch.empty(channels, device="meta") for _ in range(4))
            block.forward(BlockArguments(*difference, *norm, last, None), BlockOptions(options, 1e-5))
            y, mean, variance = moments.forward(difference, options)
            moments.gradient(y, y, mean, mean, variance)
            resize.gradient(image(channels), image(channels, 32))


def test_every_kernel_is_launched():
    launched = set()
    for target, (dtype, arithmetic), layout in product(
        TARGETS.values(), ((torch.bfloat16, "ieee"), (torch.float32, "tf32"), (torch.float32, "ieee")), LAYOUTS
    ):
        with pretended(target), convolutions_in(arithmetic), recorded_launches() as launches:
            launch_everything(dtype, layout)
        launched |= {launch.name for launch in launches}
    assert names_of_kernels() - launched == set()


def leaves(table, path=()):
    """The tiles in a table: where each is, and it."""
    if isinstance(table, tuple) and isinstance(table[0], int):
        yield path, table
        return
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        yield from leaves(value, (*path, key))


def replaced(table, path, tile):
    """The table with another tile at that place."""
    if not path:
        return tile
    key, *others = path
    new = {k: replaced(v, others, tile) if k == key else v for k, v in (
        table.items() if isinstance(table, dict) else enumerate(table)
    )}  # fmt: skip
    return new if isinstance(table, dict) else tuple(new.values())


TABLES = {name: getattr(tiles, name) for name in vars(tiles) if name.endswith(("_TILE", "TILES"))}
PLACES = [(name, path, tile) for name, table in TABLES.items() for path, tile in leaves(table)]


def kernels_of(path: tuple) -> list[str]:
    """The kernels that a place may be for: that which it names, or all."""
    words = [w for part in path for w in (part if isinstance(part, tuple) else (part,))]
    return [word for word in words if word in KERNELS] or list(KERNELS)


def all_configs(kernels: list[str]) -> dict:
    defaults.default_config.cache_clear()
    sizes = (5, 64, 128, 256)
    return {
        (kernel, work, target): default_config(kernel, work, target)
        for kernel, target, arithmetic, channels, outputs, side, pairs, last in product(
            kernels, TARGETS.values(), ("bf16", "tf32", "ieee"), sizes, sizes, (8, 256), (False, True), (False, True)
        )
        for work in [Work(arithmetic, 2, side, side, channels, outputs, 1, 9, pairs and last, last)]
    }


@pytest.mark.sampled(12)
@pytest.mark.parametrize(("name", "path", "tile"), PLACES, ids=[f"{n}{list(p)}" for n, p, _ in PLACES])
def test_every_tile_is_somebodys_default(name, path, tile, monkeypatch):
    kernels = kernels_of(path)
    before = all_configs(kernels)
    *blocks, warps, stages = tile
    monkeypatch.setattr(defaults, name, replaced(TABLES[name], path, (*blocks, 2 * warps, stages)))
    assert all_configs(kernels) != before
    defaults.default_config.cache_clear()
