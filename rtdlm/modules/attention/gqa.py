"""Scaled dot-product attention with grouped key-value heads (GQA, arXiv 2305.13245).

    y = concat_h softmax(q_h k_g(h)^T / sqrt(E) + mask) v_g(h)  W_o

H query heads share K key-value heads, H / K to a group: K = H is multi-head, K = 1 multi-query
attention. Queries and keys may be normalised a head (QK-norm, arXiv 2302.05442), which bounds the
logits, and are then rotated by position.

Axes: B batch, T query time, S key time, D model, H heads, K key-value heads, E head features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.attention.kind import Cache, Heads, Kind, Measured, Rows
from rtdlm.modules.attention.kinds import DENSE
from rtdlm.modules.attention.rope import Rotation, rotate
from rtdlm.modules.attention.spiking import SpikeStatistics
from rtdlm.modules.attention.values import OWN_VALUES, ValueSources, mix_values
from rtdlm.modules.primitives import Projection, project_all

Convolve = Callable[[str, jax.Array], jax.Array]
"""A short convolution over tokens by the place where it stands, or the identity there."""
HeadNorm = Callable[[str], Callable[[jax.Array], jax.Array]]


class Elsewhere(NamedTuple):
    """What heads read that is not attention's own."""

    read_BTHE: jax.Array
    kept_BTH: jax.Array | None
    """Float32; the share of attention's own reading that stays beside it. None is all."""
    left: Any
    """What the reading leaves behind."""


Beside = Callable[[Heads], Elsewhere]
"""Of heads before they are rotated."""


class AttentionOutput(NamedTuple):
    """What attention returns."""

    out_BTD: jax.Array
    cache: Cache | None
    """With this row's tokens in it."""
    first_BTKE: jax.Array | None
    """Values of the first layer, for the next one; None unless they were given."""
    spikes: SpikeStatistics | None = None
    """None where the kind has none, and with a cache."""
    key_BTKE: jax.Array | None = None
    """As they are before they are rotated, for a window of them."""
    value_BTKE: jax.Array | None = None
    written_H: jax.Array | None = None
    """Float32; sum over the row's tokens of the squared length of what each head writes, padding
    aside. None unless asked for."""
    beside: Any = None
    """What the reading beside left behind."""


def _unchanged(place: str, x: jax.Array) -> jax.Array:
    return x


class GroupedQueryAttention(hk.Module):
    """Reads what its kind allows, from the row itself or from a cache."""

    def __init__(
        self,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        out_scale: float,
        head_norm: HeadNorm | None = None,
        biases: str = "none",
        kind: Kind = DENSE,
        measure_heads: bool = False,
        name: str = "attention",
    ) -> None:
        """
        Args:
            num_heads: query heads.
            num_kv_heads: key and value heads, a divisor of that.
            head_dim: features of a head.
            out_scale: scale of the output projection before training.
            head_norm: makes the norm of queries and of keys by its name; None has none.
            biases: `none`, `qkv` (of queries, keys and values) or `all` (the output's too).
            kind: what a query reads.
            measure_heads: tell how much each head writes; it changes nothing else.
            name: module name.
        """
        super().__init__(name=name)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.head_norm = head_norm
        self.biases = biases
        self.out_scale = out_scale
        self.kind = kind
        self.measure_heads = measure_heads

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        rows: Rows,
        turn: Rotation | None,
        cache: Cache | None,
        sources: ValueSources = OWN_VALUES,
        convolve: Convolve = _unchanged,
        beside: Beside | None = None,
    ) -> AttentionOutput:
        """
        Args:
            x_BTD: normalised input.
            rows: how the tokens relate, as the kind makes it.
            turn: rotation at each position; None leaves order to the kind.
            cache: what was read so far; None attends within the row.
            sources: what the values are mixed with.
            convolve: applied to the projected `queries`, `keys` and `values`, by these names.
            beside: reads elsewhere by the same heads; it is added to what these read.
        """
        query, key, value = self._project(x_BTD, convolve)
        value, first_BTKE = mix_values(value, sources)
        plain = Heads(query, key, value, x_BTD)
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        asked = Heads(query, key, value, x_BTD)
        spikes = None
        if cache is not None:
            read_BTHE, cache = self.kind.extend(asked, rows, cache)
        elif isinstance(self.kind, Measured):
            read_BTHE, spikes = self.kind.measure(asked, rows)
        else:
            read_BTHE = self.kind.read(asked, rows)
        left_beside = None
        if beside is not None:
            more_BTHE, kept_BTH, left_beside = beside(plain)
            if kept_BTH is not None:
                read_BTHE *= kept_BTH[..., None].astype(read_BTHE.dtype)
            read_BTHE += more_BTHE
        model, heads = x_BTD.shape[-1], (self.num_heads, self.head_dim)
        out = Projection(
            "BTHE,HED->BTD",
            shape=(*heads, model),
            scale=self.out_scale,
            bias=self.biases == "all",
            name="output",
        )
        written_H = None
        if self.measure_heads:
            assert rows.segment_ids_BT is not None
            written_H = _written(read_BTHE, out.weight(), rows.segment_ids_BT > 0)
        return AttentionOutput(
            out(read_BTHE), cache, first_BTKE, spikes, plain.key_BTKE, value, written_H, left_beside
        )

    @hk.transparent
    def _project(
        self, x_BTD: jax.Array, convolve: Convolve
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        def projection(name: str, heads: int) -> Projection:
            shape = (x_BTD.shape[-1], heads, self.head_dim)
            return Projection("BTD,DHE->BTHE", shape=shape, bias=self.biases != "none", name=name)

        kv_heads = self.num_kv_heads
        heads = {"query": self.num_heads, "key": kv_heads, "value": kv_heads}
        query, key, value = project_all(x_BTD, [projection(*item) for item in heads.items()])
        query, key = convolve("queries", query), convolve("keys", key)
        value = convolve("values", value)
        if self.head_norm is not None:
            query, key = self.head_norm("query_norm")(query), self.head_norm("key_norm")(key)
        return query, key, value


def _written(read_BTHE: jax.Array, weight_HED: jax.Array, real_BT: jax.Array) -> jax.Array:
    """`[H]`: sum of |read W_h|^2, by the products of W_h with itself."""
    square_HEF = jnp.einsum("HED,HFD->HEF", weight_HED, weight_HED)
    read = jnp.where(real_BT[..., None, None], read_BTHE.astype(jnp.float32), 0.0)
    return jnp.einsum("BTHE,HEF,BTHF->H", read, square_HEF, read)
