"""The transformer that studies of graphs set beside a reasoner: pre-norm, dot products, no order.

Every node reads every other (arXiv 1706.03762); what is known of a pair of nodes, such as whether
they share an edge, may move its score by a learned number a head (arXiv 2106.05234).

Axes: B batch, N nodes, M nodes that are read, R kinds of pairs, H heads, E head features, D model.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.primitives import Projection, RMSNorm


def transformer(
    x_BND: jax.Array,
    *,
    layers: int,
    num_heads: int,
    d_ff: int,
    pair_BRNM: jax.Array | None = None,
    tied: bool = False,
) -> jax.Array:
    """`[B, N, D]` -> `[B, N, D]`.

    Args:
        x_BND: nodes.
        layers: each with weights of its own.
        num_heads: they share the features.
        d_ff: hidden width of what each node thinks.
        pair_BRNM: 1 or 0 for every pair; None knows nothing of pairs.
        tied: queries and keys begin with equal weights.
    """
    scale = (2 * layers) ** -0.5
    for _ in range(layers):
        normed = RMSNorm(name="attention_norm")(x_BND)
        x_BND += _attention(
            normed, num_heads=num_heads, scale=scale, pair_BRNM=pair_BRNM, tied=tied
        )
        x_BND += _feedforward(RMSNorm(name="feedforward_norm")(x_BND), d_ff=d_ff, scale=scale)
    return RMSNorm(name="final_norm")(x_BND)


def _attention(
    x_BND: jax.Array,
    *,
    num_heads: int,
    scale: float,
    pair_BRNM: jax.Array | None,
    tied: bool,
) -> jax.Array:
    model = x_BND.shape[-1]
    inner = (model, num_heads, model // num_heads)
    ask = Projection("BND,DHE->BNHE", shape=inner, name="query")
    start = ask.weight() if tied else None
    key = Projection("BND,DHE->BNHE", shape=inner, start=start, name="key")(x_BND)
    value = Projection("BND,DHE->BNHE", shape=inner, name="value")(x_BND)
    query = ask(x_BND)
    score_BHNM = jnp.einsum("BNHE,BMHE->BHNM", query, key) * inner[2] ** -0.5
    if pair_BRNM is not None:
        zero = jnp.zeros((pair_BRNM.shape[1], num_heads))
        move = Projection("BRNM,RH->BHNM", shape=zero.shape, start=zero, name="pair")
        score_BHNM += move(pair_BRNM)
    read = jnp.einsum("BHNM,BMHE->BNHE", jax.nn.softmax(score_BHNM), value)
    outer = (*inner[1:], model)
    return Projection("BNHE,HED->BND", shape=outer, scale=scale, name="output")(read)


def _feedforward(x_BND: jax.Array, *, d_ff: int, scale: float) -> jax.Array:
    shape = (x_BND.shape[-1], d_ff)
    hidden = jax.nn.gelu(Projection("BND,DF->BNF", shape=shape, bias=True, name="up")(x_BND))
    down = Projection("BNF,FD->BND", shape=shape[::-1], scale=scale, bias=True, name="down")
    result: jax.Array = down(hidden)
    return result
