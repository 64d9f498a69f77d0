"""Memory that the eager path keeps from call to call: nobody sees it, nobody shares it, and it stays small."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from support.eager_calls import SCHEMES, call, choose
from torch.utils._python_dispatch import TorchDispatchMode

from sdn_triton.eager import difference_conv
from sdn_triton.eager.workspace import KEPT_BYTES, MOST_LAYOUTS, Block, Workspace, laid_out, workspace
from sdn_triton.options import DifferenceNeeds

schemes = pytest.mark.parametrize("scheme", SCHEMES)


@pytest.fixture(autouse=True)
def _empty_workspace():
    workspace.release()
    yield
    workspace.release()


@schemes
def test_a_result_is_not_in_memory_that_is_kept(scheme, monkeypatch):
    choose(monkeypatch, scheme)
    first, second = call(padding=(1, 1)), call(padding=(1, 1))
    found = difference_conv.forward(*first)
    expected = found.clone()
    assert not torch.equal(difference_conv.forward(*second), expected)
    assert torch.equal(found, expected)


@schemes
def test_what_a_call_leaves_behind_is_not_read(scheme, monkeypatch):
    """Not even where a contrast has made all of it NaN."""
    choose(monkeypatch, scheme)
    made = call(padding=(1, 1))
    expected = difference_conv.forward(*made)
    difference_conv.forward(made.arguments._replace(contrast=float("nan")), made.options)
    assert torch.equal(difference_conv.forward(*made), expected)


@schemes
def test_after_inference_mode(scheme, monkeypatch):
    choose(monkeypatch, scheme)
    made = call(padding=(1, 1))
    with torch.inference_mode():
        expected = difference_conv.forward(*made)
    assert torch.equal(difference_conv.forward(*made), expected)


@schemes
def test_a_call_within_a_call_has_memory_of_its_own(scheme, monkeypatch):
    choose(monkeypatch, scheme)
    made, other = call(padding=(1, 1)), call(padding=(1, 1))
    expected = difference_conv.forward(*made)

    class Interrupting(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls += 1
            with torch.utils._python_dispatch._disable_current_modes():
                difference_conv.forward(*other)
            return function(*args, **(kwargs or {}))

    with Interrupting() as mode:
        found = difference_conv.forward(*made)
    assert mode.calls > 10
    assert torch.equal(found, expected)


def test_threads_do_not_share():
    """Last bits aside: a thread multiplies matrices with fewer threads of its own."""
    inputs = [call(padding=(1, 1)) for _ in range(4)]
    expected = [difference_conv.forward(*made) for made in inputs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(50):
            if not torch.allclose(difference_conv.forward(*inputs[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_little_is_kept_and_the_oldest_goes_first():
    kept = Workspace()
    size = KEPT_BYTES // 3

    def make() -> Block:
        return Block(size)

    blocks = {purpose: make() for purpose in "abcd"}
    for purpose, block in blocks.items():
        kept.give_back(purpose, block)
    assert kept.take("b", make) is blocks["b"]
    assert kept.take("a", make) is not blocks["a"]
    assert kept.take("b", make) is not blocks["b"]  # which somebody has
    kept.give_back("e", Block(KEPT_BYTES + 1))
    assert kept.take("e", make).nbytes == size


class Buffers:
    """A layout that counts how often it was told to forget."""

    def __init__(self, subject: str, *buffers: torch.Tensor) -> None:
        self.subject, self.buffers, self.forgot = subject, buffers, 0

    def forget(self) -> None:
        self.forgot += 1


def test_a_call_takes_the_memory_of_the_last():
    like = torch.empty(1)
    with laid_out(Buffers, "", like, torch.float32, (100, 100)) as first:
        place = first.buffers[0].data_ptr()
    with laid_out(Buffers, "", like, torch.float64, (3,), (7, 2)) as second:
        found = second.buffers
        assert found[0].data_ptr() == place
        assert [x.data_ptr() % 64 for x in found] == [place % 64] * 2
        found[0].fill_(1)
        found[1].fill_(2)
        assert found[0].sum() == 3


def test_a_layout_is_kept_and_forgets_what_others_wrote_over():
    like = torch.empty(1)

    def lay_out(subject: str, length: int = 3) -> Buffers:
        with laid_out(Buffers, subject, like, torch.float32, (length,)) as layout:
            return layout

    first = lay_out("a")
    assert lay_out("a") is first
    assert first.forgot == 0
    assert lay_out("b") is not first
    assert lay_out("a") is first
    assert first.forgot == 1
    larger = lay_out("a", 1000)  # in another block of memory
    assert larger is not first
    assert lay_out("a") is not first


def test_sizes_that_change_do_not_gather_layouts():
    like = torch.empty(1)
    for length in range(1000, 1000 - 3 * MOST_LAYOUTS, -1):
        with laid_out(Buffers, "", like, torch.float32, (length,)):
            pass
    block = workspace.take(Block, lambda: Block(0))
    assert 0 < len(block.layouts) <= MOST_LAYOUTS


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("border", ["zeros", "zero_flux"])
def test_views_keep_no_memory_but_their_block(layout, border, monkeypatch):
    """What images in other layouts are transposed into goes after the call."""
    choose(monkeypatch, "one link")
    made = call(padding=(1, 1), layout=layout, border=border, contrast="float")
    needs = DifferenceNeeds(True, True, True, False, False)
    for run in (
        lambda: difference_conv.forward(*made),
        lambda: difference_conv.backward(*made, torch.ones(2, 6, 7, 6, dtype=torch.float64), needs),
    ):
        run()
        block = workspace.take(Block, lambda: Block(0))
        tensors = list(tensors_in(block.last))
        assert len(tensors) > 20
        assert {x.untyped_storage().data_ptr() for x in tensors} == {block.storage.data_ptr()}
        workspace.give_back(Block, block)


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Those that an object of ours, a list or a tuple holds, and what it holds."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif type(value).__module__.startswith("sdn_triton"):
        for item in vars(value).values():
            yield from tensors_in(item)
