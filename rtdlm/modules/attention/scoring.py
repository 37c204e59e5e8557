"""How a query and a key become a score: scaled, and where it is asked for bounded and lowered.

s = scale q k,  or  cap tanh(scale q k / cap)      (soft cap: Gemma 2, arXiv 2408.00118)
s <- s - slope (distance)                          (ALiBi: see `alibi`)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.alibi import lower_far


class Scoring(NamedTuple):
    """Static, so that programs without a bound hold none."""

    scale: float | None = None
    """None is 1 / sqrt(head features)."""
    soft_cap: float | None = None
    """Scores stay within (-cap, cap); None bounds nothing."""
    slopes_H: tuple[float, ...] | None = None
    """ALiBi's slope of each query head; None lowers nothing."""

    def scale_for(self, width: int) -> float:
        """What queries of `width` features are multiplied by."""
        return width**-0.5 if self.scale is None else self.scale

    def bound(self, scores: jax.Array) -> jax.Array:
        """The bounded scores."""
        if self.soft_cap is None:
            return scores
        return self.soft_cap * jnp.tanh(scores / self.soft_cap)

    def lower(self, bounded_BKGTS: jax.Array, back_BTS: jax.Array | None) -> jax.Array:
        """Bounded scores of keys that are `back_BTS` tokens back, less what distance takes."""
        if self.slopes_H is None:
            return bounded_BKGTS
        assert back_BTS is not None
        return lower_far(bounded_BKGTS, self.slopes_H, back_BTS)

    def slope(self, bounded: jax.Array) -> jax.Array | float:
        """The derivative of `bound` where it gives `bounded`; 0 where that was masked since."""
        if self.soft_cap is None:
            return 1.0
        return 1.0 - jnp.square(jnp.clip(bounded / self.soft_cap, -1.0, 1.0))


PLAIN = Scoring()
