"""What has to be said in several places is said in all of them: CONTRIBUTING.md has the lists."""

import inspect
import re
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
from support import oracle
from support.places import README

from sdn_triton import SemanticDifferenceConv2d, anisotropic_diffusion, ops, semantic_difference_conv2d
from sdn_triton.bench.machine_code import kernel_work
from sdn_triton.bench.proofs import __main__ as proofs
from sdn_triton.eager import difference_conv as eager
from sdn_triton.eager.diffusivity import FORMULAS
from sdn_triton.ops.operator import Operator
from sdn_triton.ops.path import PathOperator, path_module
from sdn_triton.options import DIFFUSIVITIES, DifferenceOptions
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.tiles import TILES

PLACES = {"sdn_triton/eager/diffusivity.py": FORMULAS, "tests/support/oracle.py": oracle.DIFFUSIVITIES}


@pytest.mark.parametrize("place", PLACES)
def test_every_diffusivity_has_its_formula(place):
    assert set(PLACES[place]) == set(DIFFUSIVITIES), f"{place} and sdn_triton/options.py name other diffusivities"


@pytest.mark.parametrize("name", DIFFUSIVITIES)
def test_every_diffusivity_is_documented(name):
    for what in (semantic_difference_conv2d, SemanticDifferenceConv2d, anisotropic_diffusion):
        assert f'``"{name}"``' in inspect.getdoc(what), f"the docstring of {what.__name__} does not name {name!r}"
    (line,) = re.findall(r"^\| diffusivity (.+?) \|", README.read_text(), re.MULTILINE)
    assert name in line.split(", "), f"the table of what runs where in README.md does not name {name!r}"


@pytest.mark.parametrize("similarity", ["channel", "vector"])
@pytest.mark.parametrize("name", DIFFUSIVITIES)
def test_every_diffusivity_has_kernels(name, similarity, device):
    """``kernels/diffusivity.py``: the formula and its slope, in the forward and in the gradient of the guidance."""
    pytest.importorskip("triton")
    from support.difference_calls import run

    from sdn_triton.launch import difference_conv as launch

    options = DifferenceOptions((1, 3), padding=(0, 1), diffusivity=name, similarity=similarity)
    tensors = [torch.randn(shape, device=device) for shape in ((1, 2, 3, 5), (1, 2, 3, 5), (3, 2, 1, 3), (3,))]
    call = [*tensors, 0.7, torch.randn(1, 3, 3, 5, device=device)]
    expected = oracle.sdc(*(x.cpu().numpy() for x in tensors), padding=(0, 1), g=name, k=0.7, similarity=similarity)

    def assert_close(found, expected, where):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=lambda m: f"{where} of {name!r}: {m}")

    output, *gradients = run(launch, call, options)
    assert_close(output.cpu(), torch.from_numpy(expected).float(), "kernels/diffusivity.py has another formula")
    _, *others = run(eager, call, options)
    for gradient, other in zip(gradients, others, strict=True):
        assert_close(gradient, other, "kernels/ and sdn_triton/eager/diffusivity.py have other slopes")


def operators() -> list[type[PathOperator]]:
    """Every class of an operator in ``sdn_triton/ops/`` that is complete."""
    found: list[type[PathOperator]] = [PathOperator]
    for module in iter_modules(ops.__path__, f"{ops.__name__}."):
        import_module(module.name)
    for operator in found:
        found += [below for below in operator.__subclasses__() if below not in found]
    return [operator for operator in found if not inspect.isabstract(operator) and hasattr(operator, "name")]


@pytest.mark.parametrize("operator", operators(), ids=lambda operator: operator.name)
def test_every_operator_has_both_paths(operator):
    pytest.importorskip("triton")
    steps = {"forward", "backward"} if issubclass(operator, Operator) else {"forward"}
    for path in ("eager", "triton"):
        module = path_module(path, operator.module)
        assert steps <= set(vars(module)), f"{module.__name__} has no {steps - set(vars(module))}"


def test_every_tuned_kernel_has_its_work():
    """``bench/machine_code/kernel_work.py``; bench/README.md says that those of vector similarity have none."""
    found = {*kernel_work.KERNELS, "similarity", "similarity_gradient"}
    assert found == set(KERNELS), "bench/machine_code/kernel_work.py and tuning/kernels.py name other kernels"


def test_every_tuned_kernel_has_its_proof():
    """What ``make prove`` says something of."""
    assert {*proofs.LAUNCHES} == set(KERNELS), "bench/proofs/__main__.py and tuning/kernels.py name other kernels"
    assert {*proofs.PACKED_LAUNCHES} <= set(KERNELS)


def test_every_tuned_kernel_has_its_tiles():
    assert set(TILES) == set(KERNELS), "sdn_triton/tuning/tiles.py and kernels.py name other kernels"
