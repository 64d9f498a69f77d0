"""The feature fusion as a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdn_triton.backend import prefers_triton
from sdn_triton.checks import check_name, integer
from sdn_triton.dispatch_state import is_symbolic, symbolic_call
from sdn_triton.functional import feature_fusion
from sdn_triton.modules import batch_norm
from sdn_triton.normalisation import moments
from sdn_triton.options import ACTIVATIONS, BACKENDS, Activation, Backend


class FeatureFusion(nn.Module):
    r"""Normalise and activate a response, and fuse it with the features by a 1x1 convolution.

    .. math:: z = K\,[\,u,\ \mathrm{relu}(\mathrm{BatchNorm}(y))\,] + b

    ``weight`` ``[O, C + R, 1, 1]`` and ``bias`` are a 1x1 convolution's, initialised as ``nn.Conv2d``'s; ``norm`` is a
    real ``nn.BatchNorm2d`` over the ``R`` response channels, which ``SyncBatchNorm.convert_sync_batchnorm`` converts.
    In evaluation the normalisation is applied while the response is read.

    Args:
        in_channels: ``C``.
        response_channels: ``R``.
        out_channels: ``O``; None is ``C``.
        bias: whether the convolution has a bias.
        activation: ``"relu"`` or ``"identity"``.
        zero_init: make the output equal the input at first (needs ``out_channels == in_channels``).
        eps, momentum: of the batch normalisation.
        backend: ``"auto"``, ``"triton"`` or ``"eager"``.

    Shape:
        input ``[N, C, H, W]``, response ``[N, R, H, W]``, output ``[N, O, H, W]``.

    Example:
        >>> import torch
        >>> fusion = FeatureFusion(8, 4)
        >>> fusion(torch.randn(2, 8, 16, 16), torch.randn(2, 4, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        response_channels: int,
        out_channels: int | None = None,
        *,
        bias: bool = True,
        activation: Activation = "relu",
        zero_init: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_name("activation", activation, ACTIVATIONS)
        check_name("backend", backend, BACKENDS)
        super().__init__()
        self.in_channels = integer("in_channels", in_channels)
        self.response_channels = response_channels = integer("response_channels", response_channels)
        self.out_channels = self.in_channels if out_channels is None else integer("out_channels", out_channels)
        self.activation = activation
        self.zero_init = zero_init
        self.backend = backend
        self.norm: nn.Module = nn.BatchNorm2d(response_channels, eps=eps, momentum=momentum, device=device, dtype=dtype)
        channels = self.in_channels + response_channels
        self.weight = nn.Parameter(torch.empty(self.out_channels, channels, 1, 1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weight and bias as ``nn.Conv2d`` does or, with ``zero_init``, as an identity."""
        if self.zero_init:
            self.reset_to_identity()
        else:
            nn.Conv2d.reset_parameters(self)  # type: ignore[arg-type]

    def reset_to_identity(self) -> None:
        """Make the output equal the input, whatever the response; training leaves from there."""
        if self.out_channels != self.in_channels:
            raise ValueError(
                f"an output that equals the input needs as many channels: out_channels={self.out_channels}, "
                f"in_channels={self.in_channels}"
            )
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            self.weight[:, : self.in_channels, 0, 0].fill_diagonal_(1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor, response: Tensor) -> Tensor:
        """Fuse ``input`` with the normalised, activated ``response``."""
        if is_symbolic(input):
            return symbolic_call(self, input, response)
        scale, shift = self._affine(response)
        if scale is None:
            response = self.norm(response)
        return feature_fusion(
            input,
            response,
            self.weight,
            self.bias,
            scale=scale,
            shift=shift,
            activation=self.activation,
            backend=self.backend,
        )

    def _affine(self, response: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The normalisation as scale and shift that are applied while the response is read; None where it is called."""
        norm: Any = self.norm
        if not batch_norm.is_plain(norm):
            return None, None
        if batch_norm.uses_running_statistics(norm):
            return batch_norm.frozen_statistics(norm).scale_and_shift()
        group = batch_norm.group_of(norm)
        if group is None or not prefers_triton(self.backend, response):
            return None, None
        # Other ranks may run this block fused. What is sent between them must not depend on what one of them can do.
        return batch_norm.batch_statistics(norm, *moments(response, group)).scale_and_shift()

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.response_channels}, out_channels={self.out_channels}, "
            f"bias={self.bias is not None}, activation={self.activation}, backend={self.backend}"
        )
