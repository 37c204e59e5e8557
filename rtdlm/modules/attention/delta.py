"""The gated delta rule: linear attention that forgets, and overwrites (arXiv 2412.06464).

    S_t = a_t (S_{t-1} - b_t k_t (k_t^T S_{t-1})) + b_t k_t v_t^T        y_t = q_t^T S_t

a in (0, 1] decays the state, b in [0, 1] is how much of what stood under key k gives way to v. Keys
should have length 1. Within a chunk, with c the running sum of log a in a document and
D_ij = exp(c_i - c_j),

    U = (I + A)^{-1} b (v - exp(c) k S_0)       A_ij = b_i D_ij k_i^T k_j  for j < i, else 0
    y = exp(c) q S_0 + (D * q k^T) U            S_C = exp(c_C) S_0 + (exp(c_C - c) k)^T U

(the WY form, arXiv 2406.06484). The inverse is applied in all chunks at once; only S_0 goes from
chunk to chunk. Everything is float32. The state does not grow, and starts anew with a document.

Axes: B batch, T time, H heads, R = B * H, E key features, F value features, I chunks, C tokens of a
chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.modules.attention.chunks import (
    Documents,
    documents,
    from_chunks,
    pad_time,
    to_chunks,
)

CHUNK = 64


class DeltaState(NamedTuple):
    """What a row has read, float32."""

    state_BHEF: jax.Array

    @classmethod
    def empty(cls, *shape: int) -> "DeltaState":
        """Zeros of `shape`: (layers,) batch, heads, key features, value features."""
        return cls(jnp.zeros(shape, jnp.float32))


def gated_delta(
    query_BTHE: jax.Array,
    key_BTHE: jax.Array,
    value_BTHF: jax.Array,
    log_decay_BTH: jax.Array,
    write_BTH: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    chunk: int = CHUNK,
    state: DeltaState | None = None,
) -> tuple[jax.Array, DeltaState]:
    """What each query reads of its document so far, chunk by chunk.

    A token with a log decay and a write of zero leaves no trace.

    Args:
        query_BTHE: queries.
        key_BTHE: keys, of length 1 over E.
        value_BTHF: values.
        log_decay_BTH: log a, at most 0.
        write_BTH: b, in [0, 1].
        segment_ids_BT: int32, at least 0; the state starts anew wherever it changes.
        chunk: tokens computed at once, a matter of speed alone.
        state: what the row's first document has read before; None is nothing.

    Returns:
        `[B, T, H, F]` in the values' format, and the state after the last token.
    """
    batch, length, heads = key_BTHE.shape[:3]
    chunk = min(chunk, length)

    def cut(x: jax.Array) -> jax.Array:
        return to_chunks(pad_time(x.astype(jnp.float32), chunk), heads, chunk)

    where = documents(segment_ids_BT, chunk, continued=state is not None)
    if state is None:
        state = DeltaState.empty(batch, heads, key_BTHE.shape[-1], value_BTHF.shape[-1])
    start_REF = state.state_BHEF.reshape(-1, *state.state_BHEF.shape[2:])
    query, key, value = cut(query_BTHE), cut(key_BTHE), cut(value_BTHF)
    decay, write = cut(log_decay_BTH[..., None]), cut(write_BTH[..., None])
    y_IRCF, end_REF = _run(_chunks(query, key, value, decay, write, where, heads), start_REF)
    y = from_chunks(y_IRCF, batch, chunk)[:, :length].astype(value_BTHF.dtype)
    return y, DeltaState(end_REF.reshape(batch, heads, *end_REF.shape[1:]))


class _Chunk(NamedTuple):
    """What a chunk does to the state, S_0 being the state at its start, or all chunks stacked."""

    new_RCF: jax.Array
    """U = new - old S_0."""
    old_RCE: jax.Array
    within_RCC: jax.Array
    """y = query S_0 + within U."""
    query_RCE: jax.Array
    key_REC: jax.Array
    """S_C = keep S_0 + key U."""
    keep_R: jax.Array


def _chunks(
    query_IRCE: jax.Array,
    key_IRCE: jax.Array,
    value_IRCF: jax.Array,
    decay_IRC1: jax.Array,
    write_IRC1: jax.Array,
    where: Documents,
    heads: int,
) -> _Chunk:
    within = where.per_row(where.within_IBCC, heads)
    # Of the token's own document alone: a running sum over all would leave the differences below
    # with the rounding of what earlier documents added.
    sum_IRC1 = within.astype(jnp.float32) @ decay_IRC1
    # Masked before the exponential: above the diagonal it would overflow.
    gap_IRCC = jnp.where(within, sum_IRC1 - jnp.swapaxes(sum_IRC1, -1, -2), 0.0)
    decay_IRCC = jnp.where(within, jnp.exp(gap_IRCC), 0.0)
    key_IREC = jnp.swapaxes(key_IRCE, -1, -2)
    overlap = jnp.tril(write_IRC1 * decay_IRCC * (key_IRCE @ key_IREC), -1)
    reads = where.per_row(where.reads_IBC, heads)[..., None]
    since_IRC1 = jnp.where(reads, jnp.exp(sum_IRC1), 0.0)
    right = jnp.concatenate([write_IRC1 * value_IRCF, write_IRC1 * since_IRC1 * key_IRCE], -1)
    solved = jax.lax.linalg.triangular_solve(
        overlap, right, left_side=True, lower=True, unit_diagonal=True
    )
    features = value_IRCF.shape[-1]
    lasts = where.per_row(where.lasts_IBC, heads)[..., None]
    until_IRC1 = jnp.where(lasts, jnp.exp(sum_IRC1[:, :, -1:] - sum_IRC1), 0.0)
    keeps_IR = where.per_row(where.continues_IB, heads)
    return _Chunk(
        new_RCF=solved[..., :features],
        old_RCE=solved[..., features:],
        within_RCC=decay_IRCC * (query_IRCE @ key_IREC),
        query_RCE=since_IRC1 * query_IRCE,
        key_REC=jnp.swapaxes(until_IRC1 * key_IRCE, -1, -2),
        keep_R=jnp.where(keeps_IR, jnp.exp(sum_IRC1[:, :, -1, 0]), 0.0),
    )


def _run(chunks: _Chunk, start_REF: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads of all chunks `[I, R, C, F]`, and the state after the last `[R, E, F]`."""

    def step(state_REF: jax.Array, of: _Chunk) -> tuple[jax.Array, jax.Array]:
        change_RCF = of.new_RCF - of.old_RCE @ state_REF
        y_RCF = of.query_RCE @ state_REF + of.within_RCC @ change_RCF
        return of.keep_R[:, None, None] * state_REF + of.key_REC @ change_RCF, y_RCF

    end_REF, y_IRCF = jax.lax.scan(step, start_REF, chunks)
    return y_IRCF, end_REF


def gated_delta_step(
    query_BHE: jax.Array,
    key_BHE: jax.Array,
    value_BHF: jax.Array,
    log_decay_BH: jax.Array,
    write_BH: jax.Array,
    state: DeltaState,
) -> tuple[jax.Array, DeltaState]:
    """The recurrence: `[B, H, F]` that one more token reads, and the state that holds it."""
    query, key, value = (x.astype(jnp.float32) for x in (query_BHE, key_BHE, value_BHF))
    kept_BHEF = jnp.exp(log_decay_BH.astype(jnp.float32))[..., None, None] * state.state_BHEF
    held_BHF = jnp.einsum("BHE,BHEF->BHF", key, kept_BHEF)
    change_BHF = write_BH.astype(jnp.float32)[..., None] * (value - held_BHF)
    after = DeltaState(kept_BHEF + key[..., None] * change_BHF[..., None, :])
    y_BHF = jnp.einsum("BHE,BHEF->BHF", query, after.state_BHEF)
    return y_BHF.astype(value_BHF.dtype), after
