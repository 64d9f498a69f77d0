"""Faults of compiled kernels that the emulator has found, each on the case that showed it."""

import pytest
import torch
from support import block_calls

from emulator import MODES, emulated
from sdn_triton.launch import block
from sdn_triton.options import BlockArguments, BlockOptions


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_that_share_tensor_memory(dtype: torch.dtype) -> None:
    """Those of the fusion are written by other warps than read those of the response, once all have read them."""
    case = block_calls.CASES["one-channel"]
    tensors = case.tensors(dtype, torch.device("cpu"))
    with emulated("sm_100", MODES["latest"]):
        block.forward(BlockArguments(*tensors), BlockOptions(case.options, block_calls.EPS))
