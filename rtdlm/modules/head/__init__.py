"""The output head: features to logits, and features with labels to per-token statistics."""

from rtdlm.modules.head.loss import LossTerms, TokenLoss, token_loss
from rtdlm.modules.head.statistics import TokenStatistics, token_statistics
from rtdlm.modules.head.unembed import logits, soft_cap

__all__ = [
    "LossTerms",
    "TokenLoss",
    "TokenStatistics",
    "logits",
    "soft_cap",
    "token_loss",
    "token_statistics",
]
