"""Which slots give way when a store is full: those worth least, of equal ones the oldest.

    age        0                       first in, first out: a ring
    use        f + u                   least read
    surprise   s                       least surprising
    adaptive   (a s + u) / (b + 1 - f)

with s the surprise of a slot's token, u the readings of the slot, faded by half in every half-life,
and f = 2^(-age / half-life). `use` counts the writing as a first reading (LRFU; Lee et al., IEEE
Transactions on Computers 50, 2001), without which the newest slot would always be the next to go.

`adaptive` is the rate at which a slot is expected to be read. Take readings to come at random, at a
rate of which nothing is known beforehand but that it has a Gamma distribution of mean a s / b; with
u readings in a time of 1 - f, which fades as the readings do, its mean is the formula above. A new
slot is given credit, the more the more surprising its token is, and loses it unless it is read.

Axes: B batch, M slots.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from rtdlm.modules.memory.store import Store

PRIOR_READS, PRIOR_TIME = 2.0, 0.1
"""a and b of `adaptive` [readings, half-lives over ln 2]."""
HALF_LIFE = 8.0
"""Of use, unless told [stores full of offered tokens]. All three were found on other streams of
`studies/memory_forgetting.py`, where a longer half-life serves what stays popular, a shorter one
what changes fast."""


def _age(store: Store, half_life: float) -> jax.Array:
    del half_life
    return jnp.zeros_like(store.used_BM)


def _use(store: Store, half_life: float) -> jax.Array:
    return store.used_BM + faded(store.age_BM, half_life)


def _surprise(store: Store, half_life: float) -> jax.Array:
    del half_life
    return store.surprise_BM


def _adaptive(store: Store, half_life: float) -> jax.Array:
    time_BM = 1.0 - faded(store.age_BM, half_life)
    return (PRIOR_READS * store.surprise_BM + store.used_BM) / (PRIOR_TIME + time_BM)


FORGET: Mapping[str, Callable[[Store, float], jax.Array]] = {
    "age": _age,
    "use": _use,
    "surprise": _surprise,
    "adaptive": _adaptive,
}
"""Name -> what each slot is worth `[B, M]` float32, given the half-life of use [tokens]."""


def faded(tokens: jax.Array, half_life: float) -> jax.Array:
    """float32 2^(-tokens / half-life): what is left of a reading so many tokens ago."""
    return jnp.exp2(-tokens.astype(jnp.float32) / half_life)
