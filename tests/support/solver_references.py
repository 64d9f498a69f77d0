"""Anisotropic diffusion as others define it, from their documents and sources, in numpy and float64.

Images are ``[H, W]``, those of OpenCV ``[H, W, 3]``. None of this shares code with the library.
"""

from __future__ import annotations

import math

import numpy as np

CONDUCTANCES = {
    "charbonnier": lambda d: 1 / math.sqrt(1 + d * d),
    "exponential": lambda d: math.exp(-d * d),
    "rational": lambda d: 1 / (1 + d * d),
    "constant": lambda d: 1.0,
}


def ours(image, guidance, steps, step, diffusivity, contrast, spacing=(1.0, 1.0)):
    """The formula of the documentation, pixel by pixel and neighbour by neighbour."""
    u, g = np.array(image, np.float64), CONDUCTANCES[diffusivity]
    for _ in range(steps):
        z, new = (u if guidance is None else guidance), u.copy()
        for y, x in np.ndindex(u.shape):
            for dy, dx, h in ((0, 1, spacing[1]), (0, -1, spacing[1]), (1, 0, spacing[0]), (-1, 0, spacing[0])):
                q = y + dy, x + dx
                if 0 <= q[0] < u.shape[0] and 0 <= q[1] < u.shape[1]:
                    new[y, x] += step * g((z[q] - z[y, x]) / h / contrast) * (u[q] - u[y, x]) / h**2
        u = new
    return u


def medpy(image, niter, kappa, gamma, option, spacing=(1.0, 1.0)):
    """``medpy.filter.anisotropic_diffusion``: differences are not divided by the spacing, fluxes are, once."""
    u = np.array(image, np.float64)
    for _ in range(niter):
        change = np.zeros_like(u)
        for axis in (0, 1):
            d = np.diff(u, axis=axis)
            g = np.exp(-((d / kappa) ** 2)) if option == 1 else 1 / (1 + (d / kappa) ** 2)
            width = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
            change += np.diff(np.pad(g * d / spacing[axis], width), axis=axis)
        u = u + gamma * change
    return u


def central_differences(u):
    """Along rows and along columns, half as large at the border."""
    padded = np.pad(u, 1, mode="edge")
    return (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2, (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2


def itk(image, steps, time_step, conductance, interval=1):
    """``GradientAnisotropicDiffusionImageFilter``: a conductance of the whole gradient, half-way to a neighbour.

    The contrast is the conductance times the root mean square of the gradient (central differences), which is taken
    anew every ``interval`` steps.
    """
    u = np.array(image, np.float64)
    for i in range(steps):
        central = central_differences(u)
        if i % interval == 0:
            scale = 2 * conductance**2 * np.mean(central[0] ** 2 + central[1] ** 2)
        change = np.zeros_like(u)
        for axis, across in enumerate(reversed(central)):
            d = np.diff(np.pad(u, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge"), axis=axis)
            beside = np.pad(across, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
            first, second = (
                np.take(beside, range(d.shape[axis]), axis),
                np.take(beside, range(1, d.shape[axis] + 1), axis),
            )
            flux = np.exp(-(d**2 + ((first + second) / 2) ** 2) / scale) * d
            change += np.diff(flux, axis=axis)
        u = u + time_step * change
    return u


def opencv(image, alpha, contrast, niters):
    """``cv2.ximgproc.anisotropicDiffusion``: 8 neighbours of weight 1, whose channels' differences are added up.

    ``contrast`` is in grey levels: OpenCV's ``K`` times ``3 * 255``. Every step is rounded to 8 bits.
    """
    u = np.array(image, np.float64)
    rows, columns = u.shape[:2]
    for _ in range(niters):
        padded, change = np.pad(u, ((1, 1), (1, 1), (0, 0)), mode="edge"), np.zeros_like(u)
        for dy, dx in np.ndindex(3, 3):
            d = padded[dy : dy + rows, dx : dx + columns] - u
            change += np.exp(-((np.abs(d).sum(-1, keepdims=True) / contrast) ** 2)) * d
        u = np.rint(u + alpha * change)
    return u
