"""The iterative process that the difference convolution stands in for, as an operator of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from operator import index
from typing import Any

import torch
from torch import Tensor

from sdn_triton.checks import check_contrast, check_like, check_name, check_tensor, shape
from sdn_triton.eager.diffusivity import diffusivity as evaluate
from sdn_triton.eager.layouts import compute_dtype
from sdn_triton.ops.autocast import autocast_dtype, cast
from sdn_triton.options import DIFFUSIVITIES, Contrast, Diffusivity


def anisotropic_diffusion(
    input: Tensor,
    guidance: Tensor | None = None,
    *,
    num_steps: int = 1,
    step_size: float | None = None,
    diffusivity: Diffusivity = "charbonnier",
    contrast: Contrast = 1.0,
    spacing: float | Sequence[float] = 1.0,
) -> Tensor:
    r"""Diffuse an image, or any features, along but not across the edges of the guidance.

    .. math:: u_p \leftarrow u_p + \mathrm{step} \sum_{q \in N(p)}
              g\!\left(\frac{z_q - z_p}{h_{pq}}\right) \frac{u_q - u_p}{h_{pq}^2}

    for ``num_steps`` explicit steps over the 4 neighbours in 2-D and the 6 in 3-D, with zero-flux borders, so that the
    mean is conserved. ``z`` is the guidance, or ``u`` itself, as it is before each step, if none is given; ``h`` is the
    distance between the two pixels. docs/solver.md compares it with OpenCV's, SimpleITK's and medpy's.

    Args:
        input: ``[N, C, H, W]``, or ``[N, C, D, H, W]`` in 3-D.
        guidance: of the shape of ``input``, or None.
        num_steps: how many steps; with 0 the result is a copy.
        step_size: at most 1/4 in 2-D and 1/6 in 3-D, which is the default: larger steps are unstable. With ``spacing``
            at most ``1 / (2 sum of 1 / h^2)`` over the axes.
        diffusivity: ``"charbonnier"``, ``"exponential"``, ``"rational"`` or ``"constant"``.
        contrast: ``k > 0`` in units of ``z``, by distance: a float, a 0-d tensor, or one value per channel ``[C]``.
        spacing: ``h``, the distance between neighbours: one for all axes, or ``(rows, columns)``, in 3-D
            ``(planes, rows, columns)``, apart.

    Returns:
        A new tensor of the shape and dtype of ``input``; under autocast of autocast's dtype, as ``conv2d``'s. Half
        types are computed in float32 through all steps and rounded once. Plain PyTorch: any device, differentiable in
        every tensor.

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
    dtype = autocast_dtype(input)
    if dtype is not None:
        with torch.autocast(input.device.type, enabled=False):
            input, guidance = cast(dtype, input, guidance)
            return anisotropic_diffusion(
                input,
                guidance,
                num_steps=num_steps,
                step_size=step_size,
                diffusivity=diffusivity,
                contrast=contrast,
                spacing=spacing,
            )
    check_tensor("input", input, layout="[N, C, H, W] or [N, C, D, H, W]", ranks=(4, 5))
    dimensions = input.dim() - 2
    if guidance is not None:
        check_tensor("guidance", guidance, layout="of input's shape", ranks=(input.dim(),))
        check_like("guidance", guidance, input)
        if guidance.shape != input.shape:
            raise ValueError(f"guidance {shape(guidance)} must have the shape of input {shape(input)}")
    check_name("diffusivity", diffusivity, DIFFUSIVITIES)
    check_contrast(contrast, input.shape[1], input)
    steps = _steps(num_steps)
    distances = _spacings(spacing, dimensions)
    step = _step_size(step_size, distances)
    wide = compute_dtype(input)
    u = input.to(wide) if steps else input.clone()
    z = None if guidance is None else guidance.to(wide)
    k = _wide_contrast(contrast, wide, dimensions)
    for _ in range(steps):
        u = _step(u, u if z is None else z, step, diffusivity, k, distances)
    return u.to(input.dtype)


def _steps(num_steps: Any) -> int:
    if isinstance(num_steps, bool) or not hasattr(num_steps, "__index__"):
        raise TypeError(f"num_steps must be an int, got {num_steps!r}")
    if num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {num_steps}")
    return index(num_steps)


def _spacings(spacing: Any, dimensions: int) -> tuple[float, ...]:
    """One distance an axis."""
    spacings: Any = (spacing,) * dimensions if isinstance(spacing, Real) else spacing
    is_given = isinstance(spacings, Sequence) and all(isinstance(h, Real) and not isinstance(h, bool) for h in spacings)
    if not is_given:
        raise TypeError(f"spacing must be a float or one for each of the {dimensions} axes, got {spacing!r}")
    if len(spacings) != dimensions or not all(0 < h < math.inf for h in spacings):
        raise ValueError(
            f"spacing must be positive and finite, one number or one for each of the {dimensions} axes, got {spacing!r}"
        )
    return tuple(float(h) for h in spacings)


def _step_size(step_size: Any, spacings: tuple[float, ...]) -> float:
    """The step that was asked for, if it is stable; the largest that is, if none was."""
    dimensions = len(spacings)
    is_unit = all(h == 1 for h in spacings)
    limit = 1 / (2 * dimensions) if is_unit else 1 / (2 * sum(h**-2 for h in spacings))
    step: Any = limit if step_size is None else step_size
    if isinstance(step, bool) or not isinstance(step, Real):
        raise TypeError(f"step_size must be a float, got {step_size!r}")
    value = float(step)
    if not 0 < value <= limit:
        most = f"1/{2 * dimensions} in {dimensions}-D" if is_unit else f"{limit:.6g} with spacing={spacings}"
        raise ValueError(
            f"step_size must be positive and at most {most}, where the explicit scheme is stable, got {step_size}"
        )
    return value


def _wide_contrast(contrast: Contrast, wide: torch.dtype, dimensions: int) -> Contrast:
    """The contrast where it divides differences; what is less than the least number that ``wide`` has becomes that."""
    least = torch.finfo(wide).tiny
    if isinstance(contrast, Tensor):
        return contrast.to(wide).clamp(min=least).reshape(-1, *[1] * dimensions)
    return max(float(contrast), least)


def _step(
    u: Tensor, z: Tensor, step_size: float, diffusivity: str, contrast: Contrast, spacings: tuple[float, ...]
) -> Tensor:
    most = math.sqrt(torch.finfo(u.dtype).max) / 2  # of what can be squared; g is 0 long before
    change = torch.zeros_like(u)
    for axis, h in enumerate(spacings, start=2):
        distance = (_by(torch.diff(z, dim=axis), h) / contrast).clamp(-most, most)
        flux = evaluate(diffusivity, distance * distance) * _by(torch.diff(u, dim=axis), h * h)
        border = torch.zeros_like(u.narrow(axis, 0, 1))  # nothing flows through it
        change = change + torch.diff(flux, dim=axis, prepend=border, append=border)
    return u + step_size * change


def _by(difference: Tensor, distance: float) -> Tensor:
    return difference if distance == 1 else difference / distance
