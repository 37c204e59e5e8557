"""The k largest of many numbers as a mask: exact, and of equal ones the first.

    lo, hi = min, max;   repeat   mid = halfway;   n = #{x >= mid};   n >= k ? lo = mid : hi = mid -

Halfway between two floats is taken among the floats themselves, whose bits, read as integers, have
the order of the numbers: at most 32 rounds find the k-th largest to the bit, and a round that
leaves exactly k ends the search. A round is one pass that compares and counts, which CPUs and TPUs
do many at a time; `jax.lax.top_k` sorts, and takes five times as long on a CPU.

Many numbers are cut into blocks first, and only the k blocks of largest maxima searched: a number
above the k-th largest is in a block whose maximum is above it, of which there are fewer than k.

Along a mesh axis, in `shard_map`, each device puts forward its own k largest, and the k-th of all
that were put forward is the k-th of all.

Axes: N numbers to choose from, C of them that are searched, ... any before it.
"""

from math import isqrt

import jax
import jax.numpy as jnp

AxisName = str | tuple[str, ...]
"""One mesh axis, or several that are one, the first the slowest."""
PASSES = 32
"""Over all numbers, at most, each a comparison and an addition."""


def largest(x_N: jax.Array, k: int, *, axis: AxisName | None = None) -> jax.Array:
    """`[..., N]`: True for the k largest, all if there are fewer; no gradient.

    Args:
        x_N: float32, no NaN. -inf is never among them.
        k: how many, at least 1.
        axis: mesh axis or axes along which N is split, each device giving its part in order.
    """
    x_N = jax.lax.stop_gradient(x_N)
    candidates = _candidates(x_N, k)
    if axis is not None:
        own = jax.lax.top_k(candidates, min(k, candidates.shape[-1]))[0]
        candidates = jax.lax.all_gather(own, axis, axis=own.ndim - 1, tiled=True)
    least = _least_of(candidates, min(k, candidates.shape[-1]))[..., None]
    reached = (x_N >= least) & (x_N > -jnp.inf)
    count = _over(axis, _count(reached))
    return jax.lax.cond(
        jnp.any(count > k),
        lambda: _without_the_last(x_N, least, k, axis),
        lambda: reached,
    )


def _candidates(x_N: jax.Array, k: int) -> jax.Array:
    """`[..., C]`: some of the numbers, the k largest among them."""
    *rows, length = x_N.shape
    # As many numbers are searched as there are blocks.
    size = 1 << (isqrt(length // k).bit_length() - 1) if length >= k else 1
    if size < 4 or length % size:
        return x_N
    blocks = x_N.reshape(*rows, length // size, size)
    _, chosen = jax.lax.top_k(jnp.max(blocks, axis=-1), k)
    found = jnp.take_along_axis(blocks, chosen[..., None], axis=-2)
    return found.reshape(*rows, k * size)


def _without_the_last(x_N: jax.Array, least: jax.Array, k: int, axis: AxisName | None) -> jax.Array:
    """The k largest where more reach `least`: of those that equal it the first."""
    above, equal = x_N > least, (x_N == least) & (x_N > -jnp.inf)
    num_equal, left = _count(equal), k - _over(axis, _count(above))
    if axis is not None:
        before = jnp.arange(jax.lax.axis_size(axis)) < jax.lax.axis_index(axis)
        left -= jnp.tensordot(before.astype(jnp.int32), jax.lax.all_gather(num_equal, axis), 1)
    return above | (equal & (jnp.cumsum(equal, axis=-1, dtype=jnp.int32) <= left[..., None]))


def _least_of(x_C: jax.Array, k: int) -> jax.Array:
    """`[...]`: the k-th largest."""

    def halve(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = state
        # Halfway, rounded up, without the overflow of a sum.
        middle = (low | high) - ((low ^ high) >> 1)
        reached = _count(x_C >= _as_float(middle)[..., None])
        low = jnp.where(reached >= k, middle, low)
        high = jnp.where(reached > k, high, jnp.where(reached == k, middle, middle - 1))
        return low, high

    bounds = _as_int(jnp.min(x_C, axis=-1)), _as_int(jnp.max(x_C, axis=-1))
    low, _ = jax.lax.while_loop(lambda s: jnp.any(s[0] < s[1]), halve, bounds)
    # The search ends at a bound that k numbers reach, which is below the last of them or equal.
    bound = _as_float(low)[..., None]
    return jnp.min(jnp.where(x_C >= bound, x_C, jnp.inf), axis=-1)


def _over(axis: AxisName | None, count: jax.Array) -> jax.Array:
    """The sum of all devices along the axis."""
    if axis is None:
        return count
    total: jax.Array = jax.lax.psum(count, axis)
    return total


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
