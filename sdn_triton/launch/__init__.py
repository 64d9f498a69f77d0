"""The Triton path: from tensors and a configuration to a grid and a launch."""
