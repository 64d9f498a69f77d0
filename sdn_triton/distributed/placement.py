"""DTensors that are sharded by rows, and the images that ranks compute with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from sdn_triton.checks import shape
from sdn_triton.distributed.images import Image
from sdn_triton.distributed.rows import Rows
from sdn_triton.outputs import memory_format

ROWS = Shard(2)


def own_rows(height: int, mesh: DeviceMesh) -> range:
    """The rows that this rank holds of an image of ``height`` rows placed ``[Shard(2)]`` on a mesh of one dimension.

    All ranks hold alike but for the last ones, which may hold less or nothing.

    Raises:
        ValueError: the mesh has more than one dimension.

    Example:
        >>> import torch.distributed as dist
        >>> from torch.distributed.tensor import init_device_mesh
        >>> dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        >>> own_rows(4096, init_device_mesh("cpu", (1,)))
        range(0, 4096)
        >>> dist.destroy_process_group()
    """
    if mesh.ndim != 1:
        raise ValueError(f"mesh must have one dimension, that of the rows, got {mesh.ndim}; take a part: mesh['rows']")
    return _rows_of(height, mesh, mesh_dim=0).own


def from_own_rows(local: Tensor, height: int, mesh: DeviceMesh) -> DTensor:
    """The image ``[N, C, height, W]`` of which every rank has ``local``, its :func:`own_rows`; nothing is sent.

    It exists because ``DTensor.from_local`` takes it that all ranks hold as many rows.

    Raises:
        ValueError: ``local`` is not of that many rows, or the mesh has more than one dimension.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from torch.distributed.tensor import init_device_mesh
        >>> dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        >>> from_own_rows(torch.randn(1, 8, 6, 4), 6, init_device_mesh("cpu", (1,))).placements
        (Shard(dim=2),)
        >>> dist.destroy_process_group()
    """
    rows = own_rows(height, mesh)
    if local.dim() != 4 or local.shape[2] != len(rows):
        raise ValueError(
            f"local must be [N, C, {len(rows)}, W], this rank's rows {rows.start} to {rows.stop} of {height}, "
            f"got {shape(local)}"
        )
    return _placed(local, (*local.shape[:2], height, local.shape[3]), mesh, (ROWS,), memory_format(local))


def as_image(name: str, value: object, like: object) -> Image:
    """The rows of ``value`` that this rank holds; it must be sharded by rows on the mesh that ``like`` is on."""
    if not isinstance(value, DTensor):
        raise TypeError(f"{name} must be a DTensor with its rows sharded, got {type(value).__name__}")
    if value.dim() != 4:
        raise ValueError(f"{name} must have the shape [N, C, H, W], got {shape(value)}")
    other_axes = [placement for placement in value.placements if placement != ROWS]
    if len(other_axes) != len(value.placements) - 1 or not all(p in (Shard(0), Replicate()) for p in other_axes):
        raise ValueError(
            f"{name} must be placed Shard(2), by rows, along one dimension of its mesh and Shard(0) or Replicate() "
            f"along all others, got {tuple(value.placements)}"
        )
    if isinstance(like, DTensor) and (value.device_mesh, value.placements) != (like.device_mesh, like.placements):
        raise ValueError(
            f"{name} is placed {tuple(value.placements)} on {value.device_mesh}, "
            f"but the first argument {tuple(like.placements)} on {like.device_mesh}; all must be placed alike"
        )
    rows = _rows_of(value.shape[2], value.device_mesh, value.placements.index(ROWS))
    local = value.to_local()
    if local.shape[2] != len(rows.own):
        raise ValueError(
            f"{name} has {local.shape[2]} rows on this rank, but of {value.shape[2]} rows it must hold those from "
            f"{rows.own.start} to {rows.own.stop}; sdn_triton.distributed.from_own_rows places them so"
        )
    return Image(local, rows)


def as_dtensor(image: Image, like: DTensor) -> DTensor:
    """``image`` as a DTensor that is placed as ``like`` is."""
    _, C, _, W = image.local.shape
    size = like.shape[0], C, image.rows.height, W
    return _placed(image.local, size, like.device_mesh, like.placements, memory_format(like))


def _rows_of(height: int, mesh: DeviceMesh, mesh_dim: int) -> Rows:
    return Rows.chunked(height, mesh.get_group(mesh_dim))


def _placed(
    local: Tensor,
    size: tuple[int, ...],
    mesh: DeviceMesh,
    placements: tuple[Placement, ...],
    memory_format: torch.memory_format,
) -> DTensor:
    whole = torch.empty(size, device="meta", memory_format=memory_format)
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride())
