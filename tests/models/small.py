"""A model that compiles in a second, and batches that leave no corner out."""

import json
from typing import Any

import jax
import numpy as np

from rtdlm.config import AGIConfig
from rtdlm.data.batch import Batch
from rtdlm.models import TMSModel
from rtdlm.models.tms import Params

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "max_seq_len": 12,
    "d_model": 16,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 32,
    "batch_size": 8,
    "num_steps": 10,
}
# Four experts of which a row's twelve tokens never fill one.
ROOMY = {"num_experts": 4, "top_k": 2, "capacity_factor": 4.0}
# Four experts with three places each for twenty-four choices: half of them are dropped.
TIGHT = {"num_experts": 4, "top_k": 2, "capacity_factor": 0.5}
# Everything beyond that at once; the bias has no say in the loss.
DROPLESS = {
    "num_experts": 4, "dispatch": "dropless", "scores": "sigmoid", "bias_rate": 0.01, "shared": 1,
}  # fmt: skip

# The standard small GPT, without biases.
GPT: dict[str, Any] = {
    "feedforward": "gelu", "norm": "layer", "position_encoding": "learned", "qk_norm": False,
    "tie_embeddings": True, "attention_type": "mha", "num_kv_heads": None,
}  # fmt: skip
# Every ingredient beyond the plain transformer; pairs of tokens collide in 50 rows.
RICH: dict[str, Any] = {
    "feedforward": "relu2", "embedding_norm": True, "value_residual": True,
    "value_embeddings": True, "residual_gates": True, "short_conv": 3,
    "short_conv_places": ["input", "attention", "queries", "keys", "values", "feedforward"],
    "ngram": {"orders": [2, 4], "buckets": 50, "dim": 8},
}  # fmt: skip
# Attention of every type.
KINDS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"attention_type": "mha", "num_kv_heads": None},
    "mqa": {"attention_type": "mqa", "num_kv_heads": None},
    "ring": {"attention_type": "ring"},
    "sliding": {"attention_type": "sliding", "attention": {"window": 3}},
    "sliding with sinks and alibi": {
        "attention_type": "sliding", "attention": {"window": 3, "sinks": 2},
        "position_encoding": "alibi",
    },
    "sparse": {"attention_type": "sparse", "attention": {"window": 3, "block": 2, "chosen": 2}},
    "top keys": {
        "attention_type": "sparse",
        "attention": {"sparse_form": "topk", "window": 2, "chosen": 2, "global_tokens": 1},
    },
    "linear": {"attention_type": "linear"},
    "delta": {"attention_type": "delta", "num_kv_heads": None},
    "spiking": {"attention_type": "spiking"},
}  # fmt: skip
# Parametric memories in every layer; n-grams collide in 40 rows.
KEYS: dict[str, Any] = {
    "knowledge": {"kind": "product_key", "every": 1, "rows": 6, "heads": 2, "top_k": 3, "dim": 12},
}
HASHED: dict[str, Any] = {
    "knowledge": {"kind": "ngram", "every": 1, "rows": 40, "heads": 2, "orders": [2, 3], "dim": 6},
}
# Every tier of memory, in segments that end within the rows of the tests.
TIERS: dict[str, Any] = {
    "segment": 4, "stm_window": 6, "recurrent": "gated_delta", "episodic_slots": 8,
    "episodic_top_k": 3, "summary_slots": 3, "summary_chunk": 2, "task_tokens": 2, "task_slots": 3,
}  # fmt: skip
# A graph in every layer, of fewer edges than there are tokens.
GRAPH: dict[str, Any] = {
    "graph": {"hops": 2, "every": 1, "neighbours": 2, "kinds": 2, "dim": 12, "key_dim": 6},
}
GRAPH_ATTENTION: dict[str, Any] = {
    "graph": {**GRAPH["graph"], "messages": "attention", "heads": 2},
}
# A quantum circuit in the second of two layers: turned by features, and compared.
CIRCUIT: dict[str, Any] = {"quantum_layers": 1, "quantum": {"num_qubits": 3}}
OVERLAP: dict[str, Any] = {
    "quantum_layers": 1,
    "quantum": {"kind": "attention", "num_qubits": 2, "heads": 2},
}
# A core of one layer, run up to three times by a policy that random parameters make undecided.
CONTROLLED: dict[str, Any] = {
    "num_layers": 3, "use_compute_controller": True,
    "controller": {"max_steps": 3, "price": 0.1},
}  # fmt: skip
# The same, and its tokens call a table and a circuit.
CALLED: dict[str, Any] = {
    **CONTROLLED, **CIRCUIT,
    "knowledge": {name: value for name, value in HASHED["knowledge"].items() if name != "every"},
    "controller": CONTROLLED["controller"] | {"calls": ["knowledge", "quantum"]},
}  # fmt: skip


def small_config(**overrides: Any) -> AGIConfig:
    """`SMALL` with `overrides`; a None of `num_kv_heads` leaves it to the attention type."""
    return AGIConfig.from_dict(SMALL | overrides)


def packed_batch(config: AGIConfig, *, rows: int | None = None, seed: int = 0) -> Batch:
    """Random documents packed into rows, padding at the end of most, weights of all sizes."""
    rng = np.random.default_rng(seed)
    rows, length = config.batch_size if rows is None else rows, config.max_seq_len
    ids, labels = rng.integers(config.vocab_size, size=(2, rows, length))
    segments, positions = np.zeros((2, rows, length), np.int32)
    for row in range(rows):
        ends = np.sort(rng.choice(np.arange(1, length + 1), size=3, replace=False))
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False), start=1):
            segments[row, start:end] = number
            positions[row, start:end] = np.arange(end - start)
    # Rows weigh very differently, so that a mean of means is far from the mean.
    weights = (
        (segments > 0)
        * rng.uniform(0.2, 1.0, (rows, length))
        * 2.0 ** (np.arange(rows) % 4)[:, None]
    )
    return Batch(
        ids.astype(np.int32),
        labels.astype(np.int32),
        segments,
        positions,
        weights.astype(np.float32),
    )


# Fields that say nothing of which parameters there are.
RUNNING = ("optimizer", "mesh", "batch_size", "num_steps", "accumulate_steps", "loss", "remat")
shapes: dict[str, Params] = {}


def shapes_of(model: TMSModel) -> Params:
    """`model.shapes`, for which a model is traced once however many tests have one like it."""
    fields = {name: x for name, x in model.config.to_dict().items() if name not in RUNNING}
    key = json.dumps(fields, sort_keys=True)
    if key not in shapes:
        shapes[key] = model.shapes
    return shapes[key]


def random_params(model: TMSModel, *, seed: int = 0) -> Params:
    """Parameters from NumPy, which compiles nothing; no norm scale is one, no two layers alike."""
    rng = np.random.default_rng(seed)

    def leaf(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> jax.Array:
        noise = 0.25 * rng.normal(size=shape.shape)
        return jax.device_put((noise + (path[-1].key == "scale")).astype(shape.dtype))

    return jax.tree_util.tree_map_with_path(leaf, shapes_of(model))


def assert_trees_close(
    actual: Any, expected: Any, *, atol: float = 1e-5, rtol: float = 1e-5
) -> None:
    """Same structure, and every leaf within the tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    named = jax.tree_util.tree_leaves_with_path(actual)
    for (path, got), wanted in zip(named, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(
            got, wanted, atol=atol, rtol=rtol, err_msg=jax.tree_util.keystr(path)
        )


def assert_trees_equal(actual: Any, expected: Any) -> None:
    """Same structure, and every leaf bitwise the same; PRNG keys by their words."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    named = jax.tree_util.tree_leaves_with_path(actual)
    for (path, got), wanted in zip(named, jax.tree.leaves(expected), strict=True):
        assert got.dtype == wanted.dtype, jax.tree_util.keystr(path)
        if jax.dtypes.issubdtype(got.dtype, jax.dtypes.prng_key):
            got, wanted = jax.random.key_data(got), jax.random.key_data(wanted)
        assert np.asarray(got).tobytes() == np.asarray(wanted).tobytes(), jax.tree_util.keystr(path)
