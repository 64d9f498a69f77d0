"""Configurations of kernels on trial: ``sdn-triton tune``."""
