"""Mixture of depths (arXiv 2404.02258): a layer for a fixed share of a row's tokens.

    y_t = x_t + sigmoid(r_t) f(X)_t  if t is chosen,  else x_t          r_t = w^T x_t

X are the chosen tokens in their order. In training those of a row's c largest r_t are chosen, c
being a share of its length: the layer's cost is fixed, and the weight gives the router a gradient.
(The paper multiplies by r_t itself, which may turn a write around; the sigmoid keeps its sign.)

That choice looks ahead: whether a token is among the largest depends on later ones. So a small
predictor, which hears of the choice but moves nothing else, learns to say it from x_t alone, and
outside of training it chooses: every token that it gives a chance above one half.

Axes: B batch, T time, D model, C chosen tokens, F hidden.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.depths.together import moved_together
from rtdlm.modules.primitives import Projection

NARROWER = 4
"""The predictor's hidden width is the model's over this."""


class DepthStatistics(NamedTuple):
    """Health of one layer's choice; the first carries gradient, to the predictor alone."""

    predictor: jax.Array
    """Mean cross-entropy of the predictor against the router's choice [nats a token]."""
    agreement: jax.Array
    """Share of tokens of which both say the same."""
    share: jax.Array
    """Share of tokens that were chosen."""


class Chosen(NamedTuple):
    """The tokens of each row that a layer works on."""

    taken_BT: jax.Array
    """bool."""
    weight_BT: jax.Array
    """Float32, what a chosen token's write is multiplied by."""
    token_BC: jax.Array
    """Places of the chosen tokens, ascending; T where there is none."""
    place_BT: jax.Array
    """Place of each token among the chosen; C where it is none."""
    statistics: DepthStatistics


class DepthRouter(hk.Module):
    """Chooses the tokens of each row."""

    def __call__(
        self, x_BTD: jax.Array, weights_BT: jax.Array, *, capacity: int, training: bool
    ) -> Chosen:
        """
        Args:
            x_BTD: what enters the layer.
            weights_BT: 0 for padding, which is never chosen.
            capacity: tokens that are chosen of each row in training.
            training: choose the router's largest, rather than what the predictor thinks likely.
        """
        real_BT = weights_BT > 0
        x_f32 = x_BTD.astype(jnp.float32)
        width = x_BTD.shape[-1]
        score_BT = Projection("BTD,DO->BTO", shape=(width, 1), name="router")(x_f32)[..., 0]
        likely_BT = self._predict(jax.lax.stop_gradient(x_f32))
        largest_BT = _largest(jax.lax.stop_gradient(score_BT), real_BT, capacity)
        taken_BT = largest_BT if training else (likely_BT > 0) & real_BT
        count = capacity if training else x_BTD.shape[1]
        token_BC, place_BT, _ = moved_together(taken_BT, count)
        statistics = _statistics(likely_BT, largest_BT, taken_BT, real_BT)
        return Chosen(taken_BT, jax.nn.sigmoid(score_BT), token_BC, place_BT, statistics)

    @hk.transparent
    def _predict(self, x_BTD: jax.Array) -> jax.Array:
        """Log odds that the router chooses each token `[B, T]`."""
        width = x_BTD.shape[-1]
        hidden = max(1, width // NARROWER)
        inner = Projection("BTD,DF->BTF", shape=(width, hidden), name="predictor_in")
        outer = Projection("BTF,FO->BTO", shape=(hidden, 1), bias=True, name="predictor_out")
        return outer(jax.nn.relu(inner(x_BTD)))[..., 0]


def _largest(score_BT: jax.Array, real_BT: jax.Array, capacity: int) -> jax.Array:
    """`[B, T]`: the `capacity` largest scores of each row's real tokens."""
    masked = jnp.where(real_BT, score_BT, -jnp.inf)
    _, index_BC = jax.lax.top_k(masked, capacity)
    rows = jnp.arange(score_BT.shape[0])[:, None]
    return jnp.zeros(real_BT.shape, bool).at[rows, index_BC].set(True) & real_BT


def _statistics(
    likely_BT: jax.Array, largest_BT: jax.Array, taken_BT: jax.Array, real_BT: jax.Array
) -> DepthStatistics:
    real, target = real_BT.astype(jnp.float32), largest_BT.astype(jnp.float32)
    count = jnp.maximum(jnp.sum(real), 1.0)
    entropy_BT = jax.nn.softplus(likely_BT) - target * likely_BT
    same_BT = ((likely_BT > 0) == largest_BT).astype(jnp.float32)
    return DepthStatistics(
        predictor=jnp.sum(entropy_BT * real) / count,
        agreement=jnp.sum(same_BT * real) / count,
        share=jnp.sum(taken_BT.astype(jnp.float32)) / count,
    )
