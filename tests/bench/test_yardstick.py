"""What a layer should cost by other ways, by hand and on small examples; and the table of it."""

import json
import re

import pytest
import torch
from support.places import RESULTS

pytest.importorskip("triton")

from sdn_triton import explain, semantic_difference_conv2d
from sdn_triton.aot.compile import TARGETS
from sdn_triton.bench.documents import yardstick_tables
from sdn_triton.bench.yardstick import __main__ as yardstick
from sdn_triton.bench.yardstick import other_ways, reasons
from sdn_triton.bench.yardstick.other_ways import (
    PASSES,
    WAYS,
    Layer,
    Sweep,
    Tally,
    compiled,
    convolution,
    eager_path,
    ratio_of,
    taken_down,
    unfolding,
)
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.pretended import pretended

CELLS = json.loads((RESULTS / yardstick_tables.FILE).read_text())["cells"]
HALF = Layer("sm_90", "bf16", "contiguous", 256)
UNIT = 9 * 2 * 256 * 256 / 4096
"""Clocks of an H100's tensor cores for a pixel of the convolution."""


def test_torch_compile_by_hand():
    """Bytes of bf16 at 13.9 a clock, products at 79 % of 4096 operations a clock."""
    number = 256 * 2 / 13.9
    product = max(9 * number, 8 * 2 * 256 * 256 / (0.79 * 4096))
    expected = {
        "forward": (10 * number + product) / UNIT,
        "weight_gradient": (10 * number + product) / UNIT,
        "data_gradient": (product + 12 * number) / UNIT,
        "training": (3 * product + 22 * number) / (3 * UNIT),
    }
    assert compiled(HALF) == pytest.approx(expected)
    # An A100 has more bytes for an operation: there the product waits for the tensor cores, all of whose rate it has.
    product = 8 * 2 * 256 * 256 / 2048
    forward = (10 * 256 * 2 / 13.4 + product) / (9 * 2 * 256 * 256 / 2048)
    assert compiled(Layer("sm_80", "bf16", "contiguous", 256))["forward"] == pytest.approx(forward)


def test_roots_bind_where_nothing_else_does():
    """Sixteen a clock; a kernel that moves little waits for them."""
    assert Sweep("eight roots", 1, roots=8).ratio(HALF) == pytest.approx(8 * 256 / 16 / UNIT)


def test_the_convolution_converts_contiguous_half_types_only():
    number = 256 * 2 / 13.9
    plain = max(1 / 0.79, 2 * number / UNIT)
    assert convolution(HALF) == pytest.approx(dict.fromkeys((*PASSES, "training"), plain + 4 * number / UNIT))
    for layer in (Layer("sm_90", "bf16", "channels_last", 256), Layer("sm_90", "tf32", "contiguous", 256)):
        assert convolution(layer)["forward"] == pytest.approx(plain)


def test_operators_are_taken_down():
    a, b = torch.ones(4, 8), torch.ones(4, 8)
    assert taken_down(lambda: a + b) == [Tally(3 * 128, 0.0, torch.float32)]
    assert taken_down(lambda: a.t().reshape(2, 16)) == [Tally(2 * 128, 0.0, torch.float32)]
    assert taken_down(lambda: a.view(-1).unsqueeze(0).expand(3, -1)) == []
    assert taken_down(lambda: torch.empty_like(a).copy_(b)) == [Tally(2 * 128, 0.0, torch.float32)]
    assert taken_down(lambda: torch.mul(a, b, out=torch.empty(4, 8))) == [Tally(3 * 128, 0.0, torch.float32)]
    assert taken_down(lambda: a.mul_(b)) == [Tally(3 * 128, 0.0, torch.float32)]
    assert taken_down(lambda: a[:, :1].expand(-1, 8) + b) == [Tally(16 + 2 * 128, 0.0, torch.float32)]
    assert taken_down(lambda: a.zero_()) == [Tally(128, 0.0, torch.float32)]
    sums, product = torch.ones(4, 4), 2.0 * 4 * 8 * 4
    assert taken_down(lambda: sums.addmm_(a, b.t())) == [Tally(2 * 64 + 2 * 128, product, torch.float32)]
    half = a.bfloat16()
    assert taken_down(lambda: half @ half.t()) == [Tally(2 * (32 + 32 + 16), product, torch.bfloat16)]


def test_operators_take_what_binds_them():
    """1390 bytes take 100 clocks of memory; as many operations as take 150 bind, and those of float32 run as TF32."""
    flop = 150 * 0.79 * 4096
    for tally, clocks in (
        (Tally(1390, 0.0, torch.bfloat16), 100),
        (Tally(1390, flop, torch.bfloat16), 150),
        (Tally(1390, flop, torch.float32), 300),
    ):
        assert ratio_of([tally, tally], HALF, pixels=10) == pytest.approx(2 * clocks / 10 / UNIT)


def test_unfolding_by_hand():
    """Tensors of C numbers a pixel. Forward: two unfolds (10 each), two differences (19), square, one more, root (18),
    product of both (27), a copy (18), the matrix product (10, and the weight), the bias (2)."""
    number = 256 * 2 / 13.9
    weight = 256 * 256 * 9 * 2 / (2 * 128 * 128) / 13.9
    product = max(10 * number + weight, 9 * 2 * 256 * 256 / (0.79 * 4096))
    found = unfolding(HALF)
    assert found["forward"] == pytest.approx((159 * number + product) / UNIT, rel=1e-4)
    assert found["weight_gradient"] == pytest.approx((158 * number + product) / UNIT, rel=1e-4)
    kept = found["weight_gradient"] - 157 * number / UNIT
    assert 3 * found["training"] == pytest.approx(found["forward"] + kept + found["data_gradient"])
    assert found["data_gradient"] > found["forward"]


def test_the_eager_path_forms_every_product_once():
    """Eight products of C x C a pixel, and those of a strip's rim; each gradient needs as many."""
    tallies = other_ways._eager("tf32", "channels_last", 64)
    for name in PASSES:
        products = sum(tally.flop for tally in tallies[name]) / (2 * 64 * 64 * 128 * 128)
        assert 8 <= products < 8.5, name
    found = eager_path(Layer("sm_80", "tf32", "channels_last", 64))
    assert found["forward"] < found["weight_gradient"] < found["data_gradient"]


@pytest.mark.parametrize("pass_", PASSES)
def test_launches_are_those_of_the_pass(pass_):
    launches, tallies = yardstick.recorded(Layer("sm_90", "bf16", "channels_last", 64), pass_)
    names = {launch.tuned_as for launch in launches}
    kernels = {f"difference_{pass_}"} | ({"tap_products"} if pass_ == "data_gradient" else set())
    assert names == kernels
    assert tallies == []


def test_a_copy_of_an_image_around_a_kernel_counts(monkeypatch):
    forward = yardstick.difference_conv.forward

    def with_copy(arguments, *others):
        return forward(arguments._replace(input=arguments.input.clone()), *others)

    monkeypatch.setattr(yardstick.difference_conv, "forward", with_copy)
    layer = Layer("sm_80", "tf32", "contiguous", 64)
    _, tallies = yardstick.recorded(layer, "forward")
    assert [tally.bytes for tally in tallies] == [2 * 2 * 64 * 128 * 128 * 4]
    monkeypatch.setattr(yardstick, "_kernels", lambda *_: [])
    assert yardstick.ours(layer, "forward")["ratio"] == pytest.approx(2 * 64 * 4 / 13.4 / layer.unit)


def test_a_kernel_that_nobody_knows_moves_its_tensors_once(monkeypatch):
    layer = Layer("sm_80", "tf32", "contiguous", 64)
    launches, _ = yardstick.recorded(layer, "forward")
    monkeypatch.setattr(yardstick, "KERNELS", ())
    (found,) = yardstick._kernels(layer, launches)
    numbers = 3 * 64 + 64 * 9 * 64 / (2 * 128 * 128) + 64 / (2 * 128 * 128)  # u, v, y, weight, bias
    assert found["ratio"] == pytest.approx(numbers * 4 / 13.4 / layer.unit)
    assert found["bound"] == "memory"


def cell(**changes):
    """A layer whose passes take 1, 2 and 3 here and by every other way."""
    passes = dict(zip(PASSES, (1.0, 2.0, 3.0)))
    kernels = {
        name: {
            **dict(kernel=f"{name}_k", ratio=r, ratio_is="bound", bound="l1", floor_ratio=r),
            "clocks_per_element": {"issue": 0.1, "l1": 0.3},
        }
        for name, r in passes.items()
    }
    return {
        **dict(arch="sm_90", dtype="bf16", memory_format="contiguous", channels=256),
        "ours": {name: {"ratio": ratio, "kernels": [kernels[name]]} for name, ratio in passes.items()},
        "shared": 0.0,
        "others": {way: {**passes, "training": 2.0} for way in WAYS},
        **changes,
    }


def test_aims():
    def of(arch, dtype, channels):
        return yardstick_tables.aims_of(cell(arch=arch, dtype=dtype, channels=channels))

    assert of("sm_90", "bf16", 256) == {"forward": 1.8, "training": 2.0}
    assert of("sm_80", "bf16", 128) == {"forward": 2.0, "training": 2.5}
    assert of("sm_89", "tf32", 128) == {"forward": 2.0, "training": 2.5}
    assert of("sm_89", "tf32", 64) == of("sm_90", "bf16", 64) == {"training": 3.0}
    assert of("sm_100", "bf16", 256) == {}


def test_who_is_ahead_and_which_aims_are_missed():
    even = cell()
    assert yardstick_tables.our_ratios(even)["training"] == 2.0
    assert yardstick_tables.ahead(even) == {}
    assert yardstick_tables.missed(even) == []
    even["others"]["compiled"]["weight_gradient"] = 1.9
    assert yardstick_tables.ahead(even) == {"compiled": ["weight_gradient"]}
    even["others"]["unfolding"]["training"] = 1.9
    assert yardstick_tables.ahead(even) == {"compiled": ["weight_gradient"], "unfolding": ["training"]}
    even["others"]["convolution"] = dict.fromkeys(PASSES, 0.1)  # which computes something else
    assert list(yardstick_tables.ahead(even)) == ["compiled", "unfolding"]
    even["ours"]["forward"]["ratio"] = 1.9
    assert yardstick_tables.missed(even) == ["forward", "training"]


def test_copies_that_both_gradients_read_count_once_in_training():
    assert yardstick_tables.our_ratios(cell(shared=1.5))["training"] == 1.5
    copied, as_it_lies = (
        yardstick.shared(Layer("sm_90", "bf16", name, 256)) for name in ("contiguous", "channels_last")
    )
    number = 256 * 2 / 13.9
    assert copied == pytest.approx(4 * number / UNIT)  # two images, read and written
    assert as_it_lies == 0.0


def reason_of(found, aim="training"):
    (text,) = [row.text for row in reasons.reasons([found]) if row.aim == aim]
    return text


def test_reasons_by_hand():
    """What the busiest parts take alone; else what copies take; else what kernels wait for."""
    assert reasons.reasons([cell()]) == []
    slow = cell()
    for name, floor in zip(PASSES, (1.5, 2.0, 3.0)):
        slow["ours"][name]["kernels"][0]["floor_ratio"] = floor
        slow["ours"][name]["ratio"] = slow["ours"][name]["kernels"][0]["ratio"] = floor + 1
    assert reason_of(slow).startswith(
        "if nothing waited still 2.17: data_gradient_k 3.00 by the first-level cache (0.300"
    )
    assert "0.300 clocks an element, the convolution 0.100" in reason_of(slow)
    assert reason_of(slow, "forward") == "if nothing waited 1.50: forward_k waits 1.00"
    slow["ours"]["data_gradient"]["kernels"][0]["bound"] = "issue"
    assert "3.00 by issue slots (12.8 instructions, 0.100 clocks an element" in reason_of(slow)
    copies = {"kernel": "c", "ratio": 0.93, "ratio_is": "bound", "bound": "memory", "floor_ratio": 0.93}
    copied = cell()
    copied["ours"]["forward"]["kernels"].append(copies)
    copied["ours"]["forward"]["ratio"] = 1.9
    for name in PASSES:
        copied["ours"][name]["kernels"][0]["floor_ratio"] = 0.5
    assert reason_of(copied) == "copies to channels_last take 0.31 at the memory's rate; 1.99 without them"
    copied["shared"] = 0.93
    assert [row.aim for row in reasons.reasons([copied])] == ["forward"]
    without_aims = cell(arch="sm_100")
    without_aims["others"]["compiled"]["training"] = 1.9
    (row,) = reasons.reasons([without_aims])
    assert (row.aim, row.limit_is, row.value) == ("training", "torch.compile 1.90", 2.0)


def test_every_missed_aim_has_a_reason_and_no_other():
    """By the bold figures of the first table; of layers without aims, those that torch.compile trains faster."""
    first, second = (
        [
            [part.strip() for part in line.strip("|").split("|")]
            for line in part.splitlines()
            if line.startswith("| sm_")
        ]
        for part in yardstick_tables.yardstick(RESULTS, "").split("| layer | pass |")
    )
    expected = set()
    for name, _, forward, _, _, training, aims, *_, losses in first:
        expected |= {(name, "forward")} if forward.startswith("**") else set()
        is_slow = training.startswith("**") if aims != "none" else "torch.compile" in losses and "training" in losses
        expected |= {(name, "training")} if is_slow else set()
    assert {(name, pass_) for name, pass_, *_ in second} == expected
    assert len(second) == len(expected)
    assert all(text for *_, text in second)


def test_the_table_says_what_the_file_says():
    """Every figure of ours and of torch.compile, read back, and bold where it should be."""
    first, _ = yardstick_tables.yardstick(RESULTS, "").split("| layer | pass |")
    lines = [line for line in first.splitlines() if line.startswith("| sm_")]
    assert len(lines) == len(CELLS) == len(yardstick.layers())
    for line, found in zip(lines, CELLS):
        name, _, *passes, training, aims, other, _, _, losses = [part.strip() for part in line.strip("|").split("|")]
        assert name == f"{found['arch']} {found['dtype']} {found['memory_format']} {found['channels']}"
        own = [found["ours"][name]["ratio"] for name in PASSES]
        others = [found["others"]["compiled"][name] for name in (*PASSES, "training")]
        own = [*own, (sum(own) - found["shared"]) / 3]
        read = [float(re.search(r"[\d.]+", text)[0]) for text in (*passes, training)]
        assert read == pytest.approx(own, abs=0.00501)
        assert [float(text) for text in other.split("/")] == pytest.approx(others, abs=0.00501)
        assert ("torch.compile" in losses) == any(b < a for a, b in zip(own, others))
        limits = dict(re.findall(r"(forward|training) ([\d.]+)", aims))
        for text, value, key in ((passes[0], own[0], "forward"), (training, own[3], "training")):
            assert text.startswith("**") == (key in limits and value > float(limits[key]))


def test_auto_takes_no_kernels_that_the_model_puts_behind_the_eager_path():
    """Of the two paths that ``auto`` chooses between, the kernels are faster in both operators of every layer."""
    for found in CELLS:
        own = {name: found["ours"][name]["ratio"] for name in PASSES}
        eager = found["others"]["eager"]
        assert own["forward"] < eager["forward"], found
        backward = own["weight_gradient"] + own["data_gradient"]
        assert backward < eager["weight_gradient"] + eager["data_gradient"], found


def test_explain_says_where_the_model_has_torch_compile_ahead():
    """By a rule that agrees with the table in every layer of it."""
    for found in CELLS:
        layer = Layer(found["arch"], found["dtype"], found["memory_format"], found["channels"])
        input, guidance, weight, bias = (x.cpu() for x in layer.tensors(1))
        precision = "tf32" if layer.arithmetic == "tf32" else "ieee"
        with pretended(TARGETS[layer.arch]), convolutions_in(precision):
            text = str(explain(semantic_difference_conv2d, input, guidance, weight, bias, padding=1))
            strided = str(explain(semantic_difference_conv2d, input, guidance, weight, bias, stride=2, padding=1))
        is_ahead = "training" in yardstick_tables.ahead(found).get("compiled", ())
        assert text.count("torch.compile of the plain formula may train this layer faster") == is_ahead, layer
        assert "torch.compile" not in strided


def test_the_command_needs_the_compiler(capsys, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit) as caught:
        yardstick.main([])
    assert caught.value.code == 2
    assert "unset it" in capsys.readouterr().err
