"""Thin modules: parameters, ``extra_repr``, one call of a public function."""

from sdn_triton.modules.difference_conv import SemanticDifferenceConv2d
from sdn_triton.modules.fusion import FeatureFusion
from sdn_triton.modules.sdn import SDN, SDNNeck

__all__ = ["SDN", "FeatureFusion", "SDNNeck", "SemanticDifferenceConv2d"]
