"""What the yardstick says of a layer is what the instrument says of the kernels that the layer launches."""

import json

import pytest

pytest.importorskip("triton")

from sdn_triton.bench.machine_code.examination import KernelCase, examine
from sdn_triton.bench.yardstick import __main__ as yardstick
from sdn_triton.bench.yardstick.other_ways import PASSES, WAYS, Layer


def test_a_pass_takes_what_its_kernels_take():
    """In pairs the data gradient has two kernels, over several strips; the simulation and the bound add up."""
    layer = Layer("sm_90", "bf16", "channels_last", 256)
    launches, _ = yardstick.recorded(layer, "data_gradient")
    assert len(launches) > 2
    found = yardstick.ours(layer, "data_gradient")
    names = ["edge_products", "difference_data_gradient"]
    assert [kernel["kernel"] for kernel in found["kernels"]] == names
    rows = [examine(KernelCase(name, "sm_90", "bf16", 256, 256), with_range=False) for name in names]
    for kernel, row in zip(found["kernels"], rows):
        assert {key: kernel[key] for key in yardstick.KEPT} == {key: row[key] for key in yardstick.KEPT}
    assert found["ratio"] == pytest.approx(sum(row["ratio"] for row in rows))


def test_the_command_writes_every_figure_of_a_layer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(yardstick, "layers", lambda: [Layer("sm_80", "tf32", "contiguous", 64)])
    monkeypatch.setattr(yardstick, "WAYS", {"compiled": WAYS["compiled"]})
    file = tmp_path / "y.json"
    assert yardstick.main([f"--json={file}"]) == 0
    content = json.loads(file.read_text())
    assert content["environment"].keys() == {"time", "triton", "git"}
    (cell,) = content["cells"]
    assert cell["others"] == {"compiled": WAYS["compiled"](Layer("sm_80", "tf32", "contiguous", 64))}
    for name in PASSES:
        kernels = cell["ours"][name]["kernels"]
        products = ["tap_products"] if name == "data_gradient" else []
        assert [kernel["kernel"] for kernel in kernels] == [*products, f"difference_{name}"]
        for kernel in kernels:
            row = examine(KernelCase(kernel["kernel"], "sm_80", "tf32", 64, 64, "contiguous"), with_range=False)
            assert kernel["ratio"] == row["ratio"]
            assert kernel["ratio_is"] == "bound"
        assert cell["ours"][name]["ratio"] == pytest.approx(sum(kernel["ratio"] for kernel in kernels))


def test_a_kernel_that_cannot_be_trusted_is_no_figure(monkeypatch):
    layer = Layer("sm_80", "tf32", "contiguous", 64)
    for broken in ({"error": "not understood"}, {"hazards": 3}, {"fits": False}):
        row = dict.fromkeys(yardstick.KEPT) | {"error": None, "hazards": 0, "fits": True} | broken
        monkeypatch.setattr(yardstick, "examine", lambda *_, row=row, **__: row)
        with pytest.raises(ValueError, match=r"difference_forward: (not understood|its code cannot be trusted)"):
            yardstick.ours(layer, "forward")
