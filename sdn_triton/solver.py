"""The iterative process that the difference convolution stands in for, as an operator of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.checks import check_contrast, check_like, check_name, check_tensor, shape
from sdn_triton.eager.diffusivity import diffusivity as evaluate
from sdn_triton.options import DIFFUSIVITIES, Contrast


def anisotropic_diffusion(
    input: Tensor,
    guidance: Tensor | None = None,
    *,
    num_steps: int = 1,
    step_size: float | None = None,
    diffusivity: str = "charbonnier",
    contrast: Contrast = 1.0,
) -> Tensor:
    r"""Diffuse an image, or any features, along but not across the edges of the guidance.

    .. math:: u_p \leftarrow u_p + \mathrm{step} \sum_{q \in N(p)} g(z_q - z_p)\,(u_q - u_p)

    for ``num_steps`` explicit steps over the 4 neighbours in 2-D and the 6 in 3-D, with zero-flux borders, so that the
    mean is conserved. ``z`` is the guidance, or ``u`` itself, as it is before each step, if none is given.

    Args:
        input: ``[N, C, H, W]``, or ``[N, C, D, H, W]`` in 3-D.
        guidance: of the shape of ``input``, or None.
        num_steps: how many steps.
        step_size: at most 1/4 in 2-D and 1/6 in 3-D, which is the default: larger steps are unstable.
        diffusivity: ``"charbonnier"``, ``"exponential"``, ``"rational"`` or ``"constant"``.
        contrast: ``k > 0`` in units of ``z``: a float, a 0-d tensor, or one value per channel ``[C]``.

    Returns:
        A tensor of the shape and dtype of ``input``. Plain PyTorch: any device, differentiable in every tensor.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it and says what is allowed.

    Source: Perona and Malik 1990, explicit scheme.

    Example:
        >>> import torch
        >>> spike = torch.zeros(1, 1, 3, 3)
        >>> spike[0, 0, 1, 1] = 1.0
        >>> anisotropic_diffusion(spike, diffusivity="constant")[0, 0, 1]
        tensor([0.2500, 0.0000, 0.2500])
    """
    check_tensor("input", input, layout="[N, C, H, W] or [N, C, D, H, W]", ranks=(4, 5))
    dimensions = input.dim() - 2
    if guidance is not None:
        check_tensor("guidance", guidance, layout="of input's shape", ranks=(input.dim(),))
        check_like("guidance", guidance, input)
        if guidance.shape != input.shape:
            raise ValueError(f"guidance {shape(guidance)} must have the shape of input {shape(input)}")
    check_name("diffusivity", diffusivity, DIFFUSIVITIES)
    check_contrast(contrast, input.shape[1], input)
    if num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {num_steps}")
    limit = 1 / (2 * dimensions)
    step_size = limit if step_size is None else step_size
    if not 0 < step_size <= limit:
        raise ValueError(
            f"step_size must be positive and at most 1/{2 * dimensions} in {dimensions}-D, where the explicit scheme "
            f"is stable, got {step_size}"
        )
    if isinstance(contrast, Tensor):
        contrast = contrast.to(input.dtype).reshape(-1, *[1] * dimensions)
    for _ in range(num_steps):
        input = _step(input, input if guidance is None else guidance, step_size, diffusivity, contrast)
    return input


def _step(u: Tensor, z: Tensor, step_size: float, diffusivity: str, contrast: Contrast) -> Tensor:
    change = torch.zeros_like(u)
    for axis in range(2, u.dim()):
        distance = torch.diff(z, dim=axis) / contrast
        flux = evaluate(diffusivity, distance * distance) * torch.diff(u, dim=axis)
        border = torch.zeros_like(u.narrow(axis, 0, 1))  # nothing flows through it
        change = change + torch.diff(flux, dim=axis, prepend=border, append=border)
    return u + step_size * change
