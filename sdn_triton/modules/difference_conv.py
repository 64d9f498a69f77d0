"""The semantic difference convolution as a layer."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from sdn_triton.checks import (
    Padding,
    Size,
    check_contrast,
    check_kernel_size,
    check_name,
    integer,
    pair,
    resolve_padding,
    shape,
)
from sdn_triton.dispatch_state import is_symbolic, symbolic_call
from sdn_triton.functional import semantic_difference_conv2d
from sdn_triton.options import (
    BACKENDS,
    DIFFUSIVITIES,
    PADDING_MODES,
    SIMILARITIES,
    Backend,
    Contrast,
    Diffusivity,
    PaddingMode,
    Similarity,
)


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
        contrast: ``k > 0`` in units of the guidance: a float or a tensor, ``[]`` or ``[in_channels]``. Whatever its
            form, it is part of the state: saved, loaded and moved with the layer. Assigning ``layer.contrast`` sets it,
            a learned one too; ``current_contrast()`` reads it.
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
    _initial_contrast: Any  # as numbers; None where it is not known
    padding: tuple[int, ...]  # in numbers, whatever it was given as
    padding_mode: PaddingMode  # type: ignore[assignment]  # one more than nn.Conv2d's

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
        padding_mode: PaddingMode = "zeros",
        *,
        diffusivity: Diffusivity = "charbonnier",
        contrast: Contrast = 1.0,
        learn_contrast: bool = False,
        similarity: Similarity = "channel",
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_channels, out_channels = integer("in_channels", in_channels), integer("out_channels", out_channels)
        groups = integer("groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide the {in_channels} channels of input and the {out_channels} of output, got {groups}"
            )
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
        if kernel == (1, 1):
            raise ValueError("kernel_size must have more than its middle tap, got (1, 1): all output would be the bias")
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
        self.contrast = contrast

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "contrast":
            self._set_contrast(value)
        else:
            super().__setattr__(name, value)

    def _set_contrast(self, contrast: Contrast) -> None:
        """Take a contrast of any form: a number stays one, a tensor becomes a buffer, a learned one gets its values."""
        self._checked(contrast)
        if self.learn_contrast:
            self._set_learned_contrast(contrast)
        elif isinstance(contrast, nn.Parameter):
            super().__setattr__("contrast", contrast)
        else:
            for held in (self.__dict__, self._buffers, self._parameters):
                held.pop("contrast", None)
            if not isinstance(contrast, Tensor):
                self.__dict__["contrast"] = float(contrast)
            else:  # one that asks for a gradient is to get it
                self.register_buffer("contrast", contrast if contrast.requires_grad else self._placed(contrast).clone())
        # Numbers, so that a layer made on the meta device still knows them.
        if not isinstance(contrast, Tensor):
            self._initial_contrast = float(contrast)
        else:
            self._initial_contrast = None if contrast.is_meta else contrast.tolist()

    def _set_learned_contrast(self, contrast: Contrast) -> None:
        value = self._placed(contrast)
        if not hasattr(self, "log_contrast"):
            # Never 0-d: fully_shard takes no such parameter.
            self.log_contrast = nn.Parameter(value.log().reshape(-1))
            self._contrast_shape = value.shape
            return
        if value.numel() not in (1, self.log_contrast.numel()):
            raise ValueError(
                f"contrast must be one number, as this layer learns one for all channels, got {shape(value)}; "
                "make the layer with one value per channel to learn as many"
            )
        with torch.no_grad():
            self.log_contrast.copy_(value.log())

    def _placed(self, contrast: Contrast | list[float]) -> Tensor:
        """A contrast where the layer is, in float32 or wider."""
        value = contrast.detach() if isinstance(contrast, Tensor) else contrast
        dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        return torch.as_tensor(value, dtype=dtype, device=self.weight.device)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if "contrast" in self.__dict__:  # a number, with all its digits
            destination[f"{prefix}contrast"] = torch.as_tensor(self.contrast, dtype=torch.float64, device="cpu")

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load a contrast of whatever form; where the state has this layer without one, keep the own and say so."""
        state, key = dict(state_dict), f"{prefix}contrast"
        try:
            has_contrast = self._translate_contrast(state, key, f"{prefix}log_contrast")
        except (TypeError, ValueError) as error:
            error_msgs.append(f"{key}: {error}")
            has_contrast = True
        missing: list[str] = []
        super()._load_from_state_dict(state, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        missing_keys += [name for name in missing if name != key]
        if has_contrast:
            return
        if any(name.startswith(prefix) for name in state):
            warnings.warn(
                "a checkpoint has a difference convolution without its contrast, as those from before contrasts were "
                f"part of the state: the layer keeps contrast={self._shown_contrast()}. Assign the one that it was "
                "trained with, or give it to attach(..., contrast=...)",
                stacklevel=2,
            )
        elif strict:
            missing_keys.append(key)

    def _translate_contrast(self, state: dict[str, Any], key: str, learned_key: str) -> bool:
        """Put the contrast of ``state`` into this layer's form, or this layer into its form; whether it has one."""
        if self.learn_contrast:
            if learned_key not in state and key in state:
                state[learned_key] = self._checked(state.pop(key)).log().to(self.log_contrast.dtype).reshape(-1)
            if learned_key in state and state[learned_key].numel() == 1 < self.log_contrast.numel():
                state[learned_key] = state[learned_key].expand_as(self.log_contrast)
            return True  # where it is missing, PyTorch says so: it is a parameter
        value = state.pop(key, None)
        if value is None and learned_key in state:
            value = state.pop(learned_key).exp()
        if value is None:
            return False
        value = self._checked(value)
        if isinstance(self.contrast, Tensor) and self.contrast.numel() == value.numel():
            state[key] = value.reshape(self.contrast.shape)
        elif value.dim() == 0:
            self.contrast = value.item()
        else:
            self.contrast = state[key] = value
        return True

    def _checked(self, contrast: Any) -> Any:
        """A contrast, if it is one for this layer: one value, of whatever shape, is 0-d."""
        contrast = contrast.reshape(()) if isinstance(contrast, Tensor) and contrast.numel() == 1 else contrast
        check_contrast(contrast, self.in_channels if self.similarity == "channel" else None)
        return contrast

    def reset_parameters(self) -> None:
        """Initialise weight and bias as ``nn.Conv2d`` does, and set a learned contrast or a tensor as at first."""
        super().reset_parameters()
        initial = getattr(self, "_initial_contrast", None)  # nn.Conv2d's constructor is too early for it
        if initial is None:
            return
        with torch.no_grad():
            if self.learn_contrast:
                self.log_contrast.copy_(self._placed(initial).log())
            elif isinstance(self.contrast, Tensor):
                self.contrast.copy_(self._placed(initial))

    def current_contrast(self) -> Contrast:
        """The contrast that the next call uses; a differentiable tensor if it is learned."""
        return self.log_contrast.exp().view(self._contrast_shape) if self.learn_contrast else self.contrast

    def forward(self, input: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Convolve the differences of ``input``, damped where ``guidance`` (None: ``input`` itself) differs."""
        if is_symbolic(input):
            return symbolic_call(self, input, guidance)
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
        contrast = "learned" if self.learn_contrast else self._shown_contrast()
        return (
            f"{super().extra_repr()}, diffusivity={self.diffusivity}, contrast={contrast}, "
            f"similarity={self.similarity}, backend={self.backend}"
        )

    def _shown_contrast(self) -> str:
        return f"Tensor{shape(self.contrast)}" if isinstance(self.contrast, Tensor) else str(self.contrast)
