"""Which exit to take of a computation that can stop after each of its steps.

    p          of every exit, as `rtdlm.modules.primitives.halting` has it
    trained    to put its weight on t* = argmin_t (loss_t + price c_t), c_t the cost of t steps
    deployed   the first exit by which half of p is spent: its median

Supervised by what every exit would have lost, which training knows, the gate has a signal at every
step, and no sampling adds to its variance. KL(p || uniform) keeps all exits open while they learn
(LoopLM, arXiv 2510.25741: a geometric prior starves late steps).

Axes: N any leading axes, S exits.
"""

import jax
import jax.numpy as jnp


def expected(halt_NS: jax.Array, value_NS: jax.Array) -> jax.Array:
    """`[N]`: the mean of what each exit has, by its probability."""
    return jnp.sum(halt_NS * value_NS, axis=-1)


def best_exit(loss_NS: jax.Array, cost_NS: jax.Array, price_N: jax.Array) -> jax.Array:
    """int32 `[N]`: the exit with the least loss and price times cost; the first of equals."""
    return jnp.argmin(loss_NS + price_N[..., None] * cost_NS, axis=-1)


def exit_loss(log_halt_NS: jax.Array, exit_N: jax.Array) -> jax.Array:
    """`[N]`: -log p of the exit that was best [nats]."""
    return -jnp.take_along_axis(log_halt_NS, exit_N[..., None], axis=-1)[..., 0]


def divergence_from_uniform(log_halt_NS: jax.Array) -> jax.Array:
    """`[N]`: KL(p || uniform) = log S - entropy [nats]."""
    entropy_N = -jnp.sum(jnp.exp(log_halt_NS) * log_halt_NS, axis=-1)
    return jnp.log(jnp.float32(log_halt_NS.shape[-1])) - entropy_N


def median_exit(log_halt_NS: jax.Array) -> jax.Array:
    """int32 `[N]`: the first exit by which half of the probability is spent."""
    spent_NS = jnp.cumsum(jnp.exp(log_halt_NS), axis=-1)
    # The last exit has whatever rounding left of the sum.
    return jnp.sum((spent_NS[..., :-1] < 0.5).astype(jnp.int32), axis=-1)


def stays(log_open_N: jax.Array, logit_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step of `median_exit`: the log-probability of going on, and whether that is above half.

    `log_open_N` is of having come to this step, 0 at the first.
    """
    log_open_N = log_open_N + jax.nn.log_sigmoid(-logit_N)
    return log_open_N, log_open_N > jnp.log(0.5)
