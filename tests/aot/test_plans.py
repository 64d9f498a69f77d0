"""Launches that repeat call the compiled kernel with what Triton's own look-up would have called it with."""

import gc
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor

from sdn_triton import feature_fusion, semantic_difference_conv2d

pytest.importorskip("triton")

from sdn_triton.bench.experiments.host_cost import pretended_gpu
from sdn_triton.launch import plan as plans

GRID, ARGUMENTS = slice(0, 3), slice(9, None)


def image(channels: int, layout: torch.memory_format = torch.contiguous_format, offset: int = 0) -> Tensor:
    """``offset`` moves the address only, by so many elements."""
    values = torch.zeros(2 * channels * 72 + offset, dtype=torch.float16)[offset:]
    if layout == torch.channels_last:
        return values.view(2, 9, 8, channels).permute(0, 3, 1, 2)
    return values.view(2, channels, 9, 8)


def difference(**options) -> Callable[..., Tensor]:
    def call(layout: torch.memory_format = torch.contiguous_format, offset: int = 0, contrast=None) -> Tensor:
        weight = torch.zeros(32, 32 // options.get("groups", 1), 3, 3, dtype=torch.float16)
        u, v = image(32, layout, offset), image(32, layout, offset)
        k = options.get("contrast", 1.0) if contrast is None else contrast
        return semantic_difference_conv2d(u, v, weight, padding=1, backend="triton", **{**options, "contrast": k})

    return call


def fusion(layout: torch.memory_format = torch.contiguous_format, offset: int = 0, contrast=None) -> Tensor:
    weight = torch.zeros(8, 64, 1, 1, dtype=torch.float16)
    return feature_fusion(image(32, layout, offset), image(32, layout, offset), weight, backend="triton")


CALLS = {
    "dense": difference(),
    "depthwise": difference(groups=32),
    "vector": difference(similarity="vector"),
    "contrast": difference(contrast=torch.ones(32)),
    "fusion": fusion,
}


@pytest.fixture(autouse=True)
def no_plans():
    plans._plans.clear()
    yield
    plans._plans.clear()


def look_ups(monkeypatch: pytest.MonkeyPatch) -> list[plans.Plan]:
    """Every launch that goes through Triton's look-up."""
    found: list[plans.Plan] = []
    first = plans.Plan._first
    monkeypatch.setattr(plans.Plan, "_first", lambda self, *given: (found.append(self), first(self, *given))[1])
    return found


def same(a: object, b: object) -> bool:
    """Tensors by what they look like, as theirs is another memory; everything else as it is."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
    return a == b


def flat(values: Iterable[object]) -> Iterator[object]:
    """The members of tuples one by one."""
    for value in values:
        yield from flat(value) if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.sampled(4)
def test_a_repeated_launch_is_the_first_one_with_other_addresses(name, layout, monkeypatch):
    found = look_ups(monkeypatch)
    # Contiguous images are copied, both by one plan.
    is_copied = name in ("dense", "contrast", "depthwise") and layout == torch.contiguous_format
    plans_of_a_call = 2 if is_copied or name == "vector" else 1
    with pretended_gpu() as launches:
        CALLS[name](layout)
        first = list(launches)[-1]
        assert len(found) == plans_of_a_call
        output = CALLS[name](layout)
        repeated = list(launches)[-1]
        assert len(found) == plans_of_a_call
    assert len(launches) == (6 if is_copied else 4 if name == "vector" else 2)
    assert first[GRID] == repeated[GRID]
    assert same(first[ARGUMENTS], repeated[ARGUMENTS])
    assert any(x is output or (isinstance(x, Tensor) and x.data_ptr() == output.data_ptr()) for x in repeated)


def test_what_makes_a_launch_another_one(monkeypatch):
    """Layouts, alignments and values that Triton or the configuration look at."""
    found = look_ups(monkeypatch)
    call = CALLS["dense"]
    with pretended_gpu() as launches:
        call()
        assert len(found) == 2  # the copies, and what reads them
        for changes in ({"layout": torch.channels_last}, {"contrast": 0.5}, {"contrast": torch.ones(())}):
            before = len(found)
            call(**changes)
            assert len(found) == before + 1, changes
            call(**changes)
            assert len(found) == before + 1, changes
        before = len(found)
        call(offset=1)  # two bytes after a multiple of sixteen
        assert len(found) == before + 1
        assert {value for value in flat(launches[-1][ARGUMENTS]) if isinstance(value, float)} == {1.0}
        call(contrast=0.5)
        assert {value for value in flat(launches[-1][ARGUMENTS]) if isinstance(value, float)} == {2.0}


def test_plans_hold_no_tensor():
    with pretended_gpu():
        for call in CALLS.values():
            call()
    assert plans._plans
    for plan in plans._plans.values():
        assert not any(isinstance(value, Tensor) for value in flat((*plan.arguments.values(), *plan._values)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.sampled(4)
def test_memory_is_free_as_soon_as_nobody_needs_it(name, layout):
    """What refers to itself is there until Python looks for cycles, and with it all images of a training step."""
    with pretended_gpu() as launches:
        CALLS[name](layout)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            CALLS[name](layout)
            launches.clear()
            gc.collect()
            assert not [thing for thing in gc.garbage if isinstance(thing, Tensor)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
