"""The iterative solver: its formula, dtypes, contrasts and spacing, and what other libraries call by its name."""

import numpy as np
import pytest
import torch
from support import solver_references as others
from support.devices import DEVICE
from torch import Tensor

from sdn_triton import anisotropic_diffusion
from sdn_triton.options import DIFFUSIVITIES

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def picture(rows: int = 24, columns: int = 20) -> np.ndarray:
    """Two smooth areas and an edge, in [0, 1], with noise: an image as such filters are used for."""
    y, x = np.mgrid[:rows, :columns]
    noise = np.random.default_rng(0).normal(0, 0.03, (rows, columns))
    return np.clip(0.25 + 0.5 * (x + 0.5 * y > columns / 2 + 4) + 0.1 * np.sin(y / 3) + noise, 0, 1)


def solve(image: np.ndarray, **options) -> np.ndarray:
    return anisotropic_diffusion(torch.from_numpy(image)[None, None], **options)[0, 0].numpy()


@pytest.mark.parametrize("spacing", [1.0, (1.0, 1.0), (0.5, 2.0)], ids=str)
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("diffusivity", DIFFUSIVITIES)
def test_formula(diffusivity, guided, spacing):
    image = picture(7, 6)
    guidance = np.random.default_rng(1).random((7, 6)) if guided else None
    options = dict(step_size=0.1, diffusivity=diffusivity, contrast=0.2)
    distances = (spacing, spacing) if isinstance(spacing, float) else spacing
    wanted = others.ours(image, guidance, 3, 0.1, diffusivity, 0.2, distances)
    given = None if guidance is None else torch.from_numpy(guidance)[None, None]
    found = solve(image, guidance=given, num_steps=3, spacing=spacing, **options)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_spacing_is_a_change_of_units():
    """Twice the distances and half the contrast, of a slope, are the same with four times the step, the default one."""
    image = picture()
    plain = solve(image, num_steps=5, contrast=0.2)
    np.testing.assert_allclose(solve(image, num_steps=5, contrast=0.1, spacing=2.0), plain, atol=1e-12)
    volume = torch.rand(1, 1, 3, 4, 5, dtype=torch.float64)
    stretched = anisotropic_diffusion(volume, num_steps=4, spacing=(1e9, 1.0, 1.0), contrast=0.3)
    planes = [anisotropic_diffusion(plane, num_steps=4, contrast=0.3) for plane in volume.unbind(2)]
    torch.testing.assert_close(stretched, torch.stack(planes, 2))


@HALF
def test_half_types_are_computed_in_float32_and_rounded_once(dtype):
    image = torch.rand(1, 2, 24, 20, device=DEVICE).to(dtype)
    guidance = torch.rand_like(image)
    for given in (None, guidance):
        wide = None if given is None else given.float()
        exact = anisotropic_diffusion(image.float(), wide, num_steps=100, contrast=0.1)
        output = anisotropic_diffusion(image, given, num_steps=100, contrast=0.1)
        assert output.dtype == dtype
        assert torch.equal(output, exact.to(dtype))


TINY = [1e-5, 1e-8, 1e-30, 1e-50, torch.tensor(1e-8), torch.tensor(1e-50, dtype=torch.float64)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("diffusivity", DIFFUSIVITIES)
@pytest.mark.parametrize("contrast", TINY, ids=["1e-5", "1e-8", "1e-30", "1e-50", "float32", "float64"])
def test_a_contrast_below_the_dtype_is_still_one(contrast, diffusivity, dtype):
    """Flat regions stay, nothing crosses an edge, and no gradient is NaN."""
    image = torch.zeros(1, 1, 6, 8, dtype=dtype, device=DEVICE)
    image[..., 4:] = 1
    image[..., 2, 1] = 1e-3
    image.requires_grad_()
    given = contrast.to(DEVICE) if isinstance(contrast, Tensor) else contrast
    output = anisotropic_diffusion(image, num_steps=3, diffusivity=diffusivity, contrast=given)
    output.float().square().sum().backward()
    assert output.isfinite().all()
    assert image.grad.isfinite().all()
    if diffusivity != "constant":
        torch.testing.assert_close(output, image, rtol=0, atol=1e-4)
    guided = anisotropic_diffusion(image, torch.zeros_like(image), num_steps=2, diffusivity=diffusivity, contrast=given)
    free = anisotropic_diffusion(image, num_steps=2, diffusivity="constant")
    assert torch.equal(guided, free)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_that_of_conv2d(dtype):
    image = torch.rand(1, 2, 9, 8, device=DEVICE, requires_grad=True)
    guidance = torch.rand(1, 2, 9, 8, device=DEVICE).to(dtype)
    with torch.autocast(DEVICE.type, dtype):
        output = anisotropic_diffusion(image, guidance, num_steps=3, contrast=0.2)
        wide = anisotropic_diffusion(image.double(), num_steps=3, contrast=0.2)
    assert output.dtype == dtype
    assert wide.dtype == torch.float64  # left alone
    assert torch.equal(output, anisotropic_diffusion(image.to(dtype), guidance, num_steps=3, contrast=0.2))
    output.float().sum().backward()
    assert image.grad.dtype == torch.float32


def test_no_steps_give_a_copy():
    image = torch.rand(1, 1, 4, 5)
    output = anisotropic_diffusion(image, num_steps=0)
    assert torch.equal(output, image)
    output.zero_()
    assert image.any()


def test_numbers_of_numpy():
    image = torch.rand(1, 1, 6, 5)
    plain = anisotropic_diffusion(image, num_steps=2, step_size=0.125, contrast=0.5, spacing=(1.0, 2.0))
    numbers = dict(step_size=np.float32(0.125), contrast=np.float32(0.5), spacing=(np.float64(1.0), np.int64(2)))
    assert torch.equal(anisotropic_diffusion(image, num_steps=np.int64(2), **numbers), plain)


ERRORS = {
    "steps": (dict(num_steps=2.0), TypeError, "num_steps must be an int, got 2.0"),
    "steps-bool": (dict(num_steps=True), TypeError, "num_steps must be an int, got True"),
    "step": (dict(step_size="a"), TypeError, "step_size must be a float, got 'a'"),
    "step-spacing": (
        dict(spacing=0.5, step_size=0.1),
        ValueError,
        r"at most 0.0625 with spacing=\(0.5, 0.5\).*got 0.1",
    ),
    "spacing": (dict(spacing="ab"), TypeError, "spacing must be a float or one for each of the 2 axes, got 'ab'"),
    "spacing-bool": (dict(spacing=(True, 1.0)), TypeError, "spacing must be a float"),
    "spacing-zero": (dict(spacing=0.0), ValueError, "spacing must be positive and finite.*got 0.0"),
    "spacing-axes": (dict(spacing=(1.0, 1.0, 1.0)), ValueError, "one for each of the 2 axes"),
}


@pytest.mark.parametrize(("options", "error", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        anisotropic_diffusion(torch.rand(1, 1, 4, 5), **options)


# What docs/solver.md says about other libraries. Their definitions are in solver_references.py; where a library is
# installed, it is asked whether its definition is right.


@pytest.mark.parametrize(("option", "diffusivity"), [(1, "exponential"), (2, "rational")])
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_medpy_is_the_same_after_any_number_of_steps(option, diffusivity, steps):
    image = picture()
    found = solve(image, num_steps=steps, step_size=0.2, diffusivity=diffusivity, contrast=0.1)
    np.testing.assert_allclose(found, others.medpy(image, steps, 0.1, 0.2, option), atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_medpy_spaces_fluxes_once(axis):
    """Along one axis its step is ours times the distance, and its contrast, in grey levels, ours times the distance."""
    image = np.repeat(picture(1), 4, 0) if axis else np.repeat(picture(1).T, 4, 1)
    h, k = 2.0, 0.1
    found = solve(image, num_steps=5, step_size=0.2 * h, diffusivity="exponential", contrast=k / h, spacing=h)
    np.testing.assert_allclose(found, others.medpy(image, 5, k, 0.2, 1, (h, h)), atol=1e-12)


def itk_contrast(image: np.ndarray) -> float:
    """What a conductance of 1 stands for."""
    return np.sqrt(2 * sum(np.mean(d**2) for d in others.central_differences(image)))


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_simpleitk_is_the_same_where_an_image_varies_in_one_direction(steps):
    image = np.repeat(picture(1), 6, 0)
    options = dict(num_steps=steps, step_size=0.125, diffusivity="exponential", contrast=itk_contrast(image))
    np.testing.assert_allclose(
        solve(image, **options), others.itk(image, steps, 0.125, 1.0, interval=steps), atol=1e-12
    )


def test_simpleitk_smooths_less_where_there_is_an_edge_across():
    """The largest difference on an image in [0, 1]."""
    image, differences = picture(), []
    for steps in (1, 5, 20):
        theirs = others.itk(image, steps, 0.125, 1.0, interval=steps)
        options = dict(num_steps=steps, step_size=0.125, diffusivity="exponential", contrast=itk_contrast(image))
        found = solve(image, **options)
        assert found.std() < theirs.std()
        differences.append(np.abs(found - theirs).max())
    assert differences == pytest.approx([0.011, 0.030, 0.043], abs=1e-3)  # as docs/solver.md says


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(255 * image)[..., None], 3, 2).astype(np.uint8)


def test_opencv_has_eight_neighbours_and_eight_bits():
    """Where an image varies in one direction three of the eight have the same difference: three times our step."""
    image, contrast, differences = grey(np.repeat(picture(1), 6, 0)), 90.0, []
    for steps in (1, 5, 20):
        options = dict(num_steps=steps, step_size=3 * 0.05, diffusivity="exponential", contrast=contrast / 3)
        found = solve(image[..., 0].astype(np.float64), **options)
        differences.append(np.abs(found - others.opencv(image, 0.05, contrast, steps)[..., 0]).max())
    assert differences[0] <= 0.5
    assert differences == pytest.approx([0.5, 1.3, 4.0], abs=0.1)  # grey levels, as docs/solver.md says


def test_the_definition_of_medpy():
    medpy = pytest.importorskip("medpy.filter")
    image = picture().astype(np.float32)
    for option in (1, 2):
        for spacing in (None, (2.0, 0.5)):
            theirs = medpy.anisotropic_diffusion(image, 5, 0.1, 0.1, spacing, option)
            found = others.medpy(image, 5, 0.1, 0.1, option, spacing or (1.0, 1.0))
            np.testing.assert_allclose(found, theirs, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_the_definition_of_simpleitk(steps):
    sitk = pytest.importorskip("SimpleITK")
    image = picture().astype(np.float32)
    theirs = sitk.GradientAnisotropicDiffusion(sitk.GetImageFromArray(image), 0.125, 1.0, 1, steps)
    np.testing.assert_allclose(others.itk(image, steps, 0.125, 1.0), sitk.GetArrayFromImage(theirs), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_definition_of_opencv(steps):
    """To a grey level a step, as rarely as that happens: how it rounds is its own."""
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("opencv-contrib has it")
    rng = np.random.default_rng(2)
    image = np.clip(grey(picture()).astype(int) + rng.integers(-8, 9, (24, 20, 3)), 0, 255).astype(np.uint8)
    theirs = cv2.ximgproc.anisotropicDiffusion(image, 0.1, 40 / (3 * 255), steps)
    away = np.abs(others.opencv(image, 0.1, 40.0, steps) - theirs)
    assert away.max() <= steps
    assert away.mean() < 0.1 * steps
