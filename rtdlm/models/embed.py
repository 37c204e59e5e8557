"""From token ids to what the first layer reads.

    x = conv(norm(scale E[id] + position[p] + ngrams(id, id before, ...)))   (each where it is on)

Axes: B batch, T time, D model, V vocabulary, K key-value heads, E head features, N tables.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import AGIConfig
from rtdlm.models.convs import Convolutions
from rtdlm.models.memory import InputCache
from rtdlm.models.norms import make_norm
from rtdlm.modules.embedding import NgramTables, lookup, ngram_rows
from rtdlm.modules.primitives import Past, dropout, look_back
from rtdlm.parallel import axis_size, constrain, every_row, layout_of


class Embedded(NamedTuple):
    """What token ids alone decide; None is off."""

    x_BTD: jax.Array
    value_BTKE: jax.Array | None
    """Joins every layer's values."""
    ngrams_BTN: jax.Array | None
    """int32 rows of the n-grams that layers look up."""
    cache: InputCache | None


def embed(
    config: AGIConfig,
    ids_BT: jax.Array,
    embedding_VD: jax.Array,
    *,
    positions_BT: jax.Array,
    past: Past | None,
    cache: InputCache | None,
    dtype: jnp.dtype,
) -> Embedded:
    """The embedding of every token; call it within a Haiku module, whose parameters it makes."""
    split = axis_size("fsdp") > 1 and layout_of(config.mesh_strategy).gradients
    x_BTD = _rows(embedding_VD, ids_BT, split=split).astype(dtype)
    if config.embedding_scale is not None:
        x_BTD *= jnp.asarray(config.embedding_scale, dtype)
    if config.position_encoding == "learned":
        shape = (config.max_seq_len, config.d_model)
        std = embedding_std(config)
        x_BTD += lookup(positions_BT, shape=shape, std=std, dtype=dtype, name="position")
    tokens, recent_BJ = _recent(config, ids_BT, past, cache)
    if config.ngram.orders:
        tables = NgramTables(config.ngram, vocab_size=config.vocab_size)
        x_BTD += tables(tokens, d_model=config.d_model, dtype=dtype)
    if config.embedding_norm:
        x_BTD = make_norm(config, "embedding_norm")(x_BTD)
    convolve = Convolutions(config, past, None if cache is None else cache.convs)
    x_BTD = dropout(convolve("input", x_BTD), rate=config.dropout_rate)
    left = None if cache is None else InputCache(recent_BJ, convolve.states)
    return Embedded(x_BTD, _values(config, ids_BT, dtype), _ngrams(config, tokens), left)


def _rows(embedding_VD: jax.Array, ids_BT: jax.Array, *, split: bool) -> jax.Array:
    """`[B, T, D]`: every token's row of a table whose gradient is `split` over `fsdp` or not.

    If so, every device looks its features up for the rows of all devices along `fsdp`, and they
    exchange: tokens are fewer than rows of the table. Left to itself, XLA's partitioner would
    repeat all of them on every device where `fsdp` is not the only axis.
    """
    if not split:
        return constrain(embedding_VD[ids_BT], "batch", "context", None)
    ids_BT = constrain(every_row(ids_BT), ("data", "expert"), "context")
    x_BTD = constrain(embedding_VD[ids_BT], ("data", "expert"), "context", "fsdp")
    return constrain(x_BTD, "batch", "context", None)


def embedding_std(config: AGIConfig) -> float:
    """Initial standard deviation of the token embedding and of learned positions."""
    return config.d_model**-0.5 if config.embedding_std is None else config.embedding_std


def _recent(
    config: AGIConfig, ids_BT: jax.Array, past: Past | None, cache: InputCache | None
) -> tuple[list[jax.Array], jax.Array | None]:
    """The tokens that n-grams are made of, and the last ones, for the next call."""
    if not config.ngram_reach:
        return [], None
    assert past is not None
    state = None if cache is None else cache.recent_BJ
    # 0 stands for what is before the document, so that an id is one more than its number.
    return look_back(ids_BT.astype(jnp.int32) + 1, past, reach=config.ngram_reach, state=state)


def _ngrams(config: AGIConfig, tokens: list[jax.Array]) -> jax.Array | None:
    knowledge = config.knowledge
    if knowledge.kind != "ngram":
        return None
    return ngram_rows(
        tokens,
        orders=knowledge.lengths,
        rows=knowledge.table_rows,
        heads=knowledge.num_heads,
        vocab_size=config.vocab_size,
    )


def _values(config: AGIConfig, ids_BT: jax.Array, dtype: jnp.dtype) -> jax.Array | None:
    if not config.value_embeddings:
        return None
    heads = (config.kv_heads, config.head_dim)
    shape = (config.vocab_size, config.kv_heads * config.head_dim)
    std = config.d_model**-0.5
    values = lookup(ids_BT, shape=shape, std=std, dtype=dtype, name="value_embedding")
    return values.reshape(*ids_BT.shape, *heads)
