"""The feature fusion on the Triton path."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.kernels.fusion_data_gradient import fusion_data_gradient_kernel
from sdn_triton.kernels.fusion_forward import fusion_forward_kernel
from sdn_triton.kernels.fusion_weight_gradient import fusion_weight_gradient_kernel
from sdn_triton.launch.image_layout import Layout, as_long_rows, needs_64_bits, strides_of
from sdn_triton.launch.plan import Rest, launch
from sdn_triton.launch.run import arithmetic_of, as_factor, cdiv, count_tiles, precision_of, target_of
from sdn_triton.options import FusionArguments, FusionGradients, FusionNeeds
from sdn_triton.outputs import empty_output
from sdn_triton.tuning.configs import Configs, KernelConfig
from sdn_triton.tuning.defaults import Work
from sdn_triton.tuning.lookup import config_for


def forward(arguments: FusionArguments, activation: str, configs: Configs | None = None) -> Tensor:
    """``z = W [u, act(scale * y + shift)] + b`` at every pixel; nothing is concatenated.

    ``configs`` overrides the default configuration of a kernel by its name.
    """
    input, response, weight, bias, scale, shift = arguments
    output = empty_output((input.shape[0], weight.shape[0], *input.shape[2:]), like=input)
    input_rows, response_rows, output_rows = as_long_rows(input, response, output)
    tensors = dict(
        z_ptr=output,
        u_ptr=input,
        y_ptr=response,
        weight_ptr=as_factor(weight, arithmetic_of(input.dtype)).contiguous(),
        bias_ptr=None if bias is None else bias.contiguous(),
        **_affine_tensors(scale, shift),
    )

    config = _config("fusion_forward", input_rows, arguments, configs)

    def rest() -> Rest:
        images, channels, rows, columns = input_rows.shape
        return (count_tiles(images, rows, columns, config) * cdiv(weight.shape[0], config.block_o),), dict(
            C=channels,
            R=response.shape[1],
            O=weight.shape[0],
            H=rows,
            W=columns,
            z_strides=strides_of(output_rows),
            u_strides=strides_of(input_rows),
            y_strides=strides_of(response_rows),
            ACTIVATION=activation,
            PRECISION=precision_of(arithmetic_of(input.dtype)),
            INT64=needs_64_bits(input_rows, response_rows, output_rows),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        )

    launch(
        kernel=fusion_forward_kernel,
        tensors=tensors,
        config=config,
        rest=rest,
        facts=(activation, arithmetic_of(input.dtype)),
        tuned="fusion_forward",
    )
    return output


def backward(
    arguments: FusionArguments,
    activation: str,
    grad: Tensor,
    needs: FusionNeeds,
    configs: Configs | None = None,
) -> FusionGradients:
    """The gradients that ``needs`` asks for, each of its argument's shape, dtype and strides; see the kernels."""
    grad = grad.to(arguments.input.dtype)
    dinput, dresponse, dscale, dshift = _data_gradients(arguments, activation, grad, needs, configs)
    dweight, dbias = _weight_gradients(arguments, activation, grad, needs, configs)
    return FusionGradients(dinput, dresponse, dweight, dbias, dscale, dshift)


def _data_gradients(
    arguments: FusionArguments, activation: str, grad: Tensor, needs: FusionNeeds, configs: Configs | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, response, scale and shift, from one launch."""
    input, response, weight, _, scale, shift = arguments
    needs_scale = needs.scale and scale is not None
    needs_shift = needs.shift and shift is not None
    needs_response_blocks = needs.response or needs_scale or needs_shift
    if not (needs.input or needs_response_blocks):
        return None, None, None, None
    dinput = torch.empty_like(input) if needs.input else None
    dresponse = torch.empty_like(response) if needs.response else None
    present = [tensor for tensor in (dinput, dresponse) if tensor is not None]
    grad_rows, response_rows, *present_rows = as_long_rows(grad, response, *present)
    dinput_rows = present_rows[0] if dinput is not None else None
    dresponse_rows = present_rows[-1] if dresponse is not None else None
    config = _config("fusion_data_gradient", grad_rows, arguments, configs)
    images, outputs, rows, columns = grad_rows.shape
    tiles = count_tiles(images, rows, columns, config)
    input_blocks = cdiv(input.shape[1], config.block_c)
    response_blocks = cdiv(response.shape[1], config.block_c)
    blocks = input_blocks * needs.input + response_blocks * needs_response_blocks
    sums_shape = (tiles, response.shape[1])
    scale_sums = input.new_empty(sums_shape, dtype=torch.float32) if needs_scale else None
    shift_sums = input.new_empty(sums_shape, dtype=torch.float32) if needs_shift else None
    tensors = dict(
        du_ptr=dinput,
        dy_ptr=dresponse,
        scale_sums_ptr=scale_sums,
        shift_sums_ptr=shift_sums,
        gradient_ptr=grad,
        y_ptr=response,
        weight_ptr=as_factor(weight, arithmetic_of(input.dtype)).contiguous(),
        **_affine_tensors(scale, shift),
    )

    def rest() -> Rest:
        return (tiles * blocks,), dict(
            C=input.shape[1],
            R=response.shape[1],
            O=outputs,
            H=rows,
            W=columns,
            first_block=0 if needs.input else input_blocks,
            blocks=blocks,
            du_strides=strides_of(dinput_rows),
            dy_strides=strides_of(dresponse_rows),
            g_strides=strides_of(grad_rows),
            y_strides=strides_of(response_rows),
            ACTIVATION=activation,
            PRECISION=precision_of(arithmetic_of(input.dtype)),
            INT64=needs_64_bits(grad_rows, response_rows, *present_rows),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        )

    launch(
        kernel=fusion_data_gradient_kernel,
        tensors=tensors,
        config=config,
        rest=rest,
        facts=(activation, arithmetic_of(input.dtype)),
        tuned="fusion_data_gradient",
    )
    dscale = None if scale_sums is None or scale is None else scale_sums.sum(0).to(scale.dtype)
    dshift = None if shift_sums is None or shift is None else shift_sums.sum(0).to(shift.dtype)
    return dinput, dresponse, dscale, dshift


def _weight_gradients(
    arguments: FusionArguments, activation: str, grad: Tensor, needs: FusionNeeds, configs: Configs | None
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias, from one launch for each part of the concatenation.

    They are float32 sums over parts of the pixels, then over the parts in fixed order.
    """
    if not (needs.weight or needs.bias):
        return None, None
    input, response, weight, _, scale, shift = arguments
    outputs, weight_columns = weight.shape[:2]
    channels = input.shape[1]
    grad_rows, input_rows, response_rows = as_long_rows(grad, input, response)
    config = _config("fusion_weight_gradient", input_rows, arguments, configs)
    weight_sums = bias_sums = None
    if needs.weight:
        weight_sums = weight.new_empty((config.splits, outputs, weight_columns), dtype=torch.float32)
    if needs.bias:
        bias_sums = weight.new_empty((config.splits, outputs), dtype=torch.float32)
    of_input = None if weight_sums is None else weight_sums[:, :, :channels]
    _sum_part(grad, input, (grad_rows, input_rows), of_input, bias_sums, config)
    if weight_sums is not None:
        of_response = weight_sums[:, :, channels:]
        rows = grad_rows, response_rows
        _sum_part(grad, response, rows, of_response, None, config, scale=scale, shift=shift, activation=activation)
    dweight = None
    if weight_sums is not None:
        dweight = torch.empty_like(weight).copy_(weight_sums.sum(0)[:, :, None, None])
    return dweight, None if bias_sums is None else bias_sums.sum(0).to(weight.dtype)


def _sum_part(
    grad: Tensor,
    image: Tensor,
    rows_of_both: tuple[Layout, Layout],
    weight_sums: Tensor | None,
    bias_sums: Tensor | None,
    config: KernelConfig,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str = "identity",
) -> None:
    """Fill the sums for the gradients of the weight's columns that ``image`` is multiplied by, and of the bias."""
    grad_rows, image_rows = rows_of_both

    def rest() -> Rest:
        images, channels, rows, columns = image_rows.shape
        outputs = grad.shape[1]
        blocks = cdiv(channels, config.block_c) + (bias_sums is not None)
        return (cdiv(outputs, config.block_o), blocks, config.splits), dict(
            tiles=count_tiles(images, rows, columns, config),
            C=channels,
            O=outputs,
            H=rows,
            W=columns,
            weight_columns=0 if weight_sums is None else weight_sums.stride(1),
            g_strides=strides_of(grad_rows),
            x_strides=strides_of(image_rows),
            ACTIVATION=activation,
            PRECISION=precision_of(arithmetic_of(image.dtype)),
            INT64=needs_64_bits(grad_rows, image_rows),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        )

    launch(
        kernel=fusion_weight_gradient_kernel,
        tensors=dict(
            dweight_ptr=weight_sums,
            dbias_ptr=bias_sums,
            gradient_ptr=grad,
            x_ptr=image,
            **_affine_tensors(scale, shift),
        ),
        config=config,
        rest=rest,
        # How these two are read depends on a third image, too.
        facts=(activation, arithmetic_of(image.dtype), rows_of_both),
        tuned="fusion_weight_gradient",
    )


def _affine_tensors(scale: Tensor | None, shift: Tensor | None) -> dict[str, Tensor | None]:
    return {
        "scale_ptr": None if scale is None else scale.contiguous(),
        "shift_ptr": None if shift is None else shift.contiguous(),
    }


def _config(kernel: str, rows: Layout, arguments: FusionArguments, configs: Configs | None) -> KernelConfig:
    """The configuration of a kernel over the pixels of ``rows``: the caller's, or the one for this size."""
    if configs is not None and kernel in configs:
        return configs[kernel]
    work = _work(rows, arguments.input.shape[1], arguments.response, arguments.weight)
    return config_for(kernel, work, target_of(arguments.input.device))


def work_of(input: Tensor, response: Tensor, weight: Tensor) -> Work:
    """The size that the configurations of all three kernels are chosen by."""
    (input_rows,) = as_long_rows(input)
    return _work(input_rows, input.shape[1], response, weight)


def _work(rows: Layout, channels: int, response: Tensor, weight: Tensor) -> Work:
    return Work(
        arithmetic=arithmetic_of(weight.dtype),
        images=rows.shape[0],
        rows=rows.shape[2],
        columns=rows.shape[3],
        channels=max(channels, response.shape[1]),
        outputs=weight.shape[0],
        channels_last=rows.stride(1) == 1,
    )
