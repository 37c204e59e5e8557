"""How little a token resembles what is stored: its surprise where nobody measured another.

    novelty_s = 1 - max(0, max_m mean_h k_s k_m)

over the stored tokens of the same label (a document, or all of a stream that is read as one) and
those offered before it, so that cutting a stream into other pieces changes nothing as long as
nothing was forgotten. From 0, a key that was there before, to 1, one at a right angle to all.

Axes: B batch, S offered tokens, M slots, H heads, E head features.
"""

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.store import Store
from rtdlm.modules.primitives import dot


def novelty(key_BSHE: jax.Array, label_BS: jax.Array, store: Store) -> jax.Array:
    """`[B, S]` float32; keys are of unit length. 0 for padding, label 0."""
    stored = _best(key_BSHE, store.key_BMHE, label_BS[:, :, None] == store.label_BM[:, None])
    earlier_SS = jnp.tri(label_BS.shape[1], k=-1, dtype=bool)
    same_BSS = label_BS[:, :, None] == label_BS[:, None]
    offered = _best(key_BSHE, key_BSHE, same_BSS & earlier_SS[None])
    novel = jnp.clip(1.0 - jnp.maximum(stored, offered), 0.0, 1.0)
    return jnp.where(label_BS > 0, novel, 0.0)


def _best(key_BSHE: jax.Array, key_BMHE: jax.Array, same_BSM: jax.Array) -> jax.Array:
    """`[B, S]`: the largest cosine, at least 0."""
    cosine_BSM = dot("BSHE,BMHE->BSM", key_BSHE, key_BMHE.astype(key_BSHE.dtype))
    return jnp.max(jnp.where(same_BSM, cosine_BSM / key_BSHE.shape[2], 0.0), axis=-1)
