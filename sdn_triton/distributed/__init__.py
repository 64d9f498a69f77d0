"""Images too large for one rank: their rows are spread over several, as DTensors placed ``Shard(2)``.

Importing this also tells DTensor how it may shard the operators themselves, by batch and by output channel; a process
that never does learns it at its first call with DTensors in eager mode.
"""

from sdn_triton.distributed.functional import semantic_difference_conv2d
from sdn_triton.distributed.modules import RowSharded
from sdn_triton.distributed.placement import from_own_rows, own_rows
from sdn_triton.ops.operator import OPERATORS
from sdn_triton.ops.sharding import register_rules_if_used

register_rules_if_used(OPERATORS.values())

__all__ = ["RowSharded", "from_own_rows", "own_rows", "semantic_difference_conv2d"]
