"""The step of every kind of model on eight devices against the same step on one.

Every strategy, with the plain model, is in test_strategies.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.training import muon
from rtdlm.training.state import state_shardings
from rtdlm.training.step import Metrics
from tests.models.small import (
    CALLED,
    CIRCUIT,
    DROPLESS,
    GPT,
    GRAPH,
    GRAPH_ATTENTION,
    HASHED,
    KEYS,
    OVERLAP,
    RICH,
    ROOMY,
    TIERS,
    TIGHT,
    assert_trees_close,
    packed_batch,
    small_config,
)
from tests.training.runs import ONE, PLAIN, Run, flat

Result = tuple[dict[str, np.ndarray], list[Metrics]]
FORMS: dict[str, dict[str, Any]] = {
    "gradient": {"optimizer": PLAIN},
    # With dropout, micro-batches, clipping and the default optimizer, as a run has it.
    "everything": {
        "accumulate_steps": 2, "batch_size": 16, "dropout_rate": 0.1, "tie_embeddings": True,
        "loss": {"chunk_size": 5},
        "optimizer": {"warmup_steps": 0, "learning_rate": 0.005},
    },
    "the small GPT": {"optimizer": PLAIN, **GPT},
    "local and global, biased": {
        "optimizer": PLAIN, "attention_type": "sliding", "biases": "qkv", "remat": "dots",
        "attention": {"window": 5, "global_every": 2},
    },
    "ring": {
        "optimizer": PLAIN, "attention_type": "ring", "attention": {"soft_cap": 2.0},
        "remat": "dots",
    },
    "ring with experts": {
        "optimizer": PLAIN, "attention_type": "ring", "experts": ROOMY, "accumulate_steps": 2,
    },
    "half of the tokens": {"optimizer": PLAIN, "depths": {"capacity": 0.5}},
    "sparse": {
        "optimizer": PLAIN, "attention_type": "sparse",
        "attention": {"window": 2, "block": 2, "chosen": 1},
    },
    "delta": {
        "optimizer": PLAIN, "attention_type": "delta", "num_kv_heads": None,
        "position_encoding": "none",
    },
    "spiking": {"optimizer": PLAIN, "attention_type": "spiking"},
    "rich": {"optimizer": PLAIN, **RICH},
    "product keys": {"optimizer": PLAIN, **KEYS},
    "controller that calls": {"optimizer": PLAIN, **CALLED},
    "quantum circuit": {"optimizer": PLAIN, **CIRCUIT},
    "overlap of states": {"optimizer": PLAIN, **OVERLAP},
    "graph that routes experts": {
        "optimizer": PLAIN, "experts": DROPLESS,
        "graph": {**GRAPH["graph"], "route_experts": True, "hop_price": 0.1},
    },
    "attention along a graph's edges": {"optimizer": PLAIN, **GRAPH_ATTENTION},
    "hashed memory": {"optimizer": PLAIN, **HASHED},
    "memory of every tier": {"optimizer": PLAIN, "memory": TIERS, "num_layers": 1},
    "experts that drop": {"optimizer": PLAIN, "experts": TIGHT, "remat": "dots"},
    "dropless experts": {"optimizer": PLAIN, "experts": DROPLESS},
}  # fmt: skip

SHAPES = {
    "ring": (1, 2, 2, 2),
    # Balancing is of means over a micro-batch, on however many devices that lies.
    "ring with experts": (2, 1, 1, 2, 2),
}
"""Devices along data, fsdp, tensor, context and expert, of forms that need others than most."""


@pytest.fixture(autouse=True)
def muon_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 its rounding makes a part in a thousand of a sum's last bit."""
    monkeypatch.setattr(muon, "FORMAT", jnp.float32)


def after_two_steps(form: str, shape: tuple[int, ...]) -> Result:
    run = Run(small_config(**FORMS[form]), shape)
    state, told = run.start(), []
    for seed in range(2):
        state, metrics = run.go(state, batch=run.batch(seed), fraction=seed / 2)
        told.append(jax.device_get(metrics))
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == state_shardings(
            run.shapes, run.mesh
        ), "the state stays where it was"
    assert run.step.__wrapped__._cache_size() == 1
    return flat(state.params), told


@pytest.mark.parametrize("form", FORMS)
def test_any_mesh_equals_one_device(form: str) -> None:
    params, told = after_two_steps(form, SHAPES.get(form, (2, 2, 2)))
    expected, heard = after_two_steps(form, ONE)
    for ours, theirs in zip(told, heard, strict=True):
        assert float(ours.grad_norm) > 0.01 and not ours.skipped
        assert_trees_close(ours, theirs, rtol=1e-5)
    for path, value in expected.items():
        np.testing.assert_allclose(params[path], value, atol=1e-5, rtol=1e-5, err_msg=path)


def test_a_batch_from_the_host_is_placed_by_the_step() -> None:
    """What a caller without a prefetcher passes: NumPy arrays."""
    run = Run(small_config(optimizer=PLAIN), (2, 2, 2))
    placed, _ = run.go(run.start())
    state, _ = run.go(run.start(), batch=packed_batch(run.config))
    for path, value in flat(placed.params).items():
        np.testing.assert_array_equal(flat(state.params)[path], value)
