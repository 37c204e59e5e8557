"""What modules are made of: products, projections, norms, convolutions, the delta rule, dropout."""

from rtdlm.modules.primitives.chunks import (
    Documents,
    documents,
    from_chunks,
    pad_time,
    states_at_start,
    to_chunks,
)
from rtdlm.modules.primitives.delta_rule import DeltaState, gated_delta, gated_delta_step
from rtdlm.modules.primitives.dropout import dropout
from rtdlm.modules.primitives.gate import GELU, SILU, Gate, gated
from rtdlm.modules.primitives.grouped import grouped_product
from rtdlm.modules.primitives.halting import BOUND, bounded, halting, log_halting
from rtdlm.modules.primitives.largest import PASSES, AxisName, largest
from rtdlm.modules.primitives.layer_norm import LayerNorm
from rtdlm.modules.primitives.look_back import Past, look_back, packed_past
from rtdlm.modules.primitives.mix import Mix
from rtdlm.modules.primitives.move import move
from rtdlm.modules.primitives.narrow import narrow
from rtdlm.modules.primitives.norm import RMSNorm, unit
from rtdlm.modules.primitives.product import PRODUCT, dot, product, row_major, weight_gradient
from rtdlm.modules.primitives.projection import Projection, project_all
from rtdlm.modules.primitives.rows import where_rows
from rtdlm.modules.primitives.short_conv import ShortConv
from rtdlm.modules.primitives.tiling import TILE, Tiling, most_tiles, tile_pairs

__all__ = [
    "BOUND",
    "GELU",
    "PASSES",
    "PRODUCT",
    "SILU",
    "TILE",
    "AxisName",
    "DeltaState",
    "Documents",
    "Gate",
    "LayerNorm",
    "Mix",
    "Past",
    "Projection",
    "RMSNorm",
    "ShortConv",
    "Tiling",
    "bounded",
    "documents",
    "dot",
    "dropout",
    "from_chunks",
    "gated",
    "gated_delta",
    "gated_delta_step",
    "grouped_product",
    "halting",
    "largest",
    "log_halting",
    "look_back",
    "most_tiles",
    "move",
    "narrow",
    "packed_past",
    "pad_time",
    "product",
    "project_all",
    "row_major",
    "states_at_start",
    "tile_pairs",
    "to_chunks",
    "unit",
    "weight_gradient",
    "where_rows",
]
