"""Arithmetic and conversions against exact fractions, Python's integers, and torch's conversions."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from emulator import arithmetic, formats
from emulator.conversion import convert
from emulator.handwritten import execute

RANDOM = np.random.default_rng(0)
EDGES = (0, 1 << 31, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000)
SPECIAL = np.array(EDGES, np.uint32)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflow and NaN go unnoticed on a GPU


def any_f32(count: int) -> np.ndarray:
    """Floats of all sizes."""
    bits = RANDOM.integers(0, 2**32, count, dtype=np.uint32)
    return np.concatenate([bits, SPECIAL]).view(np.float32)


def nearest_f32(exact: Fraction) -> float:
    """The float32 number nearest to a fraction, ties to even, found by comparing."""
    guess = np.float32(float(exact))
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    finite = [x for x in around if np.isfinite(x)]
    return float(min(finite, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1)))


def operands_of_fma(count: int) -> tuple[np.ndarray, ...]:
    """Among random ones many whose sum lies just beside the middle between two float32 numbers."""
    a, b = (RANDOM.standard_normal(count).astype(np.float32) for _ in range(2))
    c = RANDOM.standard_normal(count).astype(np.float32) * np.float32(2.0) ** RANDOM.integers(-40, 40, count)
    # a b is a power of two and a little more, far below half a unit of c's last place.
    middle = np.ldexp(np.float32(1), RANDOM.integers(-3, 4, count).astype(np.int32))
    c_middle = (1 + RANDOM.integers(0, 2**23, count) * 2.0**-23).astype(np.float32) * middle
    a_middle = (middle * np.float32(2.0**-24) * np.float32(1 + 2.0**-23)).astype(np.float32)
    b_middle = np.float32(1 - 2.0**-23) + np.zeros(count, np.float32)
    tiny = (RANDOM.standard_normal(count) * 2.0**-70).astype(np.float32)
    return (
        np.concatenate([a, a_middle, tiny]),
        np.concatenate([b, b_middle, tiny]),
        np.concatenate([c, c_middle, tiny * np.float32(2.0**-70)]),
    )


def test_fma_rounds_once() -> None:
    a, b, c = operands_of_fma(300)
    found = arithmetic.fma(a, b, c)
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c)]
    assert [float(x) for x in found] == [nearest_f32(x) for x in exact]
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != found).any(), "no operands here that a sum rounded twice gets wrong"


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_half_arithmetic_rounds_once(kind: str) -> None:
    """Against the same in float32 where that is exact enough, and against fractions for the sum of far numbers."""
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[kind]
    x, y, z = (torch.randn(400).mul(torch.exp2(torch.randint(-8, 8, (400,)))).to(dtype) for _ in range(3))
    a, b, c = (t.view(torch.int16).numpy().view(np.uint16) for t in (x, y, z))
    wide = [t.double() for t in (x, y, z)]
    for name, expected in {
        "add": wide[0] + wide[1],
        "mul": wide[0] * wide[1],
        "fma": wide[0] * wide[1] + wide[2],
        "max": torch.maximum(*wide[:2]),
    }.items():
        arguments = (a, b, c) if name == "fma" else (a, b)
        found = arithmetic.PACKED[f"{name}_{kind}"](*arguments)
        # Exact in float64, all but some sums of three; through float32 they would be rounded twice.
        reference = formats.NARROW[kind](expected.numpy())
        assert (found == reference).all(), name
    words = [formats.joined(t, np.roll(t, 1)) for t in (a, b)]
    halves = formats.halves(arithmetic.PACKED[f"add_{kind}x2"](*words))
    single = arithmetic.PACKED[f"add_{kind}"](a, b)
    assert (halves[0] == single).all()
    assert (halves[1] == np.roll(single, 1)).all()


def test_half_fma_of_far_numbers() -> None:
    """The product decides a tie that float64 no longer sees."""
    a, b, c = (formats.to_bf16(np.float32([x])) for x in (1 + 2.0**-7, 2.0**-8 - 2.0**-15, 2.0**-60))
    assert formats.from_bf16(a) * formats.from_bf16(b) == np.float32(2.0**-8 - 2.0**-22)
    one = formats.to_bf16(np.float32([1]))
    # 1 + 2^-8 is in the middle between two numbers, the even of which is 1.
    middle = arithmetic.PACKED["fma_bf16"](one, formats.to_bf16(np.float32([2.0**-8])), one)
    assert formats.from_bf16(middle) == 1
    total = arithmetic.odd_sum(np.float64([1 + 2.0**-8]), formats.from_bf16(c).astype(np.float64))
    assert formats.from_bf16(formats.to_bf16(total)) == 1 + 2.0**-7


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_rounding_is_torchs(kind: str) -> None:
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[kind]
    x = any_f32(20_000)
    expected = torch.from_numpy(x).to(dtype)
    found = torch.from_numpy(formats.NARROW[kind](x).view(np.int16)).view(dtype)
    is_nan = expected.isnan()
    assert torch.equal(found.isnan(), is_nan)
    assert torch.equal(found[~is_nan].view(torch.int16), expected[~is_nan].view(torch.int16))
    bits = np.arange(2**16, dtype=np.uint16)
    back = torch.from_numpy(bits.view(np.int16)).view(dtype).float()
    assert torch.equal(torch.from_numpy(formats.WIDE[kind](bits)).nan_to_num(7), back.nan_to_num(7))


def test_tf32() -> None:
    x = RANDOM.standard_normal(1000).astype(np.float32)
    rounded = formats.from_tf32(formats.to_tf32(x))
    unit = 2.0 ** (np.floor(np.log2(np.abs(x.astype(np.float64)))) - 10)
    assert (np.abs(rounded.astype(np.float64) - x) <= unit / 2).all()
    assert (rounded / unit == np.round(rounded / unit)).all()
    tie = np.float32([1 + 2.0**-11, -1 - 2.0**-11])
    assert formats.from_tf32(formats.to_tf32(tie)).tolist() == [1 + 2.0**-10, -1 - 2.0**-10]
    assert np.isinf(formats.from_tf32(formats.to_tf32(np.float32([np.inf]))))


def ints(kind: type, count: int = 500) -> np.ndarray:
    info = np.iinfo(kind)
    edges = np.array([info.min, info.max, 0, 1], kind)
    return np.concatenate([RANDOM.integers(info.min, info.max, count, kind, endpoint=True), edges])


def wrapped(value: int, kind: type) -> int:
    return int(np.array(value & (2 ** (8 * np.dtype(kind).itemsize) - 1), f"u{np.dtype(kind).itemsize}").view(kind))


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int64, np.uint64])
def test_integers(kind: type) -> None:
    x, y, n = ints(kind), ints(kind)[::-1].copy(), RANDOM.integers(0, 80, 504).astype(np.uint32)
    y[::7] = 3
    bits = 8 * np.dtype(kind).itemsize
    pairs = list(zip(x.tolist(), y.tolist(), n.tolist()))
    expected = {
        "mulhi": [wrapped(a * b >> bits, kind) for a, b, _ in pairs],
        "div": [wrapped(int(Fraction(a, b)) if b else -1, kind) for a, b, _ in pairs],
        "rem": [wrapped(a - b * int(Fraction(a, b)) if b else a, kind) for a, b, _ in pairs],
        "shl": [wrapped(a << s, kind) for a, _, s in pairs],
        "shr": [wrapped(a >> s, kind) for a, _, s in pairs],
    }
    for name, values in expected.items():
        found = getattr(arithmetic, name)(x, n if name in ("shl", "shr") else y)
        assert found.dtype == kind, name
        assert found.tolist() == values, name


def test_bit_fields() -> None:
    x, y = ints(np.uint32), ints(np.uint32)[::-1].copy()
    start, length = (RANDOM.integers(0, 40, len(x)).astype(np.uint32) for _ in range(2))
    for a, b, s, n, unsigned, signed, inserted in zip(
        *(v.tolist() for v in (x, y, start, length)),
        arithmetic.bfe(x, start, length).tolist(),
        arithmetic.bfe(x.view(np.int32), start, length).tolist(),
        arithmetic.bfi(x, y, start, length).tolist(),
    ):
        mask = (1 << min(n, 32)) - 1
        assert unsigned == (a >> min(s, 32)) & mask
        if n > 0 and s < 32:
            sign = (a >> min(s + n - 1, 31)) & 1
            field = (a >> s) & mask
            top = min(s + n, 32) - s
            assert signed == (field - (1 << top) if sign else field)
        place = (mask << min(s, 32)) & 0xFFFFFFFF
        assert inserted == (b & ~place) | ((a << min(s, 32)) & place)


def test_bytes_and_bits() -> None:
    x, y, z, selector = (ints(np.uint32) for _ in range(4))
    table = 0b11001010  # where a then b else c
    found = arithmetic.lop3(x, y, z, table)
    assert (found == ((x & y) | (~x & z))).all()
    assert arithmetic.popc(x).tolist() == [bin(v).count("1") for v in x.tolist()]
    for a, b, s, word in zip(*(v.tolist() for v in (x, y, selector)), arithmetic.prmt(x, y, selector).tolist()):
        source = a.to_bytes(4, "little") + b.to_bytes(4, "little")
        nibbles = [s >> 4 * i & 15 for i in range(4)]
        chosen = [source[n & 7] if n < 8 else 255 * (source[n & 7] >> 7) for n in nibbles]
        assert word.to_bytes(4, "little") == bytes(chosen)


@pytest.mark.parametrize(
    ("how", "function"), [("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)]
)
def test_float_to_integer(how: str, function) -> None:
    x = np.concatenate([RANDOM.standard_normal(300) * 1e3, [0.5, 1.5, -0.5, -2.5, 1e20, -1e20]]).astype(np.float32)
    for target, kind in (("s32", np.int32), ("u32", np.uint32), ("s8", np.int8)):
        info = np.iinfo(kind)
        expected = [min(max(function(float(v)), info.min), info.max) for v in x]
        assert convert(x, target, "f32", (how,)).tolist() == expected
    assert convert(np.float32([np.nan]), "s32", "f32", (how,)) == 0


def test_integer_to_float() -> None:
    x = ints(np.int64)
    assert convert(x, "f32", "s64", ("rn",)).tolist() == [nearest_f32(Fraction(v)) for v in x.tolist()]
    narrow = convert(ints(np.int32), "s8", "s32", ())
    assert (narrow == ints(np.int32).astype(np.int8)).shape == narrow.shape
    with pytest.raises(NotImplementedError):
        convert(x, "f32", "s64", ("rz",))


def test_halves_are_compared_apart() -> None:
    """``setp`` of words of two numbers: the first predicate is about the lower halves."""
    numbers = [[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [float("nan"), 0.0]]
    words = torch.tensor(numbers, dtype=torch.float16).view(torch.int32)
    result = torch.full((4, 2), -1, dtype=torch.int32)
    body = """
    setp.ge.u32 %p3, %r0, 4;
    @%p3 bra $end;
    mad.wide.u32 %rd5, %r0, 4, %rd0;
    mad.wide.u32 %rd6, %r0, 8, %rd1;
    ld.global.b32 %r6, [%rd5];
    mov.b32 %r9, 1006648320;
    setp.le.f16x2 %p1|%p2, %r6, %r9;
    selp.b32 %r7, 1, 0, %p1;
    selp.b32 %r8, 1, 0, %p2;
    st.global.v2.b32 [%rd6], {%r7, %r8};
    $end:
    """
    execute(body, words, result, threads=32).raise_if_any()
    assert result.tolist() == [[1, 0], [0, 1], [1, 1], [0, 1]]
