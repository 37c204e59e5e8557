"""What every module is made of: named projections, normalisation, dropout."""

from rtdlm.modules.primitives.dropout import dropout
from rtdlm.modules.primitives.norm import RMSNorm
from rtdlm.modules.primitives.projection import Projection

__all__ = ["Projection", "RMSNorm", "dropout"]
