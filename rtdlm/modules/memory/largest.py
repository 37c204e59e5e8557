"""The k largest of many numbers as a mask: exact, and of equal ones the first.

    lo, hi = min, max;   repeat   mid = halfway;   n = #{x >= mid};   n >= k ? lo = mid : hi = mid -

Halfway between two floats is taken among the floats themselves, whose bits, read as integers, have
the order of the numbers: at most 32 rounds find the k-th largest to the bit, and a round that
leaves exactly k ends the search. A round is one pass that compares and counts, which CPUs and TPUs
do many at a time; `jax.lax.top_k` sorts, and takes five times as long on a CPU.

Along a mesh axis, in `shard_map`, each device puts forward its own k largest, and the k-th of all
that were put forward is the k-th of all.

Axes: N numbers to choose from, ... any before it.
"""

import jax
import jax.numpy as jnp


def largest(x_N: jax.Array, k: int, *, axis: str | None = None) -> jax.Array:
    """`[..., N]`: True for the k largest, all if there are fewer; no gradient.

    Args:
        x_N: float32, no NaN. -inf is never among them.
        k: how many, at least 1.
        axis: mesh axis along which N is split, each device giving its part in order.
    """
    x_N = jax.lax.stop_gradient(x_N)
    candidates = x_N
    if axis is not None:
        own = jax.lax.top_k(x_N, min(k, x_N.shape[-1]))[0]
        candidates = jax.lax.all_gather(own, axis, axis=own.ndim - 1, tiled=True)
    least = _least_of(candidates, min(k, candidates.shape[-1]))[..., None]
    if axis is not None:
        # A device may hold more that equal its last candidate: no bound between numbers will do.
        reaching = jnp.where(candidates >= least, candidates, jnp.inf)
        least = jnp.min(reaching, axis=-1, keepdims=True)
    above, equal = x_N > least, (x_N == least) & (x_N > -jnp.inf)
    num_above, num_equal = _count(above), _count(equal)
    left = k - num_above
    if axis is not None:
        left = k - jax.lax.psum(num_above, axis)
        before = jnp.arange(jax.lax.axis_size(axis)) < jax.lax.axis_index(axis)
        left -= jnp.tensordot(before.astype(jnp.int32), jax.lax.all_gather(num_equal, axis), 1)
    first = jax.lax.cond(
        jnp.any(num_equal > left),
        lambda equal: equal & (jnp.cumsum(equal, axis=-1, dtype=jnp.int32) <= left[..., None]),
        lambda equal: equal,
        equal,
    )
    return above | first


def _least_of(x_N: jax.Array, k: int) -> jax.Array:
    """`[...]`: a number that the k largest reach and, unless it is itself one of them, no other."""

    def halve(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = state
        # Halfway, rounded up, without the overflow of a sum.
        middle = (low | high) - ((low ^ high) >> 1)
        reached = _count(x_N >= _as_float(middle)[..., None])
        low = jnp.where(reached >= k, middle, low)
        high = jnp.where(reached > k, high, jnp.where(reached == k, middle, middle - 1))
        return low, high

    bounds = _as_int(jnp.min(x_N, axis=-1)), _as_int(jnp.max(x_N, axis=-1))
    return _as_float(jax.lax.while_loop(lambda s: jnp.any(s[0] < s[1]), halve, bounds)[0])


def _count(mask_N: jax.Array) -> jax.Array:
    return jnp.sum(mask_N, axis=-1, dtype=jnp.int32)


def _as_int(x: jax.Array) -> jax.Array:
    """int32 in the order of float32."""
    return _turned(jax.lax.bitcast_convert_type(x, jnp.int32))


def _as_float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(_turned(bits), jnp.float32)


def _turned(bits: jax.Array) -> jax.Array:
    # Floats below zero grow with their bits, integers fall.
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
