"""What every module is made of: named projections, norms, short convolutions, dropout."""

from rtdlm.modules.primitives.dropout import dropout
from rtdlm.modules.primitives.layer_norm import LayerNorm
from rtdlm.modules.primitives.look_back import Past, look_back, packed_past
from rtdlm.modules.primitives.mix import Mix
from rtdlm.modules.primitives.move import move
from rtdlm.modules.primitives.narrow import narrow
from rtdlm.modules.primitives.norm import RMSNorm
from rtdlm.modules.primitives.product import PRODUCT, dot, product, row_major, weight_gradient
from rtdlm.modules.primitives.projection import Projection, project_all
from rtdlm.modules.primitives.short_conv import ShortConv

__all__ = [
    "PRODUCT",
    "LayerNorm",
    "Mix",
    "Past",
    "Projection",
    "RMSNorm",
    "ShortConv",
    "dot",
    "dropout",
    "look_back",
    "move",
    "narrow",
    "packed_past",
    "product",
    "project_all",
    "row_major",
    "weight_gradient",
]
