"""Semantic Diffusion Network layers for PyTorch: Triton kernels where there is a GPU, plain PyTorch everywhere."""

from sdn_triton._version import __version__
from sdn_triton.attachment import attach, detach
from sdn_triton.backend import BackendUnavailableError
from sdn_triton.contrast import suggest_contrast
from sdn_triton.explanation import Explanation, explain
from sdn_triton.export import decomposed
from sdn_triton.functional import feature_fusion, semantic_difference_conv2d
from sdn_triton.modules import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d
from sdn_triton.solver import anisotropic_diffusion

__all__ = [
    "SDN",
    "BackendUnavailableError",
    "Explanation",
    "FeatureFusion",
    "SDNNeck",
    "SemanticDifferenceConv2d",
    "__version__",
    "anisotropic_diffusion",
    "attach",
    "decomposed",
    "detach",
    "explain",
    "feature_fusion",
    "semantic_difference_conv2d",
    "suggest_contrast",
]


def __dir__() -> list[str]:
    """What is public, and none of what is imported for it."""
    return sorted(__all__)
