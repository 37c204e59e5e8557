"""Small nets without a language model, trained on drawn examples: what some studies compare.

A side has as many learning rates as every other, of which the first seed chooses the one that ends
with the smallest loss; Adam, decayed to zero along a cosine.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from benchmarks.child import Timer

RATES = (0.0003, 0.001, 0.003, 0.01)
Params = Any
Examples = Any
"""A NamedTuple of arrays, their first axis the batch."""


class Side(NamedTuple):
    """A net and what is minimised."""

    net: hk.Transformed
    loss: Callable[[hk.Transformed, Params, Examples], jax.Array]
    draw: Callable[[jax.Array], Examples]
    """Fresh examples of training, from a key."""


class Trained(NamedTuple):
    """One side with one seed."""

    params: Params
    loss: float
    """At the end, a mean over the last tenth of the steps."""
    cpu: float
    """[seconds]"""
    start: Params
    """Before the first step."""


def parameters(params: Params) -> int:
    """How many numbers a net has."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def begin(side: Side, seed: int) -> Params:
    """Fresh parameters."""
    key = jax.random.key(seed)
    return jax.jit(side.net.init)(key, side.draw(key))


def slopes(side: Side, params: Params, seed: int) -> Params:
    """The gradient at `params`, of the first batch."""
    examples = side.draw(jax.random.fold_in(jax.random.key(seed), 0))
    return jax.jit(jax.grad(lambda p: side.loss(side.net, p, examples)))(params)


class Trainer:
    """Compiles a side's training once for all seeds and rates."""

    def __init__(self, side: Side, *, steps: int) -> None:
        self._side, self._steps = side, steps
        rule = optax.scale_by_adam()

        def step(carry: Any, number: jax.Array, key: jax.Array, peak: jax.Array) -> Any:
            params, state = carry
            rate = peak * 0.5 * (1 + jnp.cos(jnp.pi * number.astype(jnp.float32) / steps))
            examples = side.draw(jax.random.fold_in(key, number))
            loss, grads = jax.value_and_grad(lambda p: side.loss(side.net, p, examples))(params)
            with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by counts
                moves, state = rule.update(grads, state)
            params = jax.tree.map(lambda leaf, move: leaf - rate * move, params, moves)
            return (params, state), loss

        def run(params: Params, key: jax.Array, peak: jax.Array) -> Any:
            numbers = jnp.arange(steps, dtype=jnp.int32)
            return jax.lax.scan(
                lambda carry, number: step(carry, number, key, peak),
                (params, rule.init(params)),
                numbers,
            )

        self._run = jax.jit(run)

    def train(self, seed: int, *, rate: float, start: Params | None = None) -> Trained:
        """From `start`, or fresh weights."""
        start = begin(self._side, seed) if start is None else start
        timer = Timer()
        key = jax.random.key(seed)
        (params, _), losses = self._run(start, key, jnp.float32(rate))
        last = losses[-max(1, self._steps // 10) :]
        return Trained(params, float(jnp.mean(last)), timer.read().cpu, start)

    def best_rate(self, seed: int) -> float:
        """The learning rate with which this seed ends lowest."""
        found: Mapping[float, float] = {
            rate: self.train(seed, rate=rate).loss for rate in RATES
        }  # fmt: skip
        return min(found, key=lambda rate: found[rate] if jnp.isfinite(found[rate]) else jnp.inf)
