"""A shuffle that can be read at any place: a keyed bijection of {0, ..., size - 1}.

A balanced Feistel network (Luby and Rackoff 1988) permutes 2^(2k) >= size numbers; a result that
falls outside is permuted again until it falls inside (cycle walking), which leaves a bijection of
the numbers inside. No table is made, so that an epoch of 10^12 windows costs no memory, and no
random-number library is involved, so that a run can be rebuilt by any later version.
"""

from functools import lru_cache

import numpy as np

_MASK = (1 << 64) - 1
_ROUNDS = 8


def mix(*numbers: int) -> int:
    """A 64-bit hash of integers (splitmix64 chained); every argument and its place count."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = int(_mix_array(np.array([(state + number) & _MASK], np.uint64))[0])
        state = (state * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & _MASK
    return state


def permute(indices: np.ndarray, *, size: int, key: int) -> np.ndarray:
    """Where a shuffle keyed by `key` puts each of `indices`.

    Args:
        indices: int64 [n], each in [0, size).
        size: how many numbers are shuffled, at least 1.
        key: any integer; another key is another shuffle.

    Returns:
        int64 [n], each in [0, size); distinct for distinct indices.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _round_keys(key)
    values = _feistel(indices.astype(np.uint64), half_bits, keys)
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def hash_indices(indices: np.ndarray, *, key: int) -> np.ndarray:
    """A 64-bit hash of each index, uint64 [n]."""
    return _mix_array(indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key))


@lru_cache(maxsize=256)
def _round_keys(key: int) -> tuple[int, ...]:
    return tuple(mix(key, number) for number in range(_ROUNDS))


def _feistel(values: np.ndarray, half_bits: int, keys: tuple[int, ...]) -> np.ndarray:
    bits = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        # The high bits of the hash are its best.
        scrambled = _mix_array(right + np.uint64(key)) >> np.uint64(64 - half_bits)
        left, right = right, left ^ scrambled
    return (left << bits) | right


def _mix_array(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, a bijection of uint64 [n]."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
