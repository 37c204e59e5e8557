"""One expert more or less: the same function, moments carried along, and training that goes on."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.models import TMSModel
from rtdlm.training.loop import metric_values
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.replan import add_expert, prune_expert
from tests.models.small import DROPLESS, random_params, small_config
from tests.training.runs import PLAIN, Run, flat

BLOCK = "decoder/layers/block/experts"
# At 0.25 the biases meet within a few steps.
FORM: dict[str, Any] = {
    "experts": DROPLESS | {"bias_rate": 0.25}, "optimizer": {"name": "adamw", "warmup_steps": 0},
}  # fmt: skip


def logits(config: Any, params: Any) -> np.ndarray:
    ids = np.random.default_rng(0).integers(64, size=(4, 12), dtype=np.int32)
    return np.asarray(jax.jit(TMSModel(config).logits)(params, ids))


def test_an_expert_is_split_wakes_up_and_is_pruned() -> None:
    run = Run(small_config(**FORM))
    state, _ = run.go(run.start())  # moments that are not zero, biases that are uneven
    found = add_expert(run.config, state.params, state.optimizer, experts=[1, 3])
    assert found.config.experts.num_experts == 5
    before = logits(run.config, state.params)
    np.testing.assert_allclose(logits(found.config, found.params), before, atol=1e-5)
    was, now = flat(state.optimizer), flat(found.optimizer)
    assert was.keys() == now.keys()
    moments = [path for path in now if path.endswith(f"{BLOCK}/gate/w")]
    assert len(moments) == 2
    for path in moments:
        assert was[path].any()
        np.testing.assert_array_equal(now[path][:, :4], was[path])
        for layer, expert in enumerate([1, 3]):
            np.testing.assert_array_equal(now[path][layer, 4], was[path][layer, expert])

    larger = Run(found.config)
    idle = state.replace(params=found.params, optimizer=found.optimizer)
    idle, metrics = larger.go(jax.tree.map(jnp.copy, idle))
    first = metric_values(jax.device_get(metrics), larger.config)
    assert first["experts_collapsed"] >= 2.0, "the copies of both layers sleep"

    pruned = prune_expert(found.config, found.params, found.optimizer, experts=[4, 4])
    assert pruned.config == run.config
    for path, leaf in flat(pruned.params).items():
        np.testing.assert_array_equal(leaf, flat(state.params)[path], err_msg=path)

    for _ in range(12):
        idle, metrics = larger.go(idle)
    usage_LE = np.asarray(metrics.means.experts.usage_LE)
    assert (usage_LE[:, 4] > 0.0).all(), "the copies are used"


@pytest.mark.parametrize(
    ("scores", "optimizer"),
    [
        ("softmax", {"name": "adamw", "schedule": "cosine"}),
        ("softmax", {"name": "muon"}),
        ("sigmoid", {"name": "schedule_free", "schedule": "constant"}),
    ],
)
def test_a_run_without_biases_gets_them_by_its_first_split(
    scores: str, optimizer: dict[str, Any]
) -> None:
    form = {"num_experts": 4, "capacity_factor": 2.0, "scores": scores}
    run = Run(small_config(experts=form, optimizer=optimizer | {"warmup_steps": 0}))
    state, _ = run.go(run.start())
    split = partial(add_expert, run.config, experts=[2, 1])
    found = split(state.params, state.optimizer)
    now = found.config.experts
    assert (now.bias_rate, now.balance, now.capacity(12)) == (0.001, 0.01, 12)
    before = logits(run.config, state.params)
    np.testing.assert_allclose(logits(found.config, found.params), before, atol=1e-5)

    larger = Run(found.config)
    fresh = larger.start()
    for made, own in ((found.params, fresh.params), (found.optimizer, fresh.optimizer)):
        assert jax.tree.structure(made) == jax.tree.structure(own)
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, own)
    # As in a checkpoint, which has what schedule-free trains beside the average, too.
    rest = {"optimizer": state.optimizer, "trained_params": state.params}
    by_name = split(flat(state.params), flat(rest))
    expected = {"optimizer": found.optimizer, "trained_params": found.params}
    assert_equal_arrays(by_name.params, flat(found.params))
    assert_equal_arrays(by_name.optimizer, flat(expected))
    larger.go(state.replace(params=found.params, optimizer=found.optimizer))


@pytest.mark.parametrize("name", ["lion", "sgd", "adamw"])
def test_biases_come_to_every_module_that_has_experts(name: str) -> None:
    """Between dense layers, in two loops; on a mesh whose axis the new number does not divide."""
    form = {"num_experts": 4, "layers": "sandwich", "scores": "sigmoid"}
    layers = {
        "num_layers": 5,
        "attention_type": "sliding",
        "attention": {"window": 3, "global_every": 2},
    }
    config = small_config(experts=form, optimizer={"name": name}, mesh={"expert": 4}, **layers)
    optimizer = make_optimizer(config.optimizer)
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), TMSModel(config).shapes)
    found = add_expert(config, params, optimizer.init(params), experts=[0, 1, 2])
    assert (found.config.experts.num_experts, found.config.mesh.expert) == (5, 1)
    shapes = TMSModel(found.config).shapes
    assert jax.tree.map(jnp.shape, found.params) == jax.tree.map(jnp.shape, shapes)
    own = jax.eval_shape(optimizer.init, shapes)
    assert jax.tree.structure(found.optimizer) == jax.tree.structure(own)
    assert jax.tree.map(jnp.shape, found.optimizer) == jax.tree.map(jnp.shape, own)
    biases = [leaf for path, leaf in flat(found.params).items() if path.endswith("experts/bias")]
    assert len(biases) > 1 and all((bias[:, 4] == -1.0).all() for bias in biases)


def assert_equal_arrays(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_a_split_divides_the_load_of_the_most_used_expert() -> None:
    """Only biases move, so that the two stay equal: they take turns until gradients part them."""
    still = PLAIN | {"learning_rate": 1e-12}
    run = Run(small_config(experts={**DROPLESS, "bias_rate": 0.03}, optimizer=still))
    state, metrics = run.go(run.start())
    usage_LE = np.asarray(metrics.means.experts.usage_LE)
    hot_L, before_L = usage_LE.argmax(axis=1), usage_LE.max(axis=1)
    assert (before_L > 1.5 * usage_LE.mean(axis=1)).all(), "some are crowded"
    found = add_expert(run.config, state.params, state.optimizer, experts=list(hot_L))
    larger = Run(found.config)
    moved = state.replace(params=found.params, optimizer=found.optimizer)
    split, told = jax.tree.map(jnp.copy, moved), []
    for _ in range(60):
        split, metrics = larger.go(split)
        told.append(np.asarray(metrics.means.experts.usage_LE))
    usage_LE = np.mean(told[30:], axis=0)
    pair_L2 = np.stack([usage_LE[[0, 1], hot_L], usage_LE[:, -1]], axis=1)
    assert (pair_L2.max(axis=1) < 0.7 * before_L).all()
    assert (pair_L2.min(axis=1) > 0.3 * before_L).all()


@pytest.mark.parametrize(("top_k", "atol"), [(2, 1e-5), (1, 1e-4)])
def test_pruning_an_unused_expert_leaves_the_function(top_k: int, atol: float) -> None:
    """Under a softmax; with a single choice, as far as the probability it had was small."""
    form = {"num_experts": 4, "top_k": top_k, "capacity_factor": 1.0}
    config = small_config(experts=form)
    params = random_params(TMSModel(config))
    # A constant that every normalised row has in part: its column loses everywhere.
    norm = params["decoder/layers/block/feedforward_norm"]
    norm["scale"] = jnp.zeros_like(norm["scale"]).at[:, 0].set(1.0)
    table = params["decoder"]["embedding"]
    params["decoder"]["embedding"] = table.at[:, 0].set(30.0)
    router = params[f"{BLOCK}/router"]
    router["w"] = router["w"].at[:, 0, 2].set(-30.0)
    found = prune_expert(config, params, {}, experts=[2, 2])
    assert found.config.experts.capacity(12) == config.experts.capacity(12)
    np.testing.assert_allclose(
        logits(found.config, found.params), logits(config, params), atol=atol
    )


@pytest.mark.parametrize(
    ("function", "form", "experts", "sentence"),
    [
        (add_expert, {"num_experts": 4, "top_k": 1}, [0, 0], "weighs an expert by its score"),
        (add_expert, {"num_experts": 4, "bias_rate": 0.1}, [0, 0], "only 'sigmoid' can be split"),
        (add_expert, DROPLESS, [0], "1 experts are given for 2 layers"),
        (add_expert, DROPLESS, [0, 4], "expert 4 is outside 0 to 3"),
        (prune_expert, {"num_experts": 2}, [0, 0], "leaves no expert to prune"),
        (prune_expert, {"num_experts": 4, "bias_rate": 0.1}, [0, 0], "chooses otherwise"),
    ],
)
def test_what_would_change_the_function_is_refused(
    function: Any, form: dict[str, Any], experts: list[int], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        function(small_config(experts=form), {}, {}, experts=experts)
    assert sentence in str(caught.value)
