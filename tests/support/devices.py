"""The device that the tests run on."""

import os

import torch

EMULATED = os.environ.get("SDN_TRITON_EMULATE", "").split()
"""An architecture and a mode, as "sm_90 random": CPU tensors are taken for those of such a device, and kernels run as
compiled for it in the emulator (tests/emulator/README.md). "each each" takes them in turn, from test to test. Nothing:
kernels are interpreted where there is no GPU."""

PRETENDS = os.environ.get("SDN_TRITON_PRETEND", "0") == "1" and not EMULATED
"""Whether ``backend="auto"`` takes CPU tensors for those of a GPU, in the tests that run on one where there is one. A
fallback to the eager path there is a warning here too, which is an error. Kernels are interpreted, slowly."""

DEVICE = torch.device("cuda" if torch.cuda.is_available() and not EMULATED else "cpu")

RUNS_EAGERLY = DEVICE.type == "cpu" and not PRETENDS
"""Whether ``backend="auto"`` takes the eager path for tensors on ``DEVICE``."""
