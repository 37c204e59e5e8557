"""A row cut into chunks, for what goes through it chunk by chunk or carries a state along.

Axes: B batch, T time, H heads, K key-value heads, G = H / K, R = B * K rows, E features, I chunks,
C tokens of a chunk, N = G * C.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Documents(NamedTuple):
    """Which document's state a token sees, with documents told apart wherever the segment changes.

    Exact resets: everything here is a boolean, so that nothing of one document reaches another.
    """

    within_IBCC: jax.Array
    """Query (first C) may read key (second C) of its own chunk."""
    reads_IBC: jax.Array
    """The token's document began before the chunk, so that it reads the state at its start."""
    lasts_IBC: jax.Array
    """The token's document is that of the chunk's last token, so that the state keeps it."""
    continues_IB: jax.Array
    """The chunk's last token's document began before the chunk: the earlier state stays."""

    @staticmethod
    def per_row(flag: jax.Array, kv_heads: int) -> jax.Array:
        """`[I, B, ...]` -> `[I, R, ...]`."""
        return jnp.repeat(flag, kv_heads, axis=1)


def documents(segment_ids_BT: jax.Array, chunk: int, *, continued: bool = False) -> Documents:
    """The flags of a row, padded at its end with more of its last document.

    With `continued` the row's first document began before the row.
    """
    batch, length = segment_ids_BT.shape
    spare = -length % chunk
    changes = segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]
    document_BT = jnp.pad(jnp.cumsum(changes.astype(jnp.int32), axis=1), ((0, 0), (1, 0)))
    document_BT = jnp.pad(document_BT, ((0, 0), (0, spare)), mode="edge")
    document_IBC = jnp.swapaxes(document_BT.reshape(batch, -1, chunk), 0, 1)
    last_IB = document_IBC[..., -1]
    first_IB = jnp.full_like(last_IB[:1], 0 if continued else -1)
    before_IB = jnp.concatenate([first_IB, last_IB[:-1]])
    same = document_IBC[..., :, None] == document_IBC[..., None, :]
    earlier_CC = jnp.tril(jnp.ones((chunk, chunk), bool))
    return Documents(
        within_IBCC=same & earlier_CC[None, None],
        reads_IBC=document_IBC == before_IB[..., None],
        lasts_IBC=document_IBC == last_IB[..., None],
        continues_IB=last_IB == before_IB,
    )


def pad_time(x_BT: jax.Array, chunk: int) -> jax.Array:
    """Zeros at the end, to a multiple of `chunk` tokens."""
    spare = -x_BT.shape[1] % chunk
    return jnp.pad(x_BT, ((0, 0), (0, spare)) + ((0, 0),) * (x_BT.ndim - 2))


def to_chunks(x_BTHE: jax.Array, kv_heads: int, chunk: int) -> jax.Array:
    """`[I, R, N, E]`: the heads of a group and a chunk side by side."""
    batch, length, heads, width = x_BTHE.shape
    x = x_BTHE.reshape(batch, length // chunk, chunk, kv_heads, heads // kv_heads, width)
    return jnp.einsum("BICKGE->IBKGCE", x).reshape(length // chunk, batch * kv_heads, -1, width)


def from_chunks(x_IRNE: jax.Array, batch: int, chunk: int) -> jax.Array:
    """`[B, T, H, E]`: the inverse of `to_chunks`."""
    chunks, rows, _, width = x_IRNE.shape
    x = x_IRNE.reshape(chunks, batch, rows // batch, -1, chunk, width)
    return jnp.einsum("IBKGCE->BICKGE", x).reshape(batch, chunks * chunk, -1, width)


def states_at_start(
    added: tuple[jax.Array, ...], keeps_IR: jax.Array, begin: tuple[jax.Array, ...]
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Running sums `[I, R, ...]` before each chunk, and after the last; forgotten if not kept.

    `begin` is what stands before the first.
    """

    def step(
        state: tuple[jax.Array, ...], given: tuple[tuple[jax.Array, ...], jax.Array]
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        more, keeps_R = given
        after = tuple(
            jnp.where(keeps_R.reshape(-1, *(1,) * (old.ndim - 1)), old, 0.0) + new
            for old, new in zip(state, more, strict=True)
        )
        return after, state

    end, starts = jax.lax.scan(step, begin, (added, keeps_IR))
    return starts, end
