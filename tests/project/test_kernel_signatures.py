"""Triton functions with so many parameters that nobody reads them are a thing of the past."""

from importlib import import_module
from pkgutil import iter_modules

import pytest

pytest.importorskip("triton")

import sdn_triton.kernels

MOST_PARAMETERS = 40
MODULES = [module.name for module in iter_modules(sdn_triton.kernels.__path__)]


def parameters_of(name: str) -> dict[str, list[str]]:
    """The parameters of the Triton functions of a module."""
    module = import_module(f"sdn_triton.kernels.{name}")
    functions = [f for f in vars(module).values() if hasattr(f, "arg_names") and f.fn.__module__ == module.__name__]
    return {f.fn.__name__: f.arg_names for f in functions}


@pytest.mark.parametrize("name", MODULES)
def test_no_function_has_too_many_parameters(name):
    """Strides, steps and contrast are tuples of ``kernels/arguments.py``, pixels and the border one ``Geometry``."""
    too_long = {function: len(names) for function, names in parameters_of(name).items() if len(names) > MOST_PARAMETERS}
    assert not too_long


def test_the_functions_are_found():
    assert {"paired_forward_kernel", "load_edge"} <= {*parameters_of("paired_forward"), *parameters_of("difference")}
