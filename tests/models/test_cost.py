"""The cost formulas against the model's own shapes and the compiler's own count."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters, forward_flops_per_token, train_flops_per_token
from rtdlm.modules.memory.recurrent import CHANNEL_CHUNK
from rtdlm.modules.primitives.delta_rule import CHUNK

WIDE: dict[str, Any] = {
    "vocab_size": 512, "d_model": 64, "num_heads": 4, "num_layers": 2, "d_ff": 256,
    "max_seq_len": 64,
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "grouped": {"num_kv_heads": 2},
    "multi-head, no QK-norm": {"attention_type": "mha", "qk_norm": False},
    "sliding": {"attention_type": "sliding", "attention": {"window": 40}},
    "sliding with sinks": {"attention_type": "sliding", "attention": {"window": 20, "sinks": 4}},
    "multi-query, tied": {"attention_type": "mqa", "tie_embeddings": True},
    "two of eight experts": {"experts": {"num_experts": 8, "capacity_factor": 1.0}},
    # With GELU the compiler also counts its polynomials, tens of operations a feature.
    "the small GPT, but for GELU": {
        "feedforward": "relu2", "norm": "layer", "position_encoding": "learned",
        "qk_norm": False, "tie_embeddings": True,
    },
    "values and gates": {
        "feedforward": "relu2", "value_residual": True, "value_embeddings": True,
        "residual_gates": True, "embedding_norm": True, "num_kv_heads": 2,
    },
    "only value residuals, n-grams": {
        "value_residual": True, "ngram": {"orders": [2, 3], "buckets": 100, "dim": 24},
    },
    "convolutions": {
        "short_conv": 3, "ngram": {"orders": [2], "buckets": 100},
        "short_conv_places": ["input", "attention", "queries", "keys", "values", "feedforward"],
    },
    "biases and norms of outputs": {
        "feedforward": "relu2", "norm": "layer", "biases": "all", "norm_outputs": True,
        "qk_norm": False,
    },
    "biases of queries, keys and values, wide heads": {
        "biases": "qkv", "attention": {"head_dim": 24},
    },
    "a controller, all steps": {
        "num_layers": 3, "short_conv": 3, "use_compute_controller": True,
        "controller_strategy": "thorough", "controller": {"max_steps": 3, "core_layers": 2},
    },
    "sparse": {
        "attention_type": "sparse",
        "attention": {"head_dim": 32, "window": 16, "block": 16, "chosen": 2},
    },
    "top keys": {
        "attention_type": "sparse",
        "attention": {"head_dim": 128, "sparse_form": "topk", "window": 16, "chosen": 8},
    },
    "linear": {"attention_type": "linear", "num_kv_heads": 4},
    "local and global": {
        "num_layers": 3, "attention_type": "sliding",
        "attention": {"window": 16, "global_every": 2},
    },
    "experts in every second layer": {
        "num_layers": 4, "experts": {"num_experts": 4, "capacity_factor": 1.0, "every": 2},
    },
    "two of four experts and a shared one": {
        "experts": {"num_experts": 4, "capacity_factor": 1.0, "shared": 1, "bias_rate": 0.1},
    },
    "product keys in every layer": {
        "knowledge": {"kind": "product_key", "every": 1, "rows": 40, "heads": 2, "top_k": 6},
    },
    "narrow values in every second layer, experts": {
        "knowledge": {
            "kind": "product_key", "rows": 24, "heads": 3, "top_k": 4, "dim": 48, "key_dim": 32,
        },
        "experts": {"num_experts": 4, "capacity_factor": 1.0},
    },
    "hashed memory": {
        "knowledge": {"kind": "ngram", "rows": 100, "heads": 2, "orders": [2, 4], "dim": 24},
    },
    "graph": {"graph": {"hops": 2, "kinds": 3, "dim": 48}},
    "attention along a graph's edges": {
        "graph": {"hops": 2, "messages": "attention", "heads": 3, "dim": 48},
    },
    "dense graph in every layer that routes experts": {
        "graph": {
            "hops": 1, "every": 1, "selection": "dense", "halting": False, "route_experts": True,
        },
        "experts": {"num_experts": 4, "capacity_factor": 1.0}, "norm_outputs": True,
    },
    "memory and norms of outputs": {
        "memory": {"segment": 64, "stm_window": 32}, "norm_outputs": True,
    },
    "quantum circuits": {
        "quantum_layers": 2, "quantum": {"num_rounds": 1, "num_qubits": 4}, "num_kv_heads": 2,
    },
    "a wide quantum circuit": {
        "quantum_layers": 1, "norm_outputs": True,
        "quantum": {"num_rounds": 1, "num_qubits": 8, "ansatz": "strongly_entangling"},
    },
    "overlap of states": {
        "quantum_layers": 1,
        "quantum": {"kind": "attention", "num_rounds": 1, "num_qubits": 4, "heads": 2},
    },
    "one of four experts": {"experts": {"num_experts": 4, "top_k": 1, "capacity_factor": 1.0}},
    "short-term and meta-task memory": {
        "memory": {"segment": 64, "stm_window": 32, "task_tokens": 4, "task_slots": 3},
    },
    "task tokens that attention reads": {
        "memory": {"segment": 64, "task_tokens": 8, "task_form": "attention"},
    },
    "a window that attention reads": {
        "memory": {"segment": 64, "stm_window": 32, "stm_form": "attention"},
    },
    "tiers by attention's heads": {
        "memory": {"segment": 64, "stm_window": 32, "tier_form": "attention"},
        "norm_outputs": True,
    },
    "memory in summaries": {
        "memory": {"segment": 64, "summary_slots": 32, "summary_chunk": 8},
    },
    "episodic memory": {
        "memory": {"segment": 64, "episodic_slots": 64, "heads": 2, "fusion": "hierarchical"},
    },
    "episodic memory that knows of age": {
        "memory": {"segment": 64, "episodic_slots": 64, "episodic_recency": True},
    },
}  # fmt: skip


UNCOUNTED: dict[str, dict[str, Any]] = {
    # Outside of training the compiler counts a place for every token; see test_deep.py.
    "depths": {"depths": {"capacity": 0.125, "every": 2}},
    # How many keys are computed is known only when the program runs.
    "spiking": {"attention_type": "spiking"},
    # Its triangular systems are solved by a library that the compiler does not look into: below.
    "recurrent memory": {"memory": {"segment": 16, "recurrent": "gated_delta"}},
    "recurrent memory, gates a feature": {
        "memory": {
            "segment": 16,
            "recurrent": "erase_write",
            "stm_window": 8,
            "fusion": "cross",
        },
    },
}


@pytest.mark.parametrize("form", [*FORMS, *UNCOUNTED])
def test_parameters_equal_the_models_own_shapes(form: str) -> None:
    config = AGIConfig.from_dict(WIDE | (FORMS | UNCOUNTED)[form])
    shapes = TMSModel(config).shapes
    count = count_parameters(config)
    assert count.total == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    tables = [*shapes["decoder"].values(), *shapes.get("decoder/ngram", {}).values()]
    memories = [own for module, own in shapes.items() if module.endswith("/knowledge")]
    tables += [own[name] for own in memories for name in ("values", "table") if name in own]
    assert count.embedding == sum(leaf.size for leaf in tables)


@pytest.mark.parametrize(
    ("knowledge", "rows", "read"),
    [
        ({"kind": "product_key", "rows": 8, "heads": 2, "top_k": 3, "dim": 10}, 64, 6),
        ({"kind": "product_key", "rows": 2, "heads": 3, "top_k": 2, "dim": 10}, 4, 4),
        ({"kind": "ngram", "rows": 50, "heads": 3, "orders": [2, 3], "dim": 10}, 300, 6),
    ],
)
def test_of_a_memory_only_the_rows_that_are_read_are_active(
    knowledge: dict[str, Any], rows: int, read: int
) -> None:
    config = AGIConfig.from_dict(WIDE | {"num_layers": 5, "knowledge": knowledge})
    count = count_parameters(config)
    assert count.total - count.active == 2 * (rows - read) * 10, "in two of five layers"


@pytest.mark.parametrize("form", FORMS)
def test_forward_operations_equal_the_compilers_count(form: str) -> None:
    """The compiler also counts norms, softmax and the like: a few percent at this width."""
    config = AGIConfig.from_dict(WIDE | FORMS[form])
    model = TMSModel(config)
    ids = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    # As an argument: of an empty memory the compiler would know that nothing is read.
    memory = jax.eval_shape(partial(model.empty_memory, 2))
    compiled = jax.jit(model.read).lower(model.shapes, ids, memory=memory).compile()
    counted = compiled.cost_analysis()["flops"] / (2 * 64)
    assert 1.0 < counted / forward_flops_per_token(config, length=64) < 1.04


@pytest.mark.parametrize(
    ("recurrent", "chunk"),
    [("gated_delta", CHUNK), ("channel_decay", CHANNEL_CHUNK), ("erase_write", CHANNEL_CHUNK)],
)
def test_recurrent_memory_costs_its_products_and_half_a_product_for_each_triangular_system(
    recurrent: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler does not look into the library that solves them: in their place it is shown
    products of the same shapes, which take twice the operations. A row is one chunk, since the
    compiler counts a loop's body once.
    """

    def product(left: jax.Array, right: jax.Array, **_: Any) -> jax.Array:
        solved.append(left.shape[-1] * right.size)
        return left @ right

    solved: list[int] = []
    monkeypatch.setattr(jax.lax.linalg, "triangular_solve", product)
    wide = WIDE | {"d_model": 256, "d_ff": 512, "num_heads": 2, "max_seq_len": chunk}
    config = AGIConfig.from_dict(wide | {"memory": {"segment": chunk, "recurrent": recurrent}})
    model = TMSModel(config)
    ids = jax.ShapeDtypeStruct((2, chunk), jnp.int32)
    memory = jax.eval_shape(partial(model.empty_memory, 2))
    compiled = jax.jit(model.read).lower(model.shapes, ids, memory=memory).compile()
    assert solved
    counted = (compiled.cost_analysis()["flops"] - config.num_layers * solved[0]) / (2 * chunk)
    assert 1.0 < counted / forward_flops_per_token(config, length=chunk) < 1.04


def test_training_costs_three_forward_passes_over_a_whole_row() -> None:
    config = AGIConfig.from_dict(WIDE)
    assert train_flops_per_token(config) == 3 * forward_flops_per_token(config, length=64)
