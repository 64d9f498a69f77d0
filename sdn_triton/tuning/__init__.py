"""Kernel configurations: what they are, and where they are looked up."""

from sdn_triton.tuning.lookup import use_table
from sdn_triton.tuning.shapes import record_shapes

__all__ = ["record_shapes", "use_table"]
