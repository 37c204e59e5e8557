"""`attention_type=spiking`: neurons that say which tokens may be read; see `spiking`.

Axes: B batch, T time, D model, H heads, K key-value heads, R = B * K rows, E head features.
"""

from dataclasses import dataclass
from math import erfc

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.attention import compacted
from rtdlm.modules.attention.kind import Heads, Rows
from rtdlm.modules.attention.spike_cache import SpikeCache
from rtdlm.modules.attention.spiking import SpikeStatistics, attend_spiking, blocks_of
from rtdlm.modules.primitives import Projection, from_chunks

THRESHOLD = 1.0
"""Where thresholds start, in standard deviations of a fresh neuron's input."""


@dataclass(frozen=True)
class Spiking:
    """The tokens of the document that spiked: O(T spikes) time, O(T) memory."""

    def packed(self, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> Rows:
        return Rows(positions_BT, segment_ids_BT=segment_ids_BT)

    def continued(self, positions_BT: jax.Array, lengths_B: jax.Array, cache: object) -> Rows:
        del cache
        return Rows(positions_BT, lengths_B=lengths_B)

    def read(self, heads: Heads, rows: Rows) -> jax.Array:
        return self.measure(heads, rows)[0]

    def measure(self, heads: Heads, rows: Rows) -> tuple[jax.Array, SpikeStatistics]:
        """`read`, and how sparse it was."""
        assert rows.segment_ids_BT is not None
        given = (_scaled(heads), heads.key_BTKE, heads.value_BTKE, _drive(heads))
        return attend_spiking(*given, rows.segment_ids_BT)

    def extend(self, heads: Heads, rows: Rows, cache: SpikeCache) -> tuple[jax.Array, SpikeCache]:
        assert rows.lengths_B is not None
        batch, length = heads.query_BTHE.shape[:2]
        counts_BT = jnp.arange(length)[None] < rows.lengths_B[:, None]
        spikes_BTK = _drive(heads) > 0.0
        cache, end_BTK = cache.write(heads.key_BTKE, heads.value_BTKE, spikes_BTK, counts_BT)
        end_RT = jnp.swapaxes(end_BTK, 1, 2).reshape(-1, length)
        queries = blocks_of(_scaled(heads), jnp.zeros_like(end_RT), end_RT)
        found = compacted.read(queries, cache.keys(heads.query_BTHE.dtype))
        read_BTHE = from_chunks(found.read_IRNE, batch, queries.first_IRC.shape[-1])
        return read_BTHE[:, :length], cache

    def empty_cache(self, *shape: int, dtype: jnp.dtype) -> SpikeCache:
        return SpikeCache.empty(*shape, dtype=dtype)

    def keys_computed(self, length: int, *, head_dim: int) -> int:
        """Those of a fresh model in a long row: a matter of the tokens, so never exact."""
        rate = 0.5 * erfc(THRESHOLD / 2**0.5)
        return round(rate * length)


def _scaled(heads: Heads) -> jax.Array:
    query = heads.query_BTHE
    return query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)


def _drive(heads: Heads) -> jax.Array:
    """`[B, T, K]` float32: how far above its threshold each neuron is."""
    assert heads.x_BTD is not None
    x_BTD, count = heads.x_BTD.astype(jnp.float32), heads.key_BTKE.shape[2]
    shape = (x_BTD.shape[-1], count)
    input_BTK = Projection("BTD,DK->BTK", shape=shape, name="drive")(x_BTD)
    start = hk.initializers.Constant(THRESHOLD)
    threshold_K = hk.get_parameter("threshold", (count,), jnp.float32, start)
    return input_BTK - threshold_K[None, None]
