"""Make torchvision importable beside a torch that its compiled operators were not built for.

On PyPI torchvision is built for CUDA. Beside a CPU build of torch its library does not load, its operators are not
there, and ``import torchvision``, which registers fakes for them, fails; timm, segmentation_models_pytorch and parts of
transformers fail with it. Networks need none of these operators, so here they get schemas and nothing else.
"""

import importlib.util
from pathlib import Path

import torch

NAMES = (
    "nms",
    "qnms",
    "deform_conv2d",
    "_deform_conv2d_backward",
    "qroi_align",
    *(f"{prefix}{kind}{suffix}" for kind in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
      for prefix, suffix in (("", ""), ("_", "_backward"))),
)  # fmt: skip


def define_if_missing() -> torch.library.Library | None:
    """Schemas for torchvision's operators, if it is installed and its own do not load; they live as long as this."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for library in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return None
    schemas = torch.library.Library("torchvision", "DEF")
    for name in NAMES:
        schemas.define(f"{name}(Tensor input) -> Tensor")
    return schemas
