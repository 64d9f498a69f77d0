"""Kernel configurations: what they are, where they are looked up, and what a compiler makes of them."""

from sdn_triton.tuning.lookup import use_table
from sdn_triton.tuning.shapes import record_shapes

__all__ = ["record_shapes", "use_table"]
