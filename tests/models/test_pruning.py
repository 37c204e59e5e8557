"""Heads measured, silenced and removed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rtdlm.config import UserError
from rtdlm.data.batch import pad_rows
from rtdlm.models import TMSModel
from rtdlm.models.heads import remove_heads, scale_heads, silence_heads
from rtdlm.models.layers import layers_of
from rtdlm.models.pruning import PruningManager
from rtdlm.parallel import path_name
from tests.models.small import RICH, assert_trees_close, packed_batch, random_params, small_config

# Layers of two kinds, in two loops.
MIXED: dict[str, Any] = {
    "num_layers": 3, "attention_type": "sliding", "attention": {"window": 3, "global_every": 2},
}  # fmt: skip


def test_a_planted_useless_head_is_found_and_its_loss_changes_nothing() -> None:
    """One head a group writes nothing, another one in each; the manager is to find just these."""
    config = small_config(**MIXED)
    model, planted = TMSModel(config), [[1, 2], [0, 3], [1, 3]]
    params = silence_heads(config, random_params(model), planted)
    manager = PruningManager(model)
    with pytest.raises(UserError, match="no row was measured yet"):
        _ = manager.importance_LH
    for seed in range(2):
        # A row of padding alone changes no mean.
        manager.update(params, pad_rows(packed_batch(config, rows=2, seed=seed), 3))
    assert manager.weakest_in_groups(1) == planted == manager.weakest(6)
    useless = np.zeros((3, 4), bool)
    for layer, heads in enumerate(planted):
        useless[layer, heads] = True
    for measured in (manager.importance_LH, manager.usage_LH):
        assert (measured[useless] == 0).all() and (measured[~useless] > 1e-3).all()
    pruned = remove_heads(config, params, None, planted)
    assert pruned.config.num_heads == pruned.config.kv_heads == 2
    batch = packed_batch(config)
    before = jax.jit(model.batch_scores)(params, batch).tokens
    after = jax.jit(TMSModel(pruned.config).batch_scores)(pruned.params, batch).tokens
    assert_trees_close(after, before, atol=1e-5)


def test_importance_and_usage_are_what_they_say() -> None:
    """Slopes by finite differences row by row; lengths by silencing all but one head."""
    config = small_config(num_layers=1)
    model, batch = TMSModel(config), packed_batch(config, rows=3)
    params = random_params(model)
    manager = PruningManager(model)
    manager.update(params, batch)

    @jax.jit
    def losses(gates_LH: jax.Array) -> jax.Array:
        nll_BT = model.batch_scores(scale_heads(config, params, gates_LH), batch).tokens.nll
        return jnp.sum(nll_BT * batch.weights, 1) / jnp.sum(batch.weights, 1)

    for head in range(4):
        step = 0.01 * jax.nn.one_hot(jnp.asarray([head]), 4)
        slope_B = (losses(1 + step) - losses(1 - step)) / 0.02
        expected = float(jnp.mean(jnp.abs(slope_B)))
        assert manager.importance_LH[0, head] == pytest.approx(expected, rel=5e-3)
    # What is written is linear in the gate: twice the gate is twice the use.
    twice = PruningManager(model)
    twice.update(scale_heads(config, params, jnp.asarray([[1.0, 2.0, 1.0, 0.5]])), batch)
    np.testing.assert_allclose(
        twice.usage_LH[0], manager.usage_LH[0] * np.array([1, 2, 1, 0.5]), rtol=1e-5
    )


FORMS: dict[str, tuple[dict[str, Any], list[list[int]], tuple[int, int]]] = {
    "within groups": ({}, [[0, 3], [1, 2]], (2, 2)),
    "whole groups": ({}, [[0, 1], [2, 3]], (2, 1)),
    "mqa": ({"attention_type": "mqa", "num_kv_heads": None}, [[0], [3]], (3, 1)),
    "delta": ({"attention_type": "delta", "num_kv_heads": None}, [[1], [2]], (3, 3)),
    "spiking, biased": ({"attention_type": "spiking", "biases": "qkv"}, [[2, 3], [0, 1]], (2, 1)),
    "sparse": (
        {"attention_type": "sparse", "attention": {"window": 3, "block": 2, "chosen": 1}},
        [[0, 1], [2, 3]],
        (2, 1),
    ),
    "rich": (RICH, [[0, 2], [1, 3]], (2, 2)),
}


@pytest.mark.parametrize("form", FORMS)
def test_removed_heads_are_silenced_heads(form: str) -> None:
    options, gone, (num_heads, kv_heads) = FORMS[form]
    config = small_config(**options)
    model, batch = TMSModel(config), packed_batch(config, rows=2)
    params = silence_heads(config, random_params(model), gone)
    small = remove_heads(config, params, None, gone)
    assert (small.config.num_heads, small.config.kv_heads) == (num_heads, kv_heads)
    assert small.config.head_dim == config.head_dim
    less = TMSModel(small.config)
    assert jax.tree.map(jnp.shape, small.params) == jax.tree.map(lambda x: x.shape, less.shapes)
    whole = jax.jit(model.batch_scores)(params, batch).tokens.nll
    found = jax.jit(less.batch_scores)(small.params, batch).tokens.nll
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_moments_go_along() -> None:
    """A step of Adam moves what stays as it does in the whole model, from any moments."""
    options, gone, _ = FORMS["whole groups"]
    config, optimizer = small_config(**options), optax.adam(0.01)
    model, batch = TMSModel(config), packed_batch(config, rows=2)
    params = silence_heads(config, random_params(model), gone)
    state = optimizer.init(params)
    moments = jax.tree.map(
        lambda x: jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape) ** 2, params
    )
    state = (state[0]._replace(mu=moments, nu=moments), *state[1:])
    small = remove_heads(config, params, state, gone)

    def stepped(model: TMSModel, params: Any, state: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.sum(model.batch_scores(params, batch).tokens.nll * batch.weights)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    # Optax counts in integers what it takes powers by.
    with jax.numpy_dtype_promotion("standard"):
        whole = jax.jit(lambda *x: stepped(model, *x))(params, state)
        less = jax.jit(lambda *x: stepped(TMSModel(small.config), *x))(*small[1:])
    cut = remove_heads(config, *whole, gone)
    assert_trees_close(less, (cut.params, cut.optimizer), atol=1e-4, rtol=1e-4)


def test_silencing_touches_the_named_heads_alone() -> None:
    config = small_config(**MIXED)
    params = random_params(TMSModel(config))
    after = silence_heads(config, params, [[0], [], [1, 3]])
    for layer, heads in zip(layers_of(config), ([0], [], [1, 3]), strict=True):
        path = f"{layer.module}/attention/output"
        for head in range(4):
            old, new = (tree[path]["w"][layer.turn, head] for tree in (params, after))
            np.testing.assert_array_equal(new, 0 * old if head in heads else old)
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
        if "attention/output" not in path_name(path):
            np.testing.assert_array_equal(leaf, params[path[0].key][path[1].key])


@pytest.mark.parametrize(
    ("options", "heads", "sentence"),
    [
        ({}, [[0]], "heads are given for 1 layers and the model has num_layers=2"),
        ({}, [[0], [4]], "heads [4] of layer 1 are not all among the 4 that it has"),
        ({}, [[0], [1]], "[[1, 0], [1, 0]] heads of each group of each layer cannot be removed"),
        ({}, [[0, 1], []], "[[2, 0], [0, 0]] heads of each group"),
        ({}, [[0, 1, 2, 3]] * 2, "all 4 heads of a layer would be removed"),
        ({"position_encoding": "alibi"}, [[0, 2]] * 2, "where a head's number says its slope"),
        (
            {"attention_type": "sparse", "attention": {"window": 3, "block": 2}},
            [[0, 2]] * 2,
            "where the heads of a group choose together",
        ),
        ({"value_residual": True}, [[0, 1]] * 2, "cannot be removed with value_residual=True"),
    ],
)
def test_what_leaves_no_model_is_refused(
    options: dict[str, Any], heads: list[list[int]], sentence: str
) -> None:
    config = small_config(**options)
    with pytest.raises(UserError) as caught:
        remove_heads(config, random_params(TMSModel(config)), None, heads)
    assert sentence in str(caught.value)


def test_moments_of_another_shape_are_refused() -> None:
    config = small_config()
    params = random_params(TMSModel(config))
    path = "decoder/layers/block/attention/query"
    with pytest.raises(UserError, match="only moments of the parameter's own shape"):
        remove_heads(config, params, {"v_row": {path: {"w": jnp.ones((2, 16))}}}, [[0, 2]] * 2)
