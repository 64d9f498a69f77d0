"""The neck under its name in mmengine's registry, for the configurations of mmsegmentation and its relatives.

Importing this module registers :class:`sdn_triton.SDNNeck` in mmengine's root registry of models, which mmsegmentation,
mmdetection and others look in after their own. It needs mmengine, not mmcv. In a configuration:

.. code-block:: python

    custom_imports = dict(imports=["sdn_triton.integrations.mmseg"], allow_failed_imports=False)
    model = dict(neck=dict(type="SDNNeck", in_channels=[32, 64, 160, 256], zero_init=True))
"""

from __future__ import annotations

from sdn_triton.modules import SDNNeck

try:
    from mmengine.registry import MODELS
except ImportError as error:
    raise ImportError("sdn_triton.integrations.mmseg needs mmengine: pip install mmengine") from error

MODELS.register_module(name="SDNNeck", module=SDNNeck)
