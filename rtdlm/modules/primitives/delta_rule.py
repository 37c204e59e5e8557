"""The gated delta rule: linear attention that forgets, and overwrites (arXiv 2412.06464).

    S_t = (I - k_t (e_t * k_t)^T) Diag(a_t) S_{t-1} + k_t (w_t * v_t)^T        y_t = S_t^T q_t

a in (0, 1] decays the state, by head or by key channel (Kimi Delta Attention, arXiv 2510.26692). Of
what stood under key k, e in [0, 1] is how much gives way, and w in [0, 1] how much of v takes its
place: one number for both (b in arXiv 2412.06464), or two, e by key channel and w by value channel
if wanted (arXiv 2605.22791). Keys should have length 1. Within a chunk, with c the running sum of
log a in a document and a query's products with keys faded by exp(c_i - c_j) in each channel (see
`fade`),

    U = (I + A)^{-1} (w * v - (exp(c) * e * k) S_0)      A_ij = faded (e * k)_i^T k_j for j < i
    y = (exp(c) * q) S_0 + P U                           P_ij = faded q_i^T k_j for j <= i
    S_C = exp(c_C) * S_0 + (exp(c_C - c) * k)^T U

(the WY form, arXiv 2406.06484). The inverse is applied in all chunks at once; only S_0 goes from
chunk to chunk. Everything is float32. The state does not grow, and starts anew with a document.

Axes: B batch, T time, H heads, R = B * H, E key features, F value features, I chunks, C tokens of a
chunk, G gates of a head: 1, or as many as features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import UserError
from rtdlm.modules.primitives.chunks import (
    Documents,
    documents,
    from_chunks,
    pad_time,
    to_chunks,
)
from rtdlm.modules.primitives.fade import fade

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
    log_decay: jax.Array,
    write: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    erase: jax.Array | None = None,
    chunk: int = CHUNK,
    state: DeltaState | None = None,
    counts_BT: jax.Array | None = None,
) -> tuple[jax.Array, DeltaState]:
    """What each query reads of its document so far, chunk by chunk.

    Args:
        query_BTHE: queries.
        key_BTHE: keys, of length 1 over E.
        value_BTHF: values.
        log_decay: log a, at most 0; `[B, T, H]`, or `[B, T, H, E]` for one a key channel.
        write: w, in [0, 1]; `[B, T, H]`, or `[B, T, H, F]` for one a value channel.
        segment_ids_BT: int32, at least 0; the state starts anew wherever it changes.
        erase: e, in [0, 1]; `[B, T, H]`, or `[B, T, H, E]` for one a key channel. None is `write`,
            which then is one number a head.
        chunk: tokens computed at once, a matter of speed alone; with a decay a channel the next
            power of two.
        state: what the row's first document has read before; None is nothing.
        counts_BT: False for tokens that leave no trace, though their segments count; None is none.

    Returns:
        `[B, T, H, F]` in the values' format, and the state after the last token.

    Raises:
        UserError: a gate has another shape than those above.
    """
    batch, length, heads = key_BTHE.shape[:3]
    given = _prepare(query_BTHE, key_BTHE, value_BTHF, log_decay, write, erase)
    if counts_BT is not None:
        given = given.without(~counts_BT)
    chunk = min(chunk, length)
    if given.decay.shape[-1] > 1:
        chunk = 1 << (chunk - 1).bit_length()
    where = documents(segment_ids_BT, chunk, continued=state is not None)
    if state is None:
        state = DeltaState.empty(batch, heads, key_BTHE.shape[-1], value_BTHF.shape[-1])
    start_REF = state.state_BHEF.reshape(-1, *state.state_BHEF.shape[2:])
    cut = _Inputs(*(to_chunks(pad_time(x, chunk), heads, chunk) for x in given))
    y_IRCF, end_REF = _run(_chunks(cut, where, heads), start_REF)
    y = from_chunks(y_IRCF, batch, chunk)[:, :length].astype(value_BTHF.dtype)
    return y, DeltaState(end_REF.reshape(batch, heads, *end_REF.shape[1:]))


class _Inputs(NamedTuple):
    """A token's part in the rule, float32: `[..., H, E or F]`, or `[..., H, 1]` of a gate."""

    query: jax.Array
    key: jax.Array
    decay: jax.Array
    erased: jax.Array
    """e * k."""
    written: jax.Array
    """w * v."""

    def without(self, gone_BT: jax.Array) -> "_Inputs":
        """S_t is 1 S_{t-1} + 0 u^T where `gone_BT`, to the bit."""
        gone_BT11 = gone_BT[..., None, None]
        decay, key = (jnp.where(gone_BT11, 0.0, x) for x in (self.decay, self.key))
        return self._replace(decay=decay, key=key)


def _prepare(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array,
    write: jax.Array,
    erase: jax.Array | None,
) -> _Inputs:
    if erase is None:
        if write.ndim == value.ndim:
            raise UserError(
                f"write has shape {write.shape}, one number a value channel, and there is no "
                "erase: pass erase, or a write of one number a head"
            )
        erase = write
    query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    decay = _gate("log_decay", log_decay, key)
    erase, write = _gate("erase", erase, key), _gate("write", write, value)
    return _Inputs(query, key, decay, erase * key, write * value)


def _gate(name: str, gate: jax.Array, of: jax.Array) -> jax.Array:
    """`[..., H, G]`, float32."""
    if gate.shape not in (of.shape, of.shape[:-1]):
        raise UserError(
            f"{name} has shape {gate.shape}: expected {of.shape[:-1]}, one number a head, or "
            f"{of.shape}, one a channel"
        )
    return (gate if gate.ndim == of.ndim else gate[..., None]).astype(jnp.float32)


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
    keep_RG: jax.Array


def _chunks(cut: _Inputs, where: Documents, heads: int) -> _Chunk:
    faded = fade((cut.query, cut.erased), cut.key, cut.decay, where, heads)
    reads_IRCC, overlap_IRCC = faded.products
    right = jnp.concatenate([cut.written, faded.since_IRCE * cut.erased], -1)
    solved = jax.lax.linalg.triangular_solve(
        jnp.tril(overlap_IRCC, -1), right, left_side=True, lower=True, unit_diagonal=True
    )
    features = cut.written.shape[-1]
    return _Chunk(
        new_RCF=solved[..., :features],
        old_RCE=solved[..., features:],
        within_RCC=reads_IRCC,
        query_RCE=faded.since_IRCE * cut.query,
        key_REC=jnp.swapaxes(faded.until_IRCE * cut.key, -1, -2),
        # The last token sees the state before the chunk just if its document stays.
        keep_RG=faded.since_IRCE[:, :, -1],
    )


def _run(chunks: _Chunk, start_REF: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads of all chunks `[I, R, C, F]`, and the state after the last `[R, E, F]`."""

    def step(state_REF: jax.Array, of: _Chunk) -> tuple[jax.Array, jax.Array]:
        change_RCF = of.new_RCF - of.old_RCE @ state_REF
        y_RCF = of.query_RCE @ state_REF + of.within_RCC @ change_RCF
        return of.keep_RG[..., None] * state_REF + of.key_REC @ change_RCF, y_RCF

    end_REF, y_IRCF = jax.lax.scan(step, start_REF, chunks)
    return y_IRCF, end_REF


def gated_delta_step(
    query_BHE: jax.Array,
    key_BHE: jax.Array,
    value_BHF: jax.Array,
    log_decay: jax.Array,
    write: jax.Array,
    state: DeltaState,
    *,
    erase: jax.Array | None = None,
    counts_B: jax.Array | None = None,
) -> tuple[jax.Array, DeltaState]:
    """The recurrence: `[B, H, F]` that one more token reads, and the state that holds it.

    Gates are those of `gated_delta` without T. Where `counts_B` is False the state stays as it is,
    though the token reads itself as ever: a row that stands still sees what it would go on with.
    """
    given = _prepare(query_BHE, key_BHE, value_BHF, log_decay, write, erase)
    kept_BHEF = jnp.exp(given.decay)[..., None] * state.state_BHEF
    change_BHF = given.written - jnp.einsum("BHE,BHEF->BHF", given.erased, kept_BHEF)
    after = DeltaState(kept_BHEF + given.key[..., None] * change_BHF[..., None, :])
    y_BHF = jnp.einsum("BHE,BHEF->BHF", given.query, after.state_BHEF)
    if counts_B is not None:
        kept_BHEF = jnp.where(counts_B[:, None, None, None], after.state_BHEF, state.state_BHEF)
        after = DeltaState(kept_BHEF)
    return y_BHF.astype(value_BHF.dtype), after
