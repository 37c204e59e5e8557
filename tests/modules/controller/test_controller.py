"""The policy's net and the copy gate: what learns from what, and what is bounded."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rtdlm.modules.controller import (
    ComputeController,
    CopyGate,
    Decision,
    best_exit,
    exit_loss,
)
from rtdlm.modules.primitives import BOUND, log_halting

N, F, STEPS, MODULES = 6, 5, 4, 3


def summary(seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (N, F))


def build(summary_NF: jax.Array, price_N: jax.Array) -> list[Decision]:
    controller = ComputeController(num_steps=STEPS, num_modules=MODULES, hidden=8)
    return [
        controller(
            (step + 1.0) * summary_NF, step=jnp.int32(step), price_N=price_N,
            spent_N=jnp.full(N, step / STEPS),
        )
        for step in range(STEPS)
    ]  # fmt: skip


NET = hk.without_apply_rng(hk.transform(build))
PRICE = jnp.full(N, 0.3)


@pytest.fixture(scope="module")
def params() -> Any:
    return NET.init(jax.random.key(1), summary(), PRICE)


def of_exits(decisions: list[Decision]) -> jax.Array:
    """With rows for which every exit is the best one."""
    log_p = log_halting(jnp.stack([d.halt_N for d in decisions[:-1]], axis=-1))
    loss_NS = -5.0 * jax.nn.one_hot(jnp.arange(N) % STEPS, STEPS)
    cost_NS = jnp.broadcast_to(jnp.arange(1.0, STEPS + 1), (N, STEPS))
    return jnp.mean(exit_loss(log_p, best_exit(loss_NS, cost_NS, PRICE)))


def of_choices(decisions: list[Decision]) -> jax.Array:
    chosen_N = jnp.arange(N) % MODULES
    lost = [
        optax.softmax_cross_entropy_with_integer_labels(d.choice_NM, chosen_N) for d in decisions
    ]
    return jnp.mean(jnp.stack(lost))


def of_confidence(decisions: list[Decision]) -> jax.Array:
    right_N = (jnp.arange(N) < N // 3).astype(jnp.float32)
    lost = [optax.sigmoid_binary_cross_entropy(d.confidence_N, right_N) for d in decisions]
    return jnp.mean(jnp.stack(lost))


SURE = {"controller/confidence"}
DECIDES = {"controller/summary", "controller/told", "controller", "controller/decide"}


@pytest.mark.parametrize(
    ("loss", "learns"), [(of_exits, DECIDES), (of_choices, DECIDES), (of_confidence, SURE)]
)
def test_each_loss_moves_all_that_it_is_meant_for_and_nothing_else(
    params: Any, loss: Any, learns: set[str]
) -> None:
    assert set(params) == SURE | DECIDES
    slopes = jax.jit(jax.grad(lambda p: loss(NET.apply(p, summary(), PRICE))))(params)
    for path, leaves in slopes.items():
        for name, slope in leaves.items():
            moved = np.asarray(slope).any()
            assert moved == (path in learns), (path, name)


def test_every_step_has_numbers_of_its_own(params: Any) -> None:
    slopes = jax.grad(lambda p: of_exits(NET.apply(p, summary(), PRICE)))(params)
    moved = np.asarray(slopes["controller"]["steps"]).any(axis=1)
    # At the last step everyone halts, whatever the logit.
    assert moved.tolist() == [True, True, True, False]


def test_every_kind_of_logit_is_bounded(params: Any) -> None:
    large = jax.tree.map(lambda leaf: 1e3 * leaf, params)
    for decision in NET.apply(large, 1e3 * summary(), PRICE):
        for logit in decision:
            assert float(jnp.abs(logit).max()) == pytest.approx(BOUND, rel=1e-5)
            assert logit.dtype == jnp.float32


def test_the_summary_gets_no_gradient(params: Any) -> None:
    def total(x: jax.Array) -> jax.Array:
        return sum(
            jnp.sum(logit**2) for decision in NET.apply(params, x, PRICE) for logit in decision
        )

    assert not jax.grad(total)(summary()).any()


def test_price_and_what_was_spent_move_the_decision_and_not_the_confidence(params: Any) -> None:
    def one(price: float, spent: float) -> Decision:
        def build(x: jax.Array) -> Decision:
            controller = ComputeController(num_steps=STEPS, num_modules=MODULES, hidden=8)
            told = {"price_N": jnp.full(N, price), "spent_N": jnp.full(N, spent)}
            return controller(x, step=jnp.int32(1), **told)

        return hk.without_apply_rng(hk.transform(build)).apply(params, summary())

    first = one(0.1, 0.25)
    for other in (one(10.0, 0.25), one(0.1, 0.9)):
        assert (first.halt_N != other.halt_N).all()
        assert (first.choice_NM != other.choice_NM).all()
        np.testing.assert_array_equal(first.confidence_N, other.confidence_N)


def test_leading_axes_are_kept(params: Any) -> None:
    flat = NET.apply(params, summary(), PRICE)[0]

    def build(x: jax.Array) -> Decision:
        controller = ComputeController(num_steps=STEPS, num_modules=MODULES, hidden=8)
        return controller(
            x, step=jnp.int32(0), price_N=PRICE.reshape(2, 3), spent_N=jnp.zeros((2, 3))
        )

    net = hk.without_apply_rng(hk.transform(build))
    found = net.apply(params, summary().reshape(2, 3, F))
    assert found.choice_NM.shape == (2, 3, MODULES)
    for mine, theirs in zip(found, flat, strict=True):
        np.testing.assert_allclose(mine.reshape(theirs.shape), theirs, atol=1e-6)


def gate(features: int) -> hk.Transformed:
    def build(
        given: jax.Array, state: jax.Array, candidate: jax.Array, step: jax.Array
    ) -> jax.Array:
        copy = CopyGate(num_steps=STEPS, features=features)
        return copy(state, candidate, copy.opens(given), step)

    return hk.without_apply_rng(hk.transform(build))


@pytest.mark.parametrize("features", [1, F])
def test_a_gate_is_its_formula(features: int) -> None:
    net, state, candidate = gate(features), summary(1), summary(2)
    params = net.init(jax.random.key(0), summary(), state, candidate, jnp.int32(0))
    steps = np.random.default_rng(0).normal(size=(STEPS, features)).astype(np.float32)
    params = {**params, "copy_gate": {"steps": jnp.asarray(steps)}}
    weight = params["copy_gate/open"]
    assert weight["w"].shape == (F, features)
    for step in range(STEPS):
        found = net.apply(params, summary(), state, candidate, jnp.int32(step))
        logit = np.asarray(summary() @ weight["w"]) + np.asarray(weight["b"]) + steps[step]
        z = 1 / (1 + np.exp(-logit))
        expected = np.asarray(state) + z * np.asarray(candidate - state)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_closed_gate_keeps_the_state_and_an_open_one_takes_the_candidate() -> None:
    net, state, candidate = gate(1), summary(1), summary(2)
    params = net.init(jax.random.key(0), summary(), state, candidate, jnp.int32(0))
    for step, logit in enumerate((-200.0, 200.0)):
        steps = params["copy_gate"]["steps"].at[step].set(logit)
        params = {**params, "copy_gate": {"steps": steps}}
    closed, opened = (net.apply(params, summary(), state, candidate, jnp.int32(s)) for s in (0, 1))
    np.testing.assert_array_equal(closed, state)
    np.testing.assert_allclose(opened, candidate, atol=1e-6)


def test_a_gate_keeps_the_states_format() -> None:
    net = gate(1)
    state, candidate = (summary(s).astype(jnp.bfloat16) for s in (1, 2))
    params = net.init(jax.random.key(0), summary(), state, candidate, jnp.int32(0))
    assert net.apply(params, summary(), state, candidate, jnp.int32(0)).dtype == jnp.bfloat16
