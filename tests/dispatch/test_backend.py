"""Which path runs: chosen, forced, explained, and said when it is not the fast one."""

import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

import sdn_triton.backend as backend
from sdn_triton import (
    SDN,
    BackendUnavailableError,
    SDNNeck,
    SemanticDifferenceConv2d,
    explain,
    feature_fusion,
    semantic_difference_conv2d,
)
from sdn_triton.options import BACKENDS
from sdn_triton.tuning.configs import INTERPRETER, Target
from sdn_triton.tuning.pretended import pretended

X = torch.randn(1, 4, 6, 6)
K = torch.randn(4, 4, 3, 3)


class OnCuda:
    """Stands for a CUDA tensor where there is no GPU: the choice looks at the device only."""

    device, is_cuda = torch.device("cuda", 0), True


def test_auto_is_eager_on_the_cpu_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.choose("auto", X, lambda: pytest.fail("asked")) == (
            "eager",
            "the tensors are on cpu",
        )


def test_auto_is_triton_on_cuda():
    assert backend.choose("auto", OnCuda(), lambda: None)[0] == "triton"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_pretended_device_takes_cpu_and_meta_tensors(name):
    wanted = "eager" if name == "eager" else "triton"
    for x in (X, X.to("meta")):
        with pretended(Target("cuda", 90, 132)):
            assert backend.choose(name, x, lambda: None)[0] == wanted


def test_a_fallback_warns_once_per_reason():
    backend._warn_once.cache_clear()
    for reason, expected in (("float64", 1), ("float64", 0), ("something else", 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert backend.choose("auto", OnCuda(), lambda: reason) == ("eager", reason)  # type: ignore[arg-type]
        assert len(caught) == expected
        assert all(reason in str(w.message) for w in caught)


def test_a_forced_backend_that_cannot_run_raises_with_the_reason():
    with pretended(INTERPRETER), pytest.raises(BackendUnavailableError, match="float64"):
        semantic_difference_conv2d(X.double(), X.double(), K.double(), backend="triton")


def test_the_meta_device_gives_sizes_for_every_backend():
    x, k = X.to("meta").to(memory_format=torch.channels_last), K.to("meta")
    for name in BACKENDS:
        output = semantic_difference_conv2d(x, x, k, padding=1, backend=name)
        assert output.is_meta
        assert output.shape == X.shape
        assert output.is_contiguous(memory_format=torch.channels_last)


def test_forced_triton_on_the_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailableError, match="TRITON_INTERPRET=1"):
        semantic_difference_conv2d(X, X, K, backend="triton")


@pytest.mark.skipif(not backend.is_interpreted(), reason="needs TRITON_INTERPRET=1")
def test_explain_names_path_reason_and_configs_of_every_operator():
    neck = SDNNeck([4, 8], backend="triton").eval()
    text = str(explain(neck, [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)]))
    assert text.count("semantic_difference_conv2d: triton (backend='triton')") == 1
    assert text.count("feature_fusion: triton") == 1
    assert all(f"in stages.{i}.{part}\n" in text for i in (0, 1) for part in ("sdc", "fusion"))
    assert text.count("    difference_forward: ") == 2  # with its configuration, and where that comes from
    assert "(interpreter)" in text


def test_explain_runs_nothing():
    sdn = SDN(4)
    before = {k: v.clone() for k, v in sdn.state_dict().items()}
    explanation = explain(sdn, X, X)
    assert [d.path for d in explanation.decisions] == ["eager", "eager"]
    assert all(torch.equal(before[k], v) for k, v in sdn.state_dict().items())


def test_explain_functions_and_strangers():
    assert "eager (the tensors are on cpu)" in str(explain(semantic_difference_conv2d, X, X, K, padding=1))
    assert "feature_fusion: eager" in str(explain(feature_fusion, X, X, torch.randn(2, 8, 1, 1), backend="eager"))
    assert str(explain(torch.nn.ReLU(), X)) == "no sdn_triton operator was called"
    with pytest.raises(ValueError, match="weight"):
        explain(semantic_difference_conv2d, X, X, K[:, :2])


def test_explain_sees_layers_deep_in_a_network():
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), SemanticDifferenceConv2d(8, 2), torch.nn.ReLU())
    assert [d.operator for d in explain(network, X).decisions] == ["semantic_difference_conv2d"]


def test_explain_sees_layers_that_are_compiled():
    """Compiled code says nothing of decisions: they are those of the code as written."""
    layer = SemanticDifferenceConv2d(4, 2)
    compiled = torch.compile(torch.nn.Sequential(layer), backend="eager")
    assert [d.module for d in explain(compiled, X).decisions] == ["_orig_mod.0"]
    function = torch.compile(lambda x: layer(x), backend="eager")
    assert str(explain(function, X)) == str(explain(lambda x: layer(x), X))
    layer.compile(backend="eager")
    assert [d.module for d in explain(torch.nn.Sequential(layer), X).decisions] == ["0"]


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch, sdn_triton
sdn = sdn_triton.SDN(4)
sdn(torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)).sum().backward()
assert sdn.sdc.weight.grad is not None
try:
    sdn_triton.semantic_difference_conv2d(*[torch.randn(1, 1, 4, 4)] * 2, torch.randn(1, 1, 3, 3), backend="triton")
except sdn_triton.BackendUnavailableError as error:
    assert "triton" in str(error) and "install" in str(error), error
else:
    raise AssertionError("a forced backend that is not there has to raise")
print("fine")
"""

IMPORT_ONLY = """
import sys, sdn_triton, torch
layer = sdn_triton.SemanticDifferenceConv2d(2, 2, padding=1)
layer(torch.randn(1, 2, 5, 5)).sum().backward()
assert not torch.cuda.is_initialized()
assert "sdn_triton.launch.difference_conv" not in sys.modules  # the kernels are imported when they are first taken
print("fine")
"""


@pytest.mark.parametrize("code", [WITHOUT_TRITON, IMPORT_ONLY], ids=["triton-uninstalled", "no-driver-touched"])
def test_imports_and_runs_on_the_cpu(code):
    environment = {**os.environ, "TRITON_INTERPRET": "1" if code is WITHOUT_TRITON else "0", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"


@pytest.mark.parametrize("name", ["triton", "pytorch-triton-rocm"])
@pytest.mark.parametrize(("installed", "runs"), [("3.2.0", False), ("3.5.1+rocm", False), ("3.6.0", True)])
def test_an_old_triton_is_named(monkeypatch, name, installed, runs):
    support = pytest.importorskip("sdn_triton.launch.support")

    def distributions(name: str, wanted: str = name):
        return [SimpleNamespace(version=installed)] if name == wanted else []

    monkeypatch.setattr(support, "distributions", distributions)
    support._why_no_triton.cache_clear()
    try:
        why = support._why_no_triton()
    finally:
        support._why_no_triton.cache_clear()
    assert why is None if runs else why == f"the kernels need triton 3.6 or newer, this is {installed}"
