"""The list of the smoke run, in the emulator: `make gpu` runs the same on a GPU before all else."""

import json
import re

import pytest

pytest.importorskip("triton")

from emulator.driver import Loaded
from sdn_triton.aot.assembler import assembler_version
from sdn_triton.aot.compile import TARGETS
from sdn_triton.bench.gpu.examples import ExampleTask
from sdn_triton.bench.gpu.hazard_question import SHIPPED, UNGUARDED, HazardTask
from sdn_triton.bench.gpu.smoke import Smoke, families, main
from sdn_triton.bench.gpu.where import Place
from sdn_triton.bench.problems.launches import EXAMPLES

PLACE = Place("sm_90")
IN_SHORT = ("resize",)
"""The families that stand for the others where there is little time."""
MENDED = (13, 3)
"""Since this release ptxas leaves the registers of a product in flight alone."""


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "family", [pytest.param(x.name, marks=[pytest.mark.long] * (x.name not in IN_SHORT)) for x in EXAMPLES]
)
def test_one_right_line_each(family, tmp_path):
    """The command as it is typed."""
    path = tmp_path / "smoke.jsonl"
    assert main(["--out", str(path), "--device", "sm_90", "--family", family]) == 0
    (example,) = (example for example in EXAMPLES if example.name == family)
    rows = lines(path)
    assert [(row["arithmetic"], row["shape"]) for row in rows] == [
        (task.arithmetic, task.shape) for task in families()[family]
    ]
    for row in rows:
        assert (row["family"], row["variant"], row["ok"], row["why"]) == (family, "as chosen", True, None)
        assert row["shares"]
        assert all(0 <= share <= 1 for share in row["shares"].values())
        assert row["seconds"] > 0
        if row["shape"] != "aligned" and (not example.architectures or 90 in example.architectures):
            assert set(row["kernels"]) >= set(example.kernels)


def test_a_family_in_a_process_of_its_own(tmp_path):
    path = tmp_path / "smoke.jsonl"
    task = next(task for task in families()["resize"] if task.arithmetic == "bf16")
    assert Smoke(PLACE, path, apart=True).run({"resize": [task]})
    (row,) = lines(path)
    assert row["ok"]
    assert row["kernels"] == ["resize_gradient"]


@pytest.mark.long
def test_a_kernel_that_is_compiled_wrongly_is_found(tmp_path, monkeypatch):
    """Asynchronous copies go astray, as only loops of several stages have them."""
    program = Loaded.program

    def broken(loaded, edit):
        copy = r"(cp\.async\.c[ag]\.shared\.global \[ %r\d+ \+ )0"
        return program(loaded, lambda text: re.sub(copy, r"\g<1>16", edit(text), count=1))

    monkeypatch.setattr(Loaded, "program", broken)
    (example,) = (example for example in EXAMPLES if example.name == "fusion")
    path = tmp_path / "smoke.jsonl"
    tasks = {"fusion": [ExampleTask(example, "bf16")], "resize": families()["resize"][:1]}
    assert not Smoke(PLACE, path).run(tasks)
    found = {(row["family"], row["variant"]): row for row in lines(path)}
    chosen = found.pop(("fusion", "as chosen"))
    assert chosen["ok"] is False
    assert chosen["why"]
    assert {key: row["ok"] for key, row in found.items()} == {
        ("fusion", "one stage"): True,
        ("fusion", "4 warps"): False,
        ("resize", "as chosen"): True,
    }


@pytest.mark.long
@pytest.mark.parametrize("kernel", ["difference_forward", "block_forward"])
def test_the_hazard_is_seen_where_it_is(kernel, tmp_path):
    """The form that ships is right, and that which waits for no product is not: the emulator reads operands late."""
    path = tmp_path / "smoke.jsonl"
    forms = {form: [HazardTask(kernel, form, stages=3)] for form in (SHIPPED, UNGUARDED)}
    assert Smoke(PLACE, path).run(forms)
    shipped, unguarded = sorted(lines(path), key=lambda row: row["family"])
    assert (shipped["ok"], shipped["wrong_elements"], shipped["hazards_in_machine_code"]) == (True, 0, 0)
    assert shipped["findings"] == []
    assert unguarded["ok"] is None
    assert unguarded["wrong_elements"] > 0
    assert unguarded["findings"]
    assembler = assembler_version(TARGETS["sm_90"])
    assert assembler is not None
    assert (unguarded["hazards_in_machine_code"] > 0) == (tuple(map(int, assembler.split("."))) < MENDED)
