"""Every optimizer against its paper in float64, and which parameter belongs to which group."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rtdlm.config import AGIConfig, OptimizerConfig, UserError
from rtdlm.models import TMSModel
from rtdlm.parallel import path_name
from rtdlm.training import muon
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import (
    Progress,
    check_rules,
    evaluation_params,
    learning_rate,
    make_optimizer,
)
from tests.models.small import (
    CALLED,
    CIRCUIT,
    CONTROLLED,
    GRAPH,
    GRAPH_ATTENTION,
    HASHED,
    KEYS,
    OVERLAP,
    RICH,
    TIERS,
    small_config,
)
from tests.training import optimizers as papers

BLOCK = "decoder/layers/block"
# Path -> shape, layers first, and [batch of matrices, in, out] for those that Muon turns.
SHAPES: dict[str, tuple[int, ...]] = {
    "decoder/embedding": (7, 6),
    "decoder/output": (7, 6),
    "decoder/final_norm/scale": (6,),
    f"{BLOCK}/attention_norm/scale": (2, 6),
    f"{BLOCK}/attention/query/w": (2, 6, 2, 4),
    f"{BLOCK}/attention/output/w": (2, 2, 4, 6),
    f"{BLOCK}/feedforward/up/w": (2, 6, 9),
    f"{BLOCK}/experts/router/w": (2, 6, 3),
    f"{BLOCK}/experts/down/w": (2, 3, 9, 6),
}
MATRICES = {
    f"{BLOCK}/attention/query/w": (2, 6, 8),
    f"{BLOCK}/attention/output/w": (2, 8, 6),
    f"{BLOCK}/feedforward/up/w": (2, 6, 9),
    f"{BLOCK}/experts/down/w": (6, 9, 6),
}
UNDECAYED = {
    "decoder/embedding",
    "decoder/final_norm/scale",
    f"{BLOCK}/attention_norm/scale",
}
STEPS = 4
KNOBS = [(1.0, 0.1), (1.0, 0.0), (0.5, 0.3), (2.0, 0.2)]  # learning_rate_scale, weight_decay


def nested(flat: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`a/b/c` as Haiku nests it: {"a/b": {"c": ...}}."""
    tree: dict[str, dict[str, Any]] = {}
    for path, value in flat.items():
        module, _, name = path.rpartition("/")
        tree.setdefault(module, {})[name] = value
    return tree


def flattened(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def start(shapes: dict[str, tuple[int, ...]] = SHAPES) -> tuple[dict[str, Any], list[Any]]:
    """Parameters and `STEPS` gradients that shrink, but for those of layer 1, which grow."""
    rng = np.random.default_rng(0)
    params = {path: rng.normal(size=shape) for path, shape in shapes.items()}
    grads = [
        {path: 10.0**-t * rng.normal(size=shape) for path, shape in shapes.items()}
        for t in range(STEPS)
    ]
    for t, gradient in enumerate(grads):
        for path in gradient:
            if "/layers/" in path:
                gradient[path][1] *= 30.0**t
    return params, grads


def knobs(t: int, config: OptimizerConfig) -> Knobs:
    scale, decay = KNOBS[t]
    return Knobs.from_config(AGIConfig(optimizer=config))._replace(
        learning_rate_scale=jnp.float32(scale), weight_decay=jnp.float32(decay)
    )


def ours(
    config: OptimizerConfig, params: dict[str, Any], grads: list[Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters after the steps: those trained and those to evaluate."""
    optimizer = make_optimizer(config)
    as_tree = lambda flat: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), nested(flat))  # noqa: E731

    @jax.jit
    def step(params: Any, state: Any, grads: Any, knobs: Knobs, t: jax.Array) -> tuple[Any, Any]:
        progress = Progress(t, t.astype(jnp.float32) / STEPS)
        updates, state = optimizer.update(grads, state, params, knobs=knobs, progress=progress)
        return optax.apply_updates(params, updates), state

    now = as_tree(params)
    state = jax.jit(optimizer.init)(now)
    for t, gradient in enumerate(grads):
        now, state = step(now, state, as_tree(gradient), knobs(t, config), jnp.int32(t))
    return flattened(now), flattened(evaluation_params(config, state, now))


def layers(path: str, x: np.ndarray) -> np.ndarray:
    """[layers, ...]: what is moved together."""
    return x if "/layers/" in path else x[None]


def matrices(path: str, x: np.ndarray) -> np.ndarray:
    """[matrices, in, out] where Muon turns them."""
    return x.reshape(MATRICES[path]) if path in MATRICES else layers(path, x)


def theirs(
    direction: Callable[[str], papers.Direction],
    rate: Callable[[str, int], float],
    decay: Callable[[str, int], float],
    blocks: Callable[[str, np.ndarray], np.ndarray] = layers,
) -> dict[str, np.ndarray]:
    """The rule p <- p - rate (u + decay p), block by block in float64."""
    params, grads = start()
    result = {}
    for path, p in params.items():
        moved = []
        for i, block in enumerate(blocks(path, p)):
            u = direction(path)
            next(u)
            for t in range(STEPS):
                step = u.send(blocks(path, grads[t][path])[i])
                block = block - rate(path, t) * (step + decay(path, t) * block)
            moved.append(block)
        result[path] = np.stack(moved).reshape(p.shape)
    return result


def warmed(peak: float) -> Callable[[str, int], float]:
    """Two steps of warm-up to `peak`, times the knob."""
    return lambda path, t: peak * min(1.0, (t + 1) / 2) * KNOBS[t][0]


def decayed(path: str, t: int) -> float:
    return 0.0 if path in UNDECAYED else KNOBS[t][1]


COMMON: dict[str, Any] = {"schedule": "constant", "warmup_steps": 2, "learning_rate": 0.05}
CASES: dict[str, tuple[dict[str, Any], Callable[[], papers.Direction]]] = {
    "adamw": ({}, lambda: papers.adam(0.9, 0.95, 1e-8)),
    "adamw, all set": (
        {"beta1": 0.8, "beta2": 0.7, "epsilon": 0.1},
        lambda: papers.adam(0.8, 0.7, 0.1),
    ),
    "lion": ({}, lambda: papers.lion(0.9, 0.99)),
    "lion, all set": ({"beta1": 0.5, "beta2": 0.6}, lambda: papers.lion(0.5, 0.6)),
    "sgd": ({}, lambda: papers.heavy_ball(0.9)),
    "sgd, all set": ({"momentum": 0.5}, lambda: papers.heavy_ball(0.5)),
    "adafactor": ({}, papers.adafactor),
}


@pytest.mark.parametrize("case", CASES)
def test_an_optimizer_equals_its_paper(case: str) -> None:
    options, direction = CASES[case]
    config = OptimizerConfig(name=case.split(",")[0], **COMMON, **options)
    trained, evaluated = ours(config, *start())
    expected = theirs(lambda path: direction(), warmed(0.05), decayed)
    for path, value in expected.items():
        np.testing.assert_allclose(trained[path], value, rtol=2e-5, atol=2e-5, err_msg=path)
        np.testing.assert_array_equal(evaluated[path], trained[path])


@pytest.mark.parametrize(
    ("options", "momentum", "steps", "adam"),
    [
        ({}, 0.95, 5, (0.05, 0.9, 0.95, 1e-8)),
        (
            {
                "momentum": 0.6, "newton_schulz_steps": 3, "adam_learning_rate": 0.02,
                "beta1": 0.8, "beta2": 0.7, "epsilon": 0.1,
            },
            0.6, 3, (0.02, 0.8, 0.7, 0.1),
        ),
    ],
    ids=["defaults", "all set"],
)  # fmt: skip
def test_muon_orthogonalises_matrices_by_path_and_leaves_the_rest_to_adam(
    options: dict[str, Any],
    momentum: float,
    steps: int,
    adam: tuple[float, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float32; `test_muon` has what bfloat16 changes."""
    monkeypatch.setattr(muon, "FORMAT", jnp.float32)
    config = OptimizerConfig(name="muon", **COMMON, **options)
    trained, _ = ours(config, *start())
    expected = theirs(
        lambda path: papers.muon(momentum, steps) if path in MATRICES else papers.adam(*adam[1:]),
        lambda path, t: warmed(0.05 if path in MATRICES else adam[0])(path, t),
        decayed,
        matrices,
    )
    for path, value in expected.items():
        np.testing.assert_allclose(trained[path], value, rtol=1e-4, atol=1e-4, err_msg=path)


def test_newton_schulz_takes_every_singular_value_near_one() -> None:
    """What the reference above rests on: of a random matrix all, of any size, in five rounds."""
    for shape in ((6, 9), (40, 8), (1, 5)):
        x = papers.newton_schulz(np.random.default_rng(0).normal(size=shape), 5)
        values = np.linalg.svd(x, compute_uv=False)
        assert 0.6 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("options", [{}, {"beta1": 0.5, "beta2": 0.7, "epsilon": 0.1}], ids=str)
def test_schedule_free_equals_its_paper(options: dict[str, Any]) -> None:
    """arXiv 2405.15682, section 4: y is where gradients are taken, x what is evaluated."""
    config = OptimizerConfig(name="schedule_free", **COMMON, **options)
    trained, evaluated = ours(config, *start())
    beta = options.get("beta1", 0.9)
    params, grads = start()
    for path, p in params.items():
        u = papers.adam(0.0, options.get("beta2", 0.95), options.get("epsilon", 1e-8))
        next(u)
        x, y, z, total = p, p, p, 0.0
        for t in range(STEPS):
            z = z - warmed(0.05)(path, t) * (u.send(grads[t][path]) + decayed(path, t) * y)
            weight = min(1.0, (t + 1) / 2) ** 2
            total += weight
            x = x + weight / total * (z - x)
            y = (1 - beta) * z + beta * x
        np.testing.assert_allclose(trained[path], y, rtol=2e-5, atol=2e-5, err_msg=path)
        np.testing.assert_allclose(evaluated[path], x, rtol=5e-5, atol=5e-5, err_msg=path)


def test_adafactor_factors_large_matrices_layer_by_layer() -> None:
    """Its state holds rows and columns, not the matrix, and each layer is clipped alone."""
    path, shape = f"{BLOCK}/feedforward/up/w", (2, 128, 160)
    config = OptimizerConfig(name="adafactor", **COMMON | {"learning_rate": 0.5})
    params, grads = start({path: shape})
    trained, _ = ours(config, params, grads)
    for layer in range(2):
        u, block = papers.adafactor(), params[path][layer]
        next(u)
        for t in range(STEPS):
            step = u.send(grads[t][path][layer])
            block = block - warmed(0.5)(path, t) * (step + KNOBS[t][1] * block)
        np.testing.assert_allclose(trained[path][layer], block, rtol=1e-4, atol=1e-4)
    state = jax.eval_shape(make_optimizer(config).init, nested({path: jnp.zeros(shape)}))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 2 * (128 + 160) + 8


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "lion", "sgd", "schedule_free"])
def test_stacked_layers_move_as_if_apart(name: str) -> None:
    """To 1e-6 in steps of 0.05: the compiler may order sums otherwise."""
    config = OptimizerConfig(name=name, **COMMON)
    params, grads = start()
    together, _ = ours(config, params, grads)
    for layer in range(2):

        def cut(flat: dict[str, Any], layer: int = layer) -> dict[str, Any]:
            stacked = {path: value for path, value in flat.items() if "/layers/" in path}
            return {path: value[layer : layer + 1] for path, value in stacked.items()}

        apart, _ = ours(config, cut(params), [cut(gradient) for gradient in grads])
        for path, value in apart.items():
            np.testing.assert_allclose(
                together[path][layer], value[0], rtol=1e-5, atol=1e-6, err_msg=path
            )


# --------------------------------------------------------------------------------- groups by path


def test_rules_multiply_by_path_and_the_first_match_wins() -> None:
    config = OptimizerConfig(
        name="sgd",
        **COMMON,
        momentum=0.0,
        weight_decay_rules={r"query/w$": 3.0, r"attention/": 0.0, r"final_norm": 2.0},
        learning_rate_rules={r"embedding$": 0.1, r"decoder/(embedding|output)$": 10.0},
    )
    trained, _ = ours(config, *start())
    rates = {"decoder/embedding": 0.1, "decoder/output": 10.0}
    decays = {
        f"{BLOCK}/attention/query/w": 3.0,
        f"{BLOCK}/attention/output/w": 0.0,
        "decoder/final_norm/scale": 2.0,
    }
    expected = theirs(
        lambda path: papers.heavy_ball(0.0),
        lambda path, t: rates.get(path, 1.0) * warmed(0.05)(path, t),
        lambda path, t: decays[path] * KNOBS[t][1] if path in decays else decayed(path, t),
    )
    for path, value in expected.items():
        np.testing.assert_allclose(trained[path], value, rtol=1e-5, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("pattern", [r"norm/scale$", r"decoder/embedding$"])
def test_a_rule_for_what_is_not_decayed_by_default_has_effect(pattern: str) -> None:
    config = OptimizerConfig(name="sgd", **COMMON, momentum=0.0, weight_decay_rules={pattern: 1.0})
    plain = OptimizerConfig(name="sgd", **COMMON, momentum=0.0)
    with_rule, without = ours(config, *start())[0], ours(plain, *start())[0]
    changed = {path for path in SHAPES if not np.array_equal(with_rule[path], without[path])}
    assert changed == {path for path in SHAPES if re.search(pattern, path)}


@pytest.mark.parametrize(
    "memory",
    [{}, KEYS, HASHED, GRAPH, GRAPH_ATTENTION, CIRCUIT, OVERLAP, CALLED, {"memory": TIERS}],
    ids=[
        *("none", "product keys", "hashed", "graph", "graph attention", "circuit", "overlap"),
        *("controller", "memory of every tier"),
    ],
)
def test_decay_leaves_tables_and_small_parameters_alone(memory: dict[str, Any]) -> None:
    """With no gradient, decay alone moves a parameter."""
    shapes = TMSModel(small_config(position_encoding="learned", **RICH, **memory)).shapes
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    zeros = jax.tree.map(jnp.zeros_like, ones)
    optimizer = make_optimizer(OptimizerConfig(name="sgd", **COMMON))
    told = {
        "knobs": Knobs.from_config(AGIConfig()),
        "progress": Progress(jnp.int32(5), jnp.zeros(())),
    }
    moved, _ = optimizer.update(zeros, optimizer.init(ones), ones, **told)
    decayed = {path for path, change in flattened(moved).items() if change.any()}
    products = re.compile(r"/w$|decoder/output$")
    assert decayed == {path for path in flattened(ones) if products.search(path)}


NEURON = f"{BLOCK}/graph/reasoner/neuron"
GATV2 = f"{BLOCK}/graph/reasoner/graph_block"


def test_muon_moves_exactly_these_paths() -> None:
    """Of every parameter that a model of either form has, by the state Muon keeps."""
    matrices = {
        *(f"{BLOCK}/attention/{name}/w" for name in ("query", "key", "value", "output")),
        *(f"{BLOCK}/feedforward/{name}/w" for name in ("gate", "up", "down")),
        *(f"{BLOCK}/experts/{name}/w" for name in ("gate", "up", "down")),
        "decoder/ngram/projection/w",
        *(f"{BLOCK}/knowledge/{name}/w" for name in ("query", "gate", "output", "key", "value")),
        *(f"{BLOCK}/graph/{name}/w" for name in ("input", "output")),
        *(f"{NEURON}/{name}/w" for name in ("message", "gate", "candidate")),
        *(f"{GATV2}/{name}/w" for name in ("up", "down")),
        *(f"{GATV2}/graph_attention/{name}/w" for name in ("reader", "read", "output")),
        *(f"{BLOCK}/quantum/{name}/w" for name in ("input", "output")),
        *(f"{BLOCK}/overlap/{name}/w" for name in ("query", "key", "value", "output")),
    }
    rest = {
        *(f"{BLOCK}/graph/edges/{name}" for name in ("query/w", "key/w", "sharpness")),
        *(f"{NEURON}/{name}/b" for name in ("gate", "candidate")),
        *(f"{GATV2}/{name}_norm/scale" for name in ("attention", "feedforward")),
        *(f"{GATV2}/graph_attention/{name}" for name in ("direction", "kind")),
        *(f"{BLOCK}/graph/reasoner/halt/logit/{name}" for name in ("w", "b")),
        f"{BLOCK}/graph_norm/scale",
        f"{BLOCK}/quantum_norm/scale",
        *(f"{BLOCK}/{name}/angles" for name in ("quantum/circuit", "overlap")),
        "decoder/position",
        "decoder/value_embedding",
        "decoder/ngram/table",
        *(f"{BLOCK}/knowledge/{name}" for name in ("keys", "values", "table")),
        *(f"{BLOCK}/knowledge/{name}_norm/scale" for name in ("query", "key")),
        "decoder/embedding_norm/scale",
        f"{BLOCK}/residual_mix/weights",
        f"{BLOCK}/attention/value_mix/weights",
        "decoder/input_conv/kernel",
        *(f"{BLOCK}/{name}_conv/kernel" for name in ("attention", "feedforward")),
        *(f"{BLOCK}/attention/{name}_conv/kernel" for name in ("queries", "keys", "values")),
        "decoder/embedding",
        "decoder/output",
        "decoder/final_norm/scale",
        f"{BLOCK}/attention_norm/scale",
        f"{BLOCK}/feedforward_norm/scale",
        f"{BLOCK}/attention/query_norm/scale",
        f"{BLOCK}/attention/key_norm/scale",
        f"{BLOCK}/experts/router/w",
    }
    rich = small_config(position_encoding="learned", **RICH)
    forms = (KEYS, HASHED, GRAPH, GRAPH_ATTENTION, CIRCUIT, OVERLAP)
    knowing = tuple(small_config(num_layers=1, **form) for form in forms)
    sparse = small_config(experts={"num_experts": 4})
    for config in (AGIConfig.from_preset("tiny"), sparse, rich, *knowing):
        shapes = TMSModel(config).shapes
        state = jax.eval_shape(make_optimizer(OptimizerConfig(name="muon")).init, shapes)
        leaves = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
        paths = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)}
        for path in paths:
            kept = sorted(leaf.split("/")[3] for leaf in leaves if leaf.endswith(path))
            assert (path in matrices, path in rest) in ((True, False), (False, True)), path
            moments = 1 if path in matrices else 2
            assert len([leaf for leaf in leaves if leaf.endswith(f"/{path}")]) == moments, kept


def test_a_cores_layers_are_muons_and_its_policy_is_adams() -> None:
    shapes = TMSModel(small_config(**CONTROLLED)).shapes
    state = jax.eval_shape(make_optimizer(OptimizerConfig(name="muon")).init, shapes)
    leaves = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    for path in (path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)):
        if "/core/" not in path:
            continue
        matrix = re.search(r"block/(attention/(query|key|value|output)|feedforward/\w+)/w$", path)
        # Prices have no rule in the step, and so no moments.
        expected = 0 if path.endswith("log_prices") else 1 if matrix else 2
        assert len([leaf for leaf in leaves if leaf.endswith(f"/{path}")]) == expected, path


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"weight_decay_rules": {"atention": 0.0}},
            "optimizer.weight_decay_rules has 'atention', which matches no parameter; paths look "
            "like decoder/embedding",
        ),
        (
            {"learning_rate_rules": {"(": 0.0}},
            "optimizer.learning_rate_rules has '(', which is no regular expression: missing ), "
            "unterminated subpattern at position 0",
        ),
    ],
)
def test_a_rule_without_effect_is_one_sentence(rules: dict[str, Any], message: str) -> None:
    shapes = TMSModel(AGIConfig.from_preset("tiny")).shapes
    check_rules(OptimizerConfig(learning_rate_rules={"attention": 2.0}), shapes)
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_rules(OptimizerConfig(**rules), shapes)


def test_schedule_free_refuses_a_schedule_and_a_missing_average() -> None:
    with pytest.raises(UserError, match=r"got optimizer.schedule='wsd'; set .*=constant$"):
        make_optimizer(OptimizerConfig(name="schedule_free"))
    with pytest.raises(UserError, match=r"^optimizer.beta1=0.0 leaves .* choose a value above 0"):
        make_optimizer(OptimizerConfig(name="schedule_free", schedule="constant", beta1=0.0))


def test_the_reported_learning_rate_is_the_main_groups() -> None:
    progress = Progress(jnp.int32(0), jnp.float32(0))
    for name, peak in {"muon": 0.02, "sgd": 0.1, "lion": 3e-4, "adamw": 2e-3}.items():
        config = OptimizerConfig(name=name, warmup_steps=4, schedule="constant")
        rate = learning_rate(config, progress, knobs(2, config))
        assert float(rate) == pytest.approx(peak / 4 * KNOBS[2][0]), name
