"""Who decides which module of the mixture runs for a row, how that is learned, and how it is run.

    policy      ComputeController on moments of the row's tokens and its question
    learned     REINFORCE with a leave-one-out baseline on K sampled modules a row, a tenth of
                them any, r = -cross-entropy - price cost, and weights on entropy and on the use of
                all modules; the modules learn from all rows that sampled them
    run         the chosen module alone, by the ladder of `run_active`, in one program

Axes: B batch, M modules, K samples, Y classes, F features of the summary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rtdlm.modules.controller import (
    ComputeController,
    entropy,
    reinforce,
    run_active,
    sample_prices,
    utilisation,
)
from studies.mixture_modules import CONTRACTS, MODULES
from studies.mixture_tasks import FEATURES, TASKS, Mixture, Rows

SAMPLES = 4
LOW, HIGH, PRICE = 0.001, 0.1, 0.03
"""Prices of training, and that of the tests [nats for running all modules]."""
UTILISATION, ENTROPY = 0.1, 0.01
"""Weights of the losses that keep modules in use, and that keep a row's choice open. With an
entropy of 0.05 one seed of two never found the circuit. Nor was it found where of a row's samples
the one that loses least learned (arXiv 1606.07839), nor `depth` where the whole mixture's
likelihood was maximised: what is not yet learned by any module must go on being tried by all."""
ANY = 0.1
"""Share of samples that are dealt. A module that nobody chooses learns nothing, so that nobody
will: what no module can do yet has to be tried by the one that will."""
HIDDEN = 64
NETS: dict[str, hk.Transformed] = {
    name: hk.without_apply_rng(hk.transform(MODULES[name])) for name in TASKS
}


def costs() -> np.ndarray:
    """Float32 `[M]`: of each module, as a share of all."""
    cost_M = np.array([CONTRACTS[name].cost() for name in TASKS])
    return (cost_M / cost_M.sum()).astype(np.float32)


def policy_cost() -> float:
    """Operations a row of the policy, its confidence included."""
    seen = 3 * FEATURES
    return float(2 * (seen * (HIDDEN + 1) + 3 * HIDDEN + HIDDEN * (1 + len(TASKS))))


def _decide(rows: Rows, price_B: jax.Array) -> jax.Array:
    token_BTF = rows.token_BTF
    parts = [jnp.mean(token_BTF, axis=1), jnp.mean(token_BTF**2, axis=1), token_BTF[:, -1]]
    controller = ComputeController(num_steps=1, num_modules=len(TASKS), hidden=HIDDEN)
    decision = controller(
        jnp.concatenate(parts, axis=-1),
        step=jnp.int32(0), price_N=price_B, spent_N=jnp.zeros_like(price_B),
    )  # fmt: skip
    return decision.choice_NM


POLICY: hk.Transformed = hk.without_apply_rng(hk.transform(_decide))


def init(key: jax.Array, mixture: Mixture) -> Any:
    """Parameters of all modules, the policy's, and weights that are alike for all rows."""
    keys = jax.random.split(key, len(TASKS) + 1)
    found = {name: NETS[name].init(k, mixture.rows) for name, k in zip(TASKS, keys, strict=False)}
    price_B = jnp.full(len(mixture.answer_B), PRICE)
    alike = {"alike": jnp.zeros(len(TASKS))}
    return found | {"policy": POLICY.init(keys[-1], mixture.rows, price_B)} | alike


def decide(params: Any, rows: Rows, price_B: jax.Array) -> jax.Array:
    """`[B, M]`: logits of the modules."""
    return POLICY.apply(params["policy"], rows, price_B)


def every(params: Any, rows: Rows) -> jax.Array:
    """`[M, B, Y]`: scores of all modules for all rows."""
    return jnp.stack([NETS[name].apply(params[name], rows) for name in TASKS])


def run_chosen(params: Any, rows: Rows, choice_B: jax.Array) -> jax.Array:
    """`[B, Y]`: scores of each row's own module, which runs for no other."""
    scores_BY = jnp.zeros(rows.class_BMY.shape[::2])

    def one(name: str, _: jax.Array, place: jax.Array) -> jax.Array:
        return NETS[name].apply(params[name], jax.tree.map(lambda x: x[place], rows))

    for number, name in enumerate(TASKS):
        scores_BY = run_active(partial(one, name), scores_BY, choice_B == number)
    return scores_BY


def run_mixed(params: Any, rows: Rows, weight_BM: jax.Array) -> jax.Array:
    """`[B, Y]`: all modules' scores by their weights."""
    return jnp.einsum("MBY,BM->BY", every(params, rows), weight_BM)


Weigh = Callable[[Any, Rows], jax.Array]


def learn_controlled(net: Any, params: Any, mixture: Mixture) -> jax.Array:
    """Of the policy and of the modules that it samples."""
    del net
    lost_MB = _lost(every(params, mixture.rows), mixture.answer_B)
    price_B = _each(lambda key: sample_prices(key, (), low=LOW, high=HIGH), mixture)
    logit_BM = decide(params, mixture.rows, price_B)
    noise_BKM = _each(lambda key: jax.random.gumbel(key, (SAMPLES, len(TASKS))), mixture, fold=1)
    log_BM = jnp.log((1 - ANY) * jax.nn.softmax(logit_BM) + ANY / len(TASKS))
    chosen_KB = jnp.argmax(noise_BKM + log_BM[:, None], axis=-1).T
    lost_KB = jnp.take_along_axis(lost_MB, chosen_KB, axis=0)
    log_KB = jnp.take_along_axis(log_BM.T, chosen_KB, axis=0)
    reward_KB = -lost_KB - price_B[None] * jnp.asarray(costs())[chosen_KB]
    surrogate = reinforce(log_KB, reward_KB)
    # Its value means nothing: rates of learning are chosen by the loss of what was sampled.
    surrogate -= jax.lax.stop_gradient(surrogate)
    open_ended = UTILISATION * utilisation(logit_BM) - ENTROPY * jnp.mean(entropy(logit_BM))
    return jnp.mean(lost_KB) + surrogate + open_ended


def learn_random(net: Any, params: Any, mixture: Mixture) -> jax.Array:
    """Of modules that rows are dealt to."""
    del net
    lost_MB = _lost(every(params, mixture.rows), mixture.answer_B)
    return jnp.mean(jnp.take_along_axis(lost_MB, dealt(mixture)[None], axis=0))


def learn_needed(net: Any, params: Any, mixture: Mixture) -> jax.Array:
    """Of each row's needed module."""
    del net
    lost_MB = _lost(every(params, mixture.rows), mixture.answer_B)
    return jnp.mean(jnp.take_along_axis(lost_MB, mixture.task_B[None], axis=0))


def learn_one(name: str, net: Any, params: Any, mixture: Mixture) -> jax.Array:
    """Of one module for all rows."""
    del net
    scores_BY = NETS[name].apply(params[name], mixture.rows)
    return jnp.mean(_lost(scores_BY, mixture.answer_B))


def learn_mixed(weigh: Weigh, net: Any, params: Any, mixture: Mixture) -> jax.Array:
    """Of all modules for all rows, weighed."""
    del net
    scores_BY = run_mixed(params, mixture.rows, weigh(params, mixture.rows))
    return jnp.mean(_lost(scores_BY, mixture.answer_B))


def weigh_each(params: Any, rows: Rows) -> jax.Array:
    """`[B, M]`: weights that the policy's net gives to a row."""
    return jax.nn.softmax(decide(params, rows, jnp.full(len(rows.key_BMC), PRICE)))


def weigh_alike(params: Any, rows: Rows) -> jax.Array:
    """`[B, M]`: weights that are learned once for all rows."""
    weight_M = jax.nn.softmax(params["alike"])
    return jnp.broadcast_to(weight_M, (len(rows.key_BMC), len(TASKS)))


def choose(params: Any, mixture: Mixture) -> jax.Array:
    """int32 `[B]`: the module that the policy would have first, at the price of the tests."""
    price_B = jnp.full(len(mixture.answer_B), PRICE)
    return jnp.argmax(decide(params, mixture.rows, price_B), axis=-1)


def dealt(mixture: Mixture) -> jax.Array:
    """int32 `[B]`: any module."""
    return _each(lambda key: jax.random.randint(key, (), 0, len(TASKS)), mixture)


def _lost(scores: jax.Array, answer_B: jax.Array) -> jax.Array:
    label = jnp.broadcast_to(answer_B, scores.shape[:-1])
    return optax.softmax_cross_entropy_with_integer_labels(scores, label)


def _each(draw: Callable[[jax.Array], jax.Array], mixture: Mixture, *, fold: int = 0) -> jax.Array:
    return jax.vmap(lambda key: draw(jax.random.fold_in(key, fold)))(mixture.key_B)
