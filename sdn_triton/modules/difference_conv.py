"""The semantic difference convolution as a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdn_triton.checks import Padding, Size, check_contrast, check_kernel_size, check_name, pair, resolve_padding, shape
from sdn_triton.functional import semantic_difference_conv2d
from sdn_triton.options import BACKENDS, DIFFUSIVITIES, PADDING_MODES, SIMILARITIES, Contrast


class SemanticDifferenceConv2d(nn.Conv2d):
    r"""A semantic difference convolution with its weight: an ``nn.Conv2d`` of differences between pixels.

    .. math:: y[o,p] = b[o] + \sum_{c,\ q \ne p} K[o,c,q-p]\; g(v[c,q] - v[c,p])\; (u[c,q] - u[c,p])

    See :func:`sdn_triton.semantic_difference_conv2d` for the formula's parts, borders and similarity axis. Parameters
    ``weight`` and ``bias`` are named, laid out and initialised as ``nn.Conv2d``'s.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as for ``nn.Conv2d``; kernel
            sizes are odd.
        padding_mode: ``nn.Conv2d``'s modes and ``"zero_flux"``.
        diffusivity: ``"charbonnier"``, ``"exponential"``, ``"rational"`` or ``"constant"``.
        contrast: ``k > 0`` in units of the guidance: a float or a tensor, ``[]`` or ``[in_channels]``.
        learn_contrast: train ``contrast``, by its logarithm ``log_contrast`` (``[1]`` or ``[in_channels]``), so that it
            stays positive.
        similarity: ``"channel"`` or ``"vector"``.
        backend: ``"auto"``, ``"triton"`` or ``"eager"``.

    Shape:
        input ``[N, C, H, W]``, guidance ``[N, Cg, H, W]`` or None (the input guides itself); output as ``nn.Conv2d``.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it and says what is allowed.

    Example:
        >>> import torch
        >>> layer = SemanticDifferenceConv2d(8, 16, 3, padding=1)
        >>> layer(torch.randn(2, 8, 32, 32), torch.randn(2, 8, 32, 32)).shape
        torch.Size([2, 16, 32, 32])
    """

    contrast: float | Tensor
    padding_mode: str  # type: ignore[assignment]  # one more than nn.Conv2d's

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        diffusivity: str = "charbonnier",
        contrast: Contrast = 1.0,
        learn_contrast: bool = False,
        similarity: str = "channel",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_name("padding_mode", padding_mode, PADDING_MODES)
        check_name("diffusivity", diffusivity, DIFFUSIVITIES)
        check_name("similarity", similarity, SIMILARITIES)
        check_name("backend", backend, BACKENDS)
        kernel, strides, dilations = (
            pair("kernel_size", kernel_size, 1),
            pair("stride", stride, 1),
            pair("dilation", dilation, 1),
        )
        check_kernel_size(kernel)
        check_contrast(contrast, in_channels if similarity == "channel" else None)
        resolved = resolve_padding(padding, kernel, strides, dilations)
        # nn.Conv2d does not know "zero_flux", and its own padding is never used.
        super().__init__(
            in_channels, out_channels, kernel, strides, resolved, dilations, groups, bias, device=device, dtype=dtype
        )
        self.padding_mode = padding_mode
        self.diffusivity = diffusivity
        self.similarity = similarity
        self.backend = backend
        self.learn_contrast = learn_contrast
        self._set_contrast(contrast, device)

    def _set_contrast(self, contrast: Contrast, device: torch.device | str | None) -> None:
        # Numbers, so that a layer made on the meta device still knows them.
        readable = not (isinstance(contrast, Tensor) and contrast.is_meta)
        self._initial_contrast = (
            (contrast.tolist() if isinstance(contrast, Tensor) else float(contrast)) if readable else None
        )
        value = torch.as_tensor(contrast, dtype=torch.float32, device=device)
        if self.learn_contrast:
            # Never 0-d: fully_shard takes no such parameter.
            self.log_contrast = nn.Parameter(value.detach().log().reshape(-1))
            self._contrast_shape = value.shape
        elif isinstance(contrast, Tensor):
            self.register_buffer("contrast", value.detach().clone())
        else:
            self.contrast = float(contrast)

    def reset_parameters(self) -> None:
        """Initialise weight and bias as ``nn.Conv2d`` does, and set a learned contrast or a tensor as at first."""
        super().reset_parameters()
        initial = getattr(self, "_initial_contrast", None)  # nn.Conv2d's constructor is too early for it
        if initial is None:
            return
        with torch.no_grad():
            if self.learn_contrast:
                self.log_contrast.copy_(torch.tensor(initial, device="cpu").log())
            elif isinstance(self.contrast, Tensor):
                self.contrast.copy_(torch.tensor(initial, device="cpu"))

    def current_contrast(self) -> Contrast:
        """The contrast that the next call uses; a differentiable tensor if it is learned."""
        return self.log_contrast.exp().view(self._contrast_shape) if self.learn_contrast else self.contrast

    def forward(self, input: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Convolve the differences of ``input``, damped where ``guidance`` (None: ``input`` itself) differs."""
        return semantic_difference_conv2d(
            input,
            input if guidance is None else guidance,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
            diffusivity=self.diffusivity,
            contrast=self.current_contrast(),
            similarity=self.similarity,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        contrast = "learned" if self.learn_contrast else self.contrast
        shown = contrast if isinstance(contrast, (str, float)) else f"Tensor{shape(contrast)}"
        return (
            f"{super().extra_repr()}, diffusivity={self.diffusivity}, contrast={shown}, "
            f"similarity={self.similarity}, backend={self.backend}"
        )
