"""Learning choices that have no gradient: REINFORCE with a leave-one-out baseline.

    r_k = -loss_k - price cost_k          of K samples of one item's choices
    b_k = mean of r_j over j != k
    minimised: -(r_k - b_k) log pi(choices_k), averaged over k

(arXiv 2402.14740 measures it among others.) The baseline of a sample does not depend on the
sample, so the gradient is that of the expected reward. Entropy keeps every choice alive.

Axes: K samples, N items, M modules.
"""

import jax
import jax.numpy as jnp


def leave_one_out(reward_KN: jax.Array) -> jax.Array:
    """`[K, N]`: each reward less the mean of the item's other samples; K is at least 2."""
    count = reward_KN.shape[0]
    assert count >= 2, "a baseline needs another sample"
    others_KN = (jnp.sum(reward_KN, axis=0, keepdims=True) - reward_KN) / (count - 1)
    return reward_KN - others_KN


def reinforce(log_chosen_KN: jax.Array, reward_KN: jax.Array) -> jax.Array:
    """Scalar to minimise; only `log_chosen_KN`, the log-probability of what was done, learns."""
    advantage_KN = jax.lax.stop_gradient(leave_one_out(reward_KN))
    return -jnp.mean(advantage_KN * log_chosen_KN)


def entropy(logit_NM: jax.Array) -> jax.Array:
    """`[N]`: of the choice among M [nats]."""
    log_share_NM = jax.nn.log_softmax(logit_NM, axis=-1)
    return -jnp.sum(jnp.exp(log_share_NM) * log_share_NM, axis=-1)


def utilisation(logit_NM: jax.Array) -> jax.Array:
    """Scalar: log M less the entropy of the mean choice, 0 where all are used alike [nats].

    It is over the mean, so that every item may still be decided: no module is to be dead.
    """
    share_M = jnp.mean(jax.nn.softmax(logit_NM.reshape(-1, logit_NM.shape[-1]), axis=-1), axis=0)
    floor = jnp.maximum(share_M, 1e-9)
    return jnp.log(jnp.float32(share_M.shape[0])) + jnp.sum(share_M * jnp.log(floor))
