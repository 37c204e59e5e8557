"""How a core and its controller are trained: the core first, then the controller alone.

    1   mean over s of loss_s
    2   -log p(t*) + BCE(confidence, right)          t* = argmin_t loss_t + price cost_t

A core that is trained at all its exits alike is right early, and stays right. (With the exits that
its controller would take as weights, rows were right there and wrong after.) The second stage has a
price drawn for every row and sees a frozen core, whose exits are computed once for a pool of
examples. A net of one fixed depth has loss_d for its loss and no controller. Adam, decayed to zero
along a cosine.

Axes: N rows, S exits, F features of the summary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from rtdlm.modules.controller import best_exit, exit_loss, sample_prices
from studies.controlled import (
    CONTROLLER,
    Net,
    Params,
    Task,
    all_exits,
    at_depth,
    decisions,
    is_right,
    losses,
)

LOW, HIGH = 0.02, 20.0
"""Prices of a step [nats]."""
Loss = Callable[[Params, jax.Array], jax.Array]
"""(parameters, key of a batch) -> scalar."""


class Pool(NamedTuple):
    """What the controller learns from: exits of a frozen core."""

    summary_SNF: jax.Array
    loss_NS: jax.Array
    right_NS: jax.Array


def fit(loss: Loss, params: Params, key: jax.Array, *, steps: int, rate: Any) -> Any:
    """The parameters that minimise `loss`, and its values `[steps]`."""
    rule = optax.scale_by_adam()

    def step(carry: Any, number: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        done = number.astype(jnp.float32) / steps
        size = rate * 0.5 * (1 + jnp.cos(jnp.pi * done))
        value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(key, number))
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by counts
            moves, state = rule.update(grads, state)
        return (jax.tree.map(lambda leaf, move: leaf - size * move, params, moves), state), value

    numbers = jnp.arange(steps, dtype=jnp.int32)
    (params, _), values = jax.lax.scan(step, (params, rule.init(params)), numbers)
    return params, values


def core_loss(task: Task, net: Net, *, batch: int) -> Loss:
    """Of the first stage."""

    def loss(params: Params, key: jax.Array) -> jax.Array:
        examples = task.draw(key, batch)
        exits = all_exits(task, net, params, examples)
        return jnp.mean(jax.vmap(losses, (0, None))(exits.scores, examples.answer))

    return loss


def depth_loss(task: Task, net: Net, *, batch: int, depth: int) -> Loss:
    """Of a net that always takes `depth` steps."""

    def loss(params: Params, key: jax.Array) -> jax.Array:
        examples = task.draw(key, batch)
        scores = at_depth(task, net, params, examples, depth=depth)
        return jnp.mean(losses(scores, examples.answer))

    return loss


def pool_of(task: Task, net: Net, params: Params, examples: Any) -> Pool:
    """The exits of `examples`."""
    exits = all_exits(task, net, params, examples)
    return Pool(
        exits.summary_SNF,
        jax.vmap(losses, (0, None), 1)(exits.scores, examples.answer),
        jax.vmap(is_right, (0, None), 1)(exits.scores, examples.answer),
    )


def gate_loss(
    task: Task, net: Net, core: Params, pool: Pool, cost_S: jax.Array, *, batch: int
) -> Loss:
    """Of the second stage; its parameters are the controller's, `core` has the others."""

    def loss(params: Params, key: jax.Array) -> jax.Array:
        of_rows, of_price = jax.random.split(key)
        place_N = jax.random.randint(of_rows, (batch,), 0, pool.loss_NS.shape[0])
        price_N = sample_prices(of_price, (batch,), low=LOW, high=HIGH)
        log_halt_NS, sure_NS = decisions(
            task, net, hk.data_structures.merge(core, params), pool.summary_SNF[:, place_N],
            price_N=price_N,
        )  # fmt: skip
        best_N = best_exit(pool.loss_NS[place_N], cost_S[None], price_N)
        right_NS = pool.right_NS[place_N].astype(jnp.float32)
        wrong = optax.sigmoid_binary_cross_entropy(sure_NS, right_NS)
        return jnp.mean(exit_loss(log_halt_NS, best_N)) + jnp.mean(wrong)

    return loss


def divided(params: Params) -> tuple[Params, Params]:
    """Those of the controller, and the others."""
    found: tuple[Params, Params] = hk.data_structures.partition(
        lambda module, name, value: module.split("/")[0] == CONTROLLER, params
    )
    return found
