"""Which attention heads a model can do without, measured over batches.

    importance_h = E_row |d loss(row) / d gate_h|         usage_h = sqrt(E_token |what h writes|^2)

gate_h multiplies what head h writes and is one (arXiv 1905.10650, eq. 5); a row's loss is its mean
negative log-likelihood. A head of no importance may be silenced or removed, see `heads`.

    manager = PruningManager(model)
    for batch in batches:
        manager.update(params, batch)
    weakest = manager.weakest_in_groups(1)
    pruned = remove_heads(model.config, silence_heads(model.config, params, weakest), None, weakest)

Axes: B rows, T time, L layers, H heads, K key-value heads, G = H / K heads of a group.
"""

from functools import cached_property
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import UserError
from rtdlm.data.batch import Batch
from rtdlm.models.decoder import Decoder
from rtdlm.models.heads import Heads, scale_heads
from rtdlm.models.tms import Params, TMSModel


class _Sums(NamedTuple):
    slopes_LH: jax.Array
    rows: jax.Array
    written_LH: jax.Array
    tokens: jax.Array


class PruningManager:
    """Tracks importance and usage of every head over the batches it is shown."""

    def __init__(self, model: TMSModel) -> None:
        self.model = model
        self._sums: _Sums | None = None

    def update(self, params: Params, batch: Batch) -> None:
        """Adds a batch; rows without a token that counts add nothing."""
        new = self._measure(params, jax.tree.map(jnp.asarray, batch))
        self._sums = new if self._sums is None else jax.tree.map(jnp.add, self._sums, new)

    @property
    def importance_LH(self) -> np.ndarray:
        """Mean over rows of the size of the loss's slope by a head's gate [nats a token]."""
        sums = self._seen
        return np.asarray(sums.slopes_LH / sums.rows)

    @property
    def usage_LH(self) -> np.ndarray:
        """Root mean square over tokens of the length of what a head writes."""
        sums = self._seen
        return np.sqrt(np.asarray(sums.written_LH / sums.tokens))

    def weakest(self, count: int) -> Heads:
        """The `count` heads of least importance in the whole model; for silencing."""
        importance = self.importance_LH
        flat = np.argsort(importance, axis=None, kind="stable")[:count]
        layer_N, head_N = np.unravel_index(flat, importance.shape)
        return [sorted(head_N[layer_N == layer].tolist()) for layer in range(len(importance))]

    def weakest_in_groups(self, count: int) -> Heads:
        """The `count` heads of least importance of every group; these can be removed."""
        config = self.model.config
        by_group_LKG = self._by_group
        order = np.argsort(by_group_LKG, axis=-1, kind="stable")[..., :count]
        first_K1 = np.arange(config.kv_heads)[:, None] * by_group_LKG.shape[-1]
        return [sorted((first_K1 + chosen_KC).reshape(-1).tolist()) for chosen_KC in order]

    def weakest_groups(self, count: int) -> Heads:
        """The heads of the `count` groups of least summed importance; these can be removed."""
        size = self._by_group.shape[-1]
        order_LK = np.argsort(self._by_group.sum(-1), axis=-1, kind="stable")[:, :count]
        return [
            [group * size + member for group in sorted(chosen) for member in range(size)]
            for chosen in order_LK.tolist()
        ]

    @property
    def _by_group(self) -> np.ndarray:
        config = self.model.config
        return self.importance_LH.reshape(config.num_layers, config.kv_heads, -1)

    @property
    def _seen(self) -> _Sums:
        if self._sums is None or not float(self._sums.rows):
            raise UserError(
                "no row was measured yet; call update with a batch that has tokens that count"
            )
        return self._sums

    @cached_property
    def _measure(self) -> Any:
        model, config = self.model, self.model.config
        if config.memory.segment is not None:
            raise UserError(
                f"the heads of a model with memory.segment={config.memory.segment} cannot be "
                "measured yet: it reads rows segment by segment; use a model that reads whole rows"
            )

        def written(ids: jax.Array, positions: jax.Array, segments: jax.Array) -> jax.Array:
            decoder = Decoder(config, dtype=model.dtype, measure_heads=True)
            return decoder.written(ids, positions_BT=positions, segment_ids_BT=segments)

        apply = hk.transform(written).apply

        def loss(gates_LH: jax.Array, params: Params, row: Batch) -> jax.Array:
            one = jax.tree.map(lambda x: x[None], row)
            nll_BT = model.batch_scores(scale_heads(config, params, gates_LH), one).tokens.nll
            weight = jnp.sum(one.weights)
            return jnp.sum(nll_BT * one.weights) / jnp.where(weight > 0, weight, 1.0)

        def measure(params: Params, batch: Batch) -> _Sums:
            ones = jnp.ones((config.num_layers, config.num_heads), jnp.float32)
            # Row by row: a slope's size is of one row, and one row's memory is enough.
            slopes_BLH = jax.lax.map(lambda row: jax.grad(loss)(ones, params, row), batch)
            rows = jnp.sum((jnp.sum(batch.weights, axis=1) > 0).astype(jnp.float32))
            tokens = jnp.sum((batch.segment_ids > 0).astype(jnp.float32))
            written_LH = apply(params, None, batch.input_ids, batch.positions, batch.segment_ids)
            return _Sums(jnp.sum(jnp.abs(slopes_BLH), axis=0), rows, written_LH, tokens)

        return jax.jit(measure)
