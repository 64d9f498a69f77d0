"""The layers, the block and the neck on images whose rows are spread over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

from sdn_triton.distributed.images import Image, conv2d, difference_conv, pointwise, resize
from sdn_triton.distributed.placement import as_dtensor, as_image
from sdn_triton.distributed.rows import summed_gradients
from sdn_triton.functional import feature_fusion
from sdn_triton.modules import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d
from sdn_triton.modules.batch_norm import batch_statistics, frozen_statistics, uses_running_statistics
from sdn_triton.modules.pyramid import check_stages, in_the_form_of, stages_of
from sdn_triton.normalisation import moments

BatchNorm = nn.modules.batchnorm._BatchNorm
_KINDS = (SemanticDifferenceConv2d, FeatureFusion, SDN, SDNNeck)


class RowSharded(nn.Module):
    """A layer, block or neck of this library on images whose rows are spread over ranks.

    ``module`` is called as before, with DTensors in the place of tensors: placed ``Shard(2)`` along one dimension of
    their mesh and ``Shard(0)`` or ``Replicate()`` along all others. The outputs are placed as the inputs are. Each rank
    computes its own rows and fetches from others the few that these read: for any kernel, dilation, stride and padding
    mode, from as many ranks away as it takes. Guidance may be of another size. No rank ever holds a whole image.

    Every rank holds all parameters, as plain tensors. Their gradients are summed over the ranks that share an image,
    once a backward, so that each rank has those of the whole image. Data parallelism goes around it as around any
    module (DistributedDataParallel, or ``fully_shard`` applied to the whole of it), and averages as usual.

    In training, batch normalisation takes its statistics over the ranks that share an image; ``nn.SyncBatchNorm`` over
    its own group, by default all ranks. Derivatives of these statistics are of first order only.

    Args:
        module: a :class:`~sdn_triton.SemanticDifferenceConv2d`, :class:`~sdn_triton.FeatureFusion`,
            :class:`~sdn_triton.SDN` or :class:`~sdn_triton.SDNNeck`; its parameters are used, not copied.

    Raises:
        TypeError: the module is of another kind, or an argument is no DTensor.
        ValueError: a DTensor is not sharded by rows, or the arguments are spread over different ranks.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
        >>> from sdn_triton import SDN
        >>> from sdn_triton.distributed import RowSharded
        >>> dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        >>> mesh = init_device_mesh("cpu", (1,))
        >>> features = distribute_tensor(torch.randn(1, 8, 64, 32), mesh, [Shard(2)])
        >>> guidance = distribute_tensor(torch.randn(1, 8, 32, 16), mesh, [Shard(2)])
        >>> output = RowSharded(SDN(8))(features, guidance)
        >>> output.shape, output.placements
        (torch.Size([1, 8, 64, 32]), (Shard(dim=2),))
        >>> dist.destroy_process_group()
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if not isinstance(module, _KINDS):
            names = ", ".join(kind.__name__ for kind in _KINDS)
            raise TypeError(f"module must be one of {names}, got {type(module).__name__}")
        self.module = module

    def forward(self, *images: Any) -> Any:
        """Call the module on DTensors whose rows are sharded: a neck with the sequence of its stages."""
        arguments: tuple[Any, ...] = images
        if isinstance(self.module, SDNNeck):
            (features,) = images
            arguments = stages_of(features)
            check_stages(arguments, len(self.module.stages), self.module.in_channels)
        parts = [as_image(f"argument {place}", image, arguments[0]) for place, image in enumerate(arguments)]
        names, parameters = _trained(self.module)
        shared = dict(zip(names, summed_gradients(parts[0].rows.group, *parameters)))
        outputs = functional_call(_Rows(self.module), {f"module.{name}": p for name, p in shared.items()}, (parts,))
        if isinstance(outputs, Image):
            return as_dtensor(outputs, arguments[0])
        return in_the_form_of(features, [as_dtensor(output, image) for output, image in zip(outputs, arguments)])


def _trained(module: nn.Module) -> tuple[list[str], list[Tensor]]:
    """The names and values of the parameters that get gradients."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        if isinstance(parameter, DTensor):
            raise TypeError(f"parameter {name} is a DTensor; here every rank holds all parameters as plain tensors")
    return list(trained), list(trained.values())


class _Rows(nn.Module):
    """Calls the right function of ``module`` and images; a module so that parameters can be exchanged for the call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Sequence[Image]) -> Image | tuple[Image, ...]:
        module = self.module
        if isinstance(module, SDNNeck):
            return _neck(module, images)
        if isinstance(module, SDN):
            return _block(module, *images)
        return _fusion(module, *images) if isinstance(module, FeatureFusion) else _layer(module, *images)


def _layer(layer: Any, input: Image, guidance: Image | None = None) -> Image:
    return difference_conv(
        input,
        input if guidance is None else guidance,
        layer.weight,
        layer.bias,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        padding_mode=layer.padding_mode,
        diffusivity=layer.diffusivity,
        contrast=layer.current_contrast(),
        similarity=layer.similarity,
        backend=layer.backend,
    )


def _fusion(fusion: FeatureFusion, input: Image, response: Image) -> Image:
    """A pixel at a time: nothing is exchanged but the statistics."""
    scale, shift = _affine(fusion.norm, response)

    def fuse(u: Tensor, y: Tensor) -> Tensor:
        return feature_fusion(
            u,
            y,
            fusion.weight,
            fusion.bias,
            scale=scale,
            shift=shift,
            activation=fusion.activation,
            backend=fusion.backend,
        )

    return pointwise(fuse, input, response)


def _block(sdn: SDN, input: Image, guidance: Image | None = None) -> Image:
    guidance = input if guidance is None else guidance
    sdn.check_guidance(guidance.local)
    if sdn.project is not None:
        guidance = pointwise(sdn.project, guidance)
    guidance = resize(guidance, input.local.shape[3], input.rows)
    return _fusion(sdn.fusion, input, _layer(sdn.sdc, input, guidance))


def _neck(neck: SDNNeck, stages: Iterable[Image]) -> tuple[Image, ...]:
    images = tuple(stages)
    guidance = (*images[1:], conv2d(images[-1], neck.guidance))
    return tuple(_block(sdn, own, guide) for sdn, own, guide in zip(neck.stages, images, guidance))  # type: ignore[arg-type]


def _affine(norm: nn.Module, response: Image) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch normalisation, in training from the statistics of all ranks."""
    if not isinstance(norm, BatchNorm):
        raise TypeError(f"norm must be a batch normalisation on images spread over ranks, got {type(norm).__name__}")
    if uses_running_statistics(norm):
        return frozen_statistics(norm).scale_and_shift()
    group: dist.ProcessGroup | None = response.rows.group
    if isinstance(norm, nn.SyncBatchNorm):
        group = norm.process_group or dist.group.WORLD
    assert group is not None
    return batch_statistics(norm, *moments(response.local, group)).scale_and_shift()
