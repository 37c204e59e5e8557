"""Task: the sum of two numbers of 16 digits, by steps that see one place to the right.

    h_w <- h_w + z_w (tanh(V relu(A h_w + B h_(w-1) + X x_w)) - h_w)

with x_w the two digits of place w, and w - 1 the place to its right, which is worth less. Where two
digits make nine, whether a carry comes out is known only from the right, so that a sum takes as
many steps as the longest run of nines and one more; with fewer, every run is a guess. The numbers
of a row are random at every p-th place and make nine between, P(p) in proportion to 0.65^p from
1 to 8. An answer is right if all 17 digits are.

Axes: N rows, W places (the ones first), D features of the state, H hidden, F features.
"""

from functools import partial
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.controller import CopyGate
from rtdlm.modules.primitives import Projection
from studies.controlled import Task

DIGITS = 16
"""Of the numbers; the sum has one more."""
STEPS = 10
WIDTH = 32
HIDDEN = 64
APART = 8
"""Most places from one random pair of digits to the next."""
RARER = 0.65
"""Of one place more."""
OPEN = 2.0
"""Added to the logits of the copy gate, which so begins open."""


class Examples(NamedTuple):
    """Pairs of numbers as digits, the ones first; the last place holds zeros."""

    first_NW: jax.Array
    second_NW: jax.Array
    answer: jax.Array
    """int32 `[N, W]`: digits of the sum."""


class Own(NamedTuple):
    """What belongs to rows."""

    start_NWD: jax.Array
    given_NWH: jax.Array
    """What the digits put in at every step."""
    opens_NWD: jax.Array


@partial(jax.jit, static_argnames="rows")
def draw(key: jax.Array, rows: int) -> Examples:
    """`rows` fresh pairs."""
    of_first, of_second, of_apart, of_offset = jax.random.split(key, 4)
    shape = (rows, DIGITS)
    first_NW = jax.random.randint(of_first, shape, 0, 10)
    chance_P = RARER ** jnp.arange(1.0, APART + 1)
    apart_N1 = 1 + jax.random.categorical(of_apart, jnp.log(chance_P), shape=(rows, 1))
    offset_N1 = jax.random.randint(of_offset, (rows, 1), 0, apart_N1)
    nine_NW = (jnp.arange(DIGITS)[None] + offset_N1) % apart_N1 > 0
    second_NW = jnp.where(nine_NW, 9 - first_NW, jax.random.randint(of_second, shape, 0, 10))
    first_NW, second_NW = (jnp.pad(each, [(0, 0), (0, 1)]) for each in (first_NW, second_NW))
    return Examples(first_NW, second_NW, _sum(first_NW, second_NW))


def _sum(first_NW: jax.Array, second_NW: jax.Array) -> jax.Array:
    def place(carry_N: jax.Array, both_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        total_N = both_N + carry_N
        return total_N // 10, total_N % 10

    both_WN = (first_NW + second_NW).T
    return jax.lax.scan(place, jnp.zeros_like(both_WN[0]), both_WN)[1].T


def steps_needed(examples: Examples) -> jax.Array:
    """int32 `[N]`: one more than there are places in the longest run of nines."""

    def place(run_N: jax.Array, both_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        run_N = jnp.where(both_N == 9, run_N + 1, 0)
        return run_N, run_N

    both_WN = (examples.first_NW + examples.second_NW).T
    return 1 + jnp.max(jax.lax.scan(place, jnp.zeros_like(both_WN[0]), both_WN)[1], axis=0)


class AdditionCore(hk.Module):
    """One place a step."""

    def __init__(self, name: str = "core") -> None:
        """`name` is part of the parameters' paths."""
        super().__init__(name=name)
        self._gate = CopyGate(num_steps=STEPS, features=WIDTH)

    def begin(self, examples: Examples) -> Own:
        """What the digits say, which is the same at every step."""
        both = [jax.nn.one_hot(each, 10) for each in (examples.first_NW, examples.second_NW)]
        digits_NWF = jnp.concatenate(both, axis=-1)
        start = Projection("NWF,FD->NWD", shape=(20, WIDTH), name="start")
        given = Projection("NWF,FH->NWH", shape=(20, HIDDEN), bias=True, name="given")
        start_NWD = jnp.tanh(start(digits_NWF))
        return Own(start_NWD, given(digits_NWF), OPEN + self._gate.opens(digits_NWF))

    def start(self, own: Own) -> jax.Array:
        """`[N, W, D]`."""
        return own.start_NWD

    def step(self, own: Own, state: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Every place looks to the right; the summary is pools of the state and of its change."""
        right_NWD = jnp.pad(state[:, :-1], [(0, 0), (1, 0), (0, 0)])
        seen_NWF = jnp.concatenate([state, right_NWD], axis=-1)
        inner = Projection("NWF,FH->NWH", shape=(2 * WIDTH, HIDDEN), name="inner")
        outer = Projection("NWH,HD->NWD", shape=(HIDDEN, WIDTH), bias=True, name="outer")
        made_NWD = jnp.tanh(outer(jax.nn.relu(inner(seen_NWF) + own.given_NWH)))
        new_NWD = self._gate(state, made_NWD, own.opens_NWD, number)
        moved_NWD = jnp.abs(new_NWD - state)
        pools = [pool(x, axis=1) for x in (new_NWD, moved_NWD) for pool in (jnp.mean, jnp.max)]
        return new_NWD, jnp.concatenate(pools, axis=-1)

    def read(self, own: Own, state: jax.Array) -> jax.Array:
        """`[N, W, 10]`: scores of every digit of the sum."""
        del own
        read = Projection("NWD,DC->NWC", shape=(WIDTH, 10), bias=True, name="read")
        return read(state)


def take(own: Own, place_M: jax.Array) -> Own:
    """What belongs to these rows."""
    return Own(*(each[place_M] for each in own))


ADDITION_TASK = Task(
    draw=draw, difficulty=steps_needed, core=AdditionCore, take=take, num_steps=STEPS, hidden=32
)
