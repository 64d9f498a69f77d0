"""The device that the tests run on."""

import os

import torch

EMULATED = os.environ.get("SDN_TRITON_EMULATE", "").split()
"""An architecture and a mode, as "sm_90 random": CPU tensors are taken for those of such a device, and kernels run as
compiled for it in the emulator (tests/emulator/README.md). "each each" takes them in turn, from test to test. Nothing:
kernels are interpreted where there is no GPU."""

DEVICE = torch.device("cuda" if torch.cuda.is_available() and not EMULATED else "cpu")
