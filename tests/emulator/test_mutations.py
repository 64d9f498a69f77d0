"""Would the emulator notice a mistake of the compiler? One thing in the PTX of a kernel is changed at a time."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from emulator import MODES, Emulation, KernelFaultError, Mode, emulated
from sdn_triton.aot.examples import DTYPES
from sdn_triton.bench.problems.launches import EXAMPLES
from sdn_triton.launch import fusion
from sdn_triton.options import FusionArguments

pytestmark = pytest.mark.sampled(3)


@dataclass(frozen=True)
class Mutation:
    """What ``pattern`` finds in the PTX of a kernel becomes ``text``: the first, or everywhere where ``count`` is 0."""

    pattern: str
    text: str = ""
    count: int = 1

    def apply(self, text: str) -> str:
        changed = re.sub(self.pattern, self.text, text, count=self.count)
        assert changed != text, "there is nothing to change"
        return changed


FIRST_COPY = r"(cp\.async\.c[ag]\.shared\.global \[ %r\d+ \+ )0"
MUTATIONS = {
    "sm_80": {
        "no-barriers": Mutation(r"bar\.sync\s+0;", count=0),
        "barriers-of-warps-only": Mutation(r"bar\.sync\s+0;", "bar.warp.sync -1;", count=0),
        "no-barrier-before-the-product": Mutation(r"bar\.sync\s+0;(?=\s+ldmatrix)"),
        "no-barrier-before-the-stores": Mutation(r"bar\.sync\s+0;(?=(\s+//.*|\s+\.loc.*)*\s+st\.shared\.b16)"),
        "stores-without-predicate": Mutation(r"@%p\d+ (st\.global)", r"\1", count=0),
        "loads-without-predicate": Mutation(r"@%p\d+ (ld\.global)", r"\1", count=0),
        "negated-predicate-of-a-load": Mutation(r"@(%p\d+ ld\.global)", r"@!\1"),
        "negated-predicate-of-a-store": Mutation(r"@(%p\d+ st\.global)", r"@!\1"),
        "offset-of-a-load": Mutation(r"(ld\.global\.b16 \{ %rs\d+ \}, \[ %rd\d+ \+ )0", r"\g<1>2"),
        "offset-of-a-store": Mutation(r"(st\.global[.\w]* \[ %rd\d+ \+ )0", r"\g<1>64"),
        "offset-of-a-store-to-shared-memory": Mutation(r"(st\.shared\.b16 \[ %r\d+ \+ )0", r"\g<1>2"),
        "offset-of-ldmatrix": Mutation(r"(ldmatrix[^;]*\[%r\d+)", r"\1+16"),
        "ldmatrix-transposed": Mutation(r"\.x4\.shared", ".x4.trans.shared", count=0),
        "operands-of-mma": Mutation(r"\{ (%r\d+), (%r\d+), (%r\d+), (%r\d+) \}, \{", r"{ \1, \3, \2, \4 }, {"),
        "one-trip": Mutation(r"(setp\.lt\.s32 .*\n(?:.*\n){0,2}?\s+)@(%p\d+ bra)", r"\1@!\2"),
        "copies-not-waited-for": Mutation(r"cp\.async\.wait_group\s+\d+;", count=0),
        "target-of-a-copy": Mutation(FIRST_COPY, r"\g<1>4"),
        "a-copy-of-zeros": Mutation(r"(0x4, )%r\d+", r"\g<1>0", count=0),
    },
    "sm_90": {
        "no-barriers": Mutation(r"bar\.sync\s+0;", count=0),
        "no-barrier-before-the-product": Mutation(r"(fence\.proxy\.async[^;]*;\s+)bar\.sync\s+0;", r"\1"),
        "no-barrier-before-the-operand-is-stored": Mutation(r"bar\.sync\s+0;"),
        "no-barrier-after-the-wait-for-copies": Mutation(r"(cp\.async\.wait_group\s+\d+;\s+)bar\.sync\s+0;", r"\1"),
        "no-proxy-fence": Mutation(r"fence\.proxy\.async[^;]*;", count=0),
        "products-not-waited-for": Mutation(r"wgmma\.wait_group[^;]*;", count=0),
        "products-waited-for-too-late": Mutation(r"(wgmma\.wait_group[^;]*) 0;", r"\1 1;", count=0),
        "products-not-committed": Mutation(r"wgmma\.commit_group[^;]*;", count=0),
        "no-wgmma-fence": Mutation(r"wgmma\.fence[^;]*;", count=0),
        "copies-not-waited-for": Mutation(r"cp\.async\.wait_group\s+\d+;", count=0),
        "copies-waited-for-too-late": Mutation(r"cp\.async\.wait_group\s+[1-9];", "cp.async.wait_group 7;", count=0),
        "copies-not-committed": Mutation(r"cp\.async\.commit_group;", count=0),
        "a-copy-of-zeros": Mutation(r"(0x4, )%r\d+", r"\g<1>0", count=0),
        "target-of-a-copy": Mutation(FIRST_COPY, r"\g<1>16"),
        "operand-transposed": Mutation(r"(wgmma\.mma_async[^;]*), 0;", r"\1, 1;", count=0),
        "a-product-that-starts-anew": Mutation(r"(wgmma\.mma_async[^;]*\}, .*?, .*?, )%p\d+", r"\1 0", count=0),
    },
    "sm_100": {
        "no-barriers": Mutation(r"bar\.sync\s+0;", count=0),
        "no-proxy-fence": Mutation(r"fence\.proxy\.async[^;]*;", count=0),
        "products-not-waited-for": Mutation(r"mbarrier\.try_wait[^;]*;\s+@!complete bra\.uni waitLoop;", count=0),
        "products-not-committed": Mutation(r"@%p\d+ tcgen05\.commit[^;]*;", count=0),
        "products-of-all-threads": Mutation(r"@%p\d+ (tcgen05\.mma)", r"\1", count=0),
        "mbarrier-that-expects-two": Mutation(r"(mbarrier\.init[^;]*), 1;", r"\1, 2;", count=0),
        "mbarriers-not-made": Mutation(r"@%p\d+ mbarrier\.init[^;]*;", count=0),
        "stores-not-waited-for": Mutation(r"tcgen05\.wait::st[^;]*;", count=0),
        "loads-not-waited-for": Mutation(r"tcgen05\.wait::ld[^;]*;", count=0),
        "lanes-of-the-first-warp": Mutation(r"(shl\.b32\s+%r\d+, %r\d+, )21;", r"\g<1>31;", count=0),
        "columns-of-a-load": Mutation(r"(tcgen05\.ld[^;]*\+ )0\]", r"\g<1>1]"),
        "not-given-back": Mutation(r"@%p\d+ tcgen05\.dealloc[^;]*;"),
        "operand-of-a-product": Mutation(r"(tcgen05\.mma[^;]*\], )(%rd\d+), (%rd\d+)", r"\1\3, \2"),
        "copies-not-waited-for": Mutation(r"cp\.async\.wait_group\s+\d+;", count=0),
    },
}
"""Of the fusion's forward in bf16: each changes what the kernel means."""

EQUIVALENT = {
    "sm_80": {
        "a-barrier-twice": Mutation(r"(bar\.sync\s+0;)", r"\1 \1", count=0),
        "copies-waited-for-too-early": Mutation(r"cp\.async\.wait_group\s+\d+;", "cp.async.wait_all;", count=0),
    },
    "sm_90": {
        # Two buffers are filled before anybody has read either.
        "no-barrier-between-the-first-copies": Mutation(r"(wgmma\.wait_group[\s\S]*?)bar\.sync\s+0;", r"\1"),
        "copies-waited-for-too-early": Mutation(r"cp\.async\.wait_group\s+\d+;", "cp.async.wait_all;", count=0),
        # Shared memory is ordered for the one proxy by barriers, for the other by the fence that is there as well.
        "two-proxy-fences": Mutation(r"(fence\.proxy\.async[^;]*;)", r"\1 \1", count=0),
    },
    "sm_100": {
        "loads-waited-for-twice": Mutation(r"(tcgen05\.wait::ld[^;]*;)", r"\1 \1", count=0),
        "permit-kept": Mutation(r"@%p\d+ tcgen05\.relinquish[^;]*;"),
    },
}
"""Changes that take nothing away: what is found here would be wrong."""


def run(architecture: str, mode: Mode, edit: Callable[[str], str] = str) -> tuple[torch.Tensor | None, Emulation]:
    """The fusion's output, None where it did not get to its end."""
    example = next(example for example in EXAMPLES if example.name == "fusion")
    with torch.no_grad(), emulated(architecture, mode, edit=edit, is_strict=False) as emulation:
        a = example.arguments(DTYPES["bf16"], torch.device("cpu"))
        arguments = FusionArguments(a.input, a.response, a.fusion_weight, a.fusion_bias, a.scale, a.shift)
        try:
            return fusion.forward(arguments, "relu"), emulation
        except (KernelFaultError, NotImplementedError):
            return None, emulation


def same(found: torch.Tensor | None, expected: torch.Tensor) -> bool:
    return found is not None and torch.equal(found, expected)


@pytest.mark.parametrize(("architecture", "name"), [(a, name) for a in MUTATIONS for name in MUTATIONS[a]])
def test_mutations_are_noticed(architecture: str, name: str) -> None:
    expected, sound = run(architecture, MODES["in-step"])
    assert not sound.findings.kinds
    found, emulation = run(architecture, MODES["in-step"], MUTATIONS[architecture][name].apply)
    assert emulation.findings.kinds or not same(found, expected)


@pytest.mark.parametrize(("architecture", "name"), [(a, name) for a in EQUIVALENT for name in EQUIVALENT[a]])
def test_equivalent_changes_are_not(architecture: str, name: str) -> None:
    expected, _ = run(architecture, MODES["in-step"])
    for mode in ("in-step", "random"):
        found, emulation = run(architecture, MODES[mode], EQUIVALENT[architecture][name].apply)
        assert not emulation.findings.kinds
        assert same(found, expected)
