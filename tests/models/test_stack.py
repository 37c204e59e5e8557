"""The stack of layers against a plain loop, and what recomputation must not change."""

from functools import cache
from operator import itemgetter
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel
from rtdlm.models.block import Block, BlockInput, Stream
from rtdlm.models.layers import LayerPlan
from rtdlm.models.layers import segments as segments_of
from rtdlm.models.passing import Scores
from rtdlm.modules.attention import Rows, causal_mask, rotation
from tests.models.small import (
    HASHED,
    KEYS,
    ROOMY,
    TIERS,
    assert_trees_close,
    packed_batch,
    random_params,
    small_config,
)

DEEP: dict[str, Any] = {"num_layers": 3, "layer_unroll": 1}


def scores_and_gradients(config: AGIConfig, key: jax.Array | None = None) -> tuple[Scores, Any]:
    model, batch = TMSModel(config), packed_batch(config, rows=2)

    def loss(params: Any) -> tuple[jax.Array, Scores]:
        scores = model.scores(
            params,
            jnp.asarray(batch.input_ids),
            jnp.asarray(batch.labels),
            positions_BT=jnp.asarray(batch.positions),
            segment_ids_BT=jnp.asarray(batch.segment_ids),
            key=key,
        )
        aux = 0.0 if scores.experts is None else jnp.sum(scores.experts.balance)
        return jnp.sum(scores.tokens.nll * batch.weights) + aux, scores

    grads, scores = jax.jit(jax.grad(loss, has_aux=True))(random_params(model))
    return scores, grads


@pytest.fixture(scope="module")
def plain() -> tuple[Scores, Any]:
    return scores_and_gradients(small_config(**DEEP, experts=ROOMY, dropout_rate=0.3), KEY)


KEY = jax.random.key(5)


@pytest.mark.parametrize(
    "change",
    [
        {"layer_unroll": 3},
        {"layer_unroll": 2},
        {"remat": "full"},
        {"remat": "dots"},
        {"remat": "named"},
    ],
    ids=str,
)
def test_neither_unrolling_nor_recomputing_changes_scores_gradients_or_dropout(
    plain: tuple[Scores, Any], change: dict[str, Any]
) -> None:
    config = small_config(**DEEP | change, experts=ROOMY, dropout_rate=0.3)
    assert_trees_close(scores_and_gradients(config, KEY), plain)


MEMORIES = {"product keys": KEYS, "hashed": HASHED, "tiers": {"memory": TIERS}}


@cache
def plain_memory(form: str) -> tuple[Scores, Any]:
    return scores_and_gradients(small_config(**DEEP, **MEMORIES[form]))


@pytest.mark.parametrize(
    ("form", "change"),
    [(form, change) for form in MEMORIES for change in ({"layer_unroll": 3}, {"remat": "full"})],
    ids=str,
)
def test_a_memory_is_the_same_unrolled_and_recomputed(form: str, change: dict[str, Any]) -> None:
    config = small_config(**DEEP | change, **MEMORIES[form])
    assert_trees_close(scores_and_gradients(config), plain_memory(form))


PATTERNS: dict[str, dict[str, Any]] = {
    "alike": DEEP,
    "local and global": {
        "num_layers": 5, "attention_type": "sliding",
        "attention": {"window": 3, "global_every": 2},
    },
    "sandwich of experts": {"num_layers": 4, "experts": {**ROOMY, "layers": "sandwich"}},
}  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_stack_is_a_loop_over_slices_of_its_parameters(pattern: str) -> None:
    config = small_config(**PATTERNS[pattern])
    model, batch = TMSModel(config), packed_batch(config, rows=2)
    params = random_params(model)
    segments, positions = jnp.asarray(batch.segment_ids), jnp.asarray(batch.positions)
    dense = Rows(positions, causal_mask(segments))
    window = Rows(positions, segment_ids_BT=segments)
    given = BlockInput(
        {"gqa": dense, "sliding": window},
        rotation(positions, head_dim=config.head_dim, base=10_000.0),
        (segments > 0).astype(jnp.float32),
    )

    def apply(plan: LayerPlan, own: Any, x: jax.Array) -> jax.Array:
        block = hk.transform(lambda x: Block(config, plan)(Stream(x), given, None)[0].x_BTD)
        return jax.jit(block.apply)(own, None, x)

    x = params["decoder"]["embedding"][batch.input_ids]
    for loop, segment in enumerate(segments_of(config)):
        for turn in range(segment.repeats):
            for place, plan in enumerate(segment.round):
                prefix = f"decoder/layers{numbered(loop)}/block{numbered(place)}/"
                own = {
                    f"block/{path.removeprefix(prefix)}": jax.tree.map(itemgetter(turn), leaves)
                    for path, leaves in params.items()
                    if path.startswith(prefix)
                }
                x = apply(plan, own, x)
    x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    x = x * params["decoder/final_norm"]["scale"][None, None]
    expected = jnp.einsum("BTD,VD->BTV", x, params["decoder"]["output"])
    actual = jax.jit(model.logits)(
        params, batch.input_ids, positions_BT=positions, segment_ids_BT=segments
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


def numbered(place: int) -> str:
    return f"_{place}" if place else ""


def kept_for_the_backward_pass(policy: str) -> list[tuple[int, ...]]:
    """Shapes of the stacked activations that the forward pass leaves for the backward pass."""
    model = TMSModel(small_config(**DEEP, remat=policy))
    ids = jnp.zeros((5, 12), jnp.int32)
    loss = lambda params: jnp.sum(model.scores(params, ids, ids).tokens.nll)  # noqa: E731
    residuals = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], model.shapes)
    parameters = {leaf.shape for leaf in jax.tree.leaves(model.shapes)}
    shapes = [leaf.shape for leaf in jax.tree.leaves(residuals)]
    return sorted(shape for shape in shapes if shape[:1] == (3,) and shape not in parameters)


def test_remat_policies_keep_what_they_say() -> None:
    """Three layers; 60 tokens in 5 rows; 16 features, 4 + 2 + 2 heads of 4, 32 hidden."""
    stream = (3, 5, 12, 16)
    assert kept_for_the_backward_pass("full") == [stream]
    assert kept_for_the_backward_pass("named") == [stream, stream]
    # Keys and values; queries and what attention writes; gate and up.
    products = [(3, 60, 8)] * 2 + [(3, 60, 16)] * 2 + [(3, 60, 32)] * 2
    assert kept_for_the_backward_pass("dots") == [stream, *products]
    kept = kept_for_the_backward_pass("none")
    assert (3, 5 * 2, 2 * 12, 12) in kept, "attention weights"
    assert len(kept) > 2 * len([stream, *products])


@pytest.mark.parametrize("silent", ["attention/output", "feedforward/down"])
def test_dropout_falls_on_both_writes_of_a_block(silent: str) -> None:
    """With the other write silenced, half of what a block adds to the stream is zero."""
    config = small_config(dropout_rate=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 16)), jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(12)[None], (2, 12))
    rows = Rows(positions, causal_mask(jnp.ones_like(positions)))
    given = BlockInput({"gqa": rows}, None, jnp.ones((2, 12)))
    plan = LayerPlan("gqa", experts=False)
    block = hk.transform(lambda x: Block(config, plan)(Stream(x), given, None)[0].x_BTD)
    params = jax.jit(block.init)(jax.random.key(0), x)
    params[f"block/{silent}"]["w"] = jnp.zeros_like(params[f"block/{silent}"]["w"])
    added = np.asarray(jax.jit(block.apply)(params, jax.random.key(1), x) - x)
    assert 0.4 < (added == 0).mean() < 0.6
    still = np.asarray(jax.jit(block.apply)(params, None, x) - x)
    assert (still != 0).all()


def test_dropout_differs_by_layer_and_key_and_is_off_without_one() -> None:
    config = small_config(dropout_rate=0.5)
    model = TMSModel(config)
    params = random_params(model)
    ids = jnp.asarray(packed_batch(config, rows=2).input_ids)
    logits = jax.jit(model.logits)
    off = logits(params, ids)
    still = jax.jit(TMSModel(small_config()).logits)(params, ids)
    np.testing.assert_array_equal(off, still)
    one, same, other = (logits(params, ids, key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert float(jnp.mean(jnp.abs(one - other))) > 0.1
    assert float(jnp.mean(jnp.abs(one - off))) > 0.1
