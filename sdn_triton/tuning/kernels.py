"""The kernels that are tuned, by name, and what the host asks of each: nobody else reads anything out of a name."""

from __future__ import annotations

from typing import Literal, NamedTuple


class KernelSpec(NamedTuple):
    """What a kernel is for. Several functions of ``kernels/`` may be one of these, packed and not."""

    family: Literal["difference", "depthwise", "similarity", "block", "fusion"]
    step: Literal["forward", "data_gradient", "weight_gradient", "products"]
    """``products`` are those that a data gradient gathers."""
    has_products: bool = False
    """Whether it forms matrix products."""

    @property
    def is_split(self) -> bool:
        """Whether the sum over pixels is split into parts."""
        return self.step == "weight_gradient"

    @property
    def is_over_input(self) -> bool:
        """Whether its tiles are of the input's pixels and not of the output's."""
        return self.step == "data_gradient"


KERNELS = {
    "difference_forward": KernelSpec("difference", "forward", has_products=True),
    "difference_data_gradient": KernelSpec("difference", "data_gradient"),
    "difference_weight_gradient": KernelSpec("difference", "weight_gradient", has_products=True),
    "tap_products": KernelSpec("difference", "products", has_products=True),
    "edge_products": KernelSpec("difference", "products", has_products=True),
    "depthwise_forward": KernelSpec("depthwise", "forward"),
    "depthwise_data_gradient": KernelSpec("depthwise", "data_gradient"),
    "depthwise_weight_gradient": KernelSpec("depthwise", "weight_gradient"),
    "similarity": KernelSpec("similarity", "forward"),
    "similarity_gradient": KernelSpec("similarity", "data_gradient"),
    "block_forward": KernelSpec("block", "forward", has_products=True),
    "fusion_forward": KernelSpec("fusion", "forward", has_products=True),
    "fusion_data_gradient": KernelSpec("fusion", "data_gradient", has_products=True),
    "fusion_weight_gradient": KernelSpec("fusion", "weight_gradient", has_products=True),
}
PRODUCT_KERNELS = tuple(name for name, spec in KERNELS.items() if spec.has_products)
DEPTHWISE_KERNELS = tuple(name for name, spec in KERNELS.items() if spec.family == "depthwise")
