"""What every module is made of: products, named projections, norms, convolutions, dropout."""

from rtdlm.modules.primitives.dropout import dropout
from rtdlm.modules.primitives.gate import GELU, SILU, Gate, gated
from rtdlm.modules.primitives.grouped import grouped_product
from rtdlm.modules.primitives.layer_norm import LayerNorm
from rtdlm.modules.primitives.look_back import Past, look_back, packed_past
from rtdlm.modules.primitives.mix import Mix
from rtdlm.modules.primitives.move import move
from rtdlm.modules.primitives.narrow import narrow
from rtdlm.modules.primitives.norm import RMSNorm
from rtdlm.modules.primitives.product import PRODUCT, dot, product, row_major, weight_gradient
from rtdlm.modules.primitives.projection import Projection, project_all
from rtdlm.modules.primitives.short_conv import ShortConv
from rtdlm.modules.primitives.tiling import TILE, Tiling, most_tiles, tile_pairs

__all__ = [
    "GELU",
    "PRODUCT",
    "SILU",
    "TILE",
    "Gate",
    "LayerNorm",
    "Mix",
    "Past",
    "Projection",
    "RMSNorm",
    "ShortConv",
    "Tiling",
    "dot",
    "dropout",
    "gated",
    "grouped_product",
    "look_back",
    "most_tiles",
    "move",
    "narrow",
    "packed_past",
    "product",
    "project_all",
    "row_major",
    "tile_pairs",
    "weight_gradient",
]
