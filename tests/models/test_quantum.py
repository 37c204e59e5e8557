"""Quantum circuits in the model: in its last layers, trained whole, gone when not asked for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.models import TMSModel
from rtdlm.models.layers import layer_plans
from tests.models.small import CIRCUIT, OVERLAP, packed_batch, random_params, small_config

UPLOADED: dict[str, Any] = {
    "quantum_layers": 2, "quantum": {"num_qubits": 2, "ansatz": "data_reuploading"},
}  # fmt: skip
FORMS = {"circuit": CIRCUIT, "uploaded": UPLOADED, "overlap": OVERLAP}


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_has_a_gradient(form: str) -> None:
    model = TMSModel(small_config(**FORMS[form]))
    params, batch = jax.jit(model.init)(jax.random.key(0)), packed_batch(model.config, rows=2)
    ids, labels = jnp.asarray(batch.input_ids), jnp.asarray(batch.labels)
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(model.scores(p, ids, labels).tokens.nll)))(params)
    own = {p: leaves for p, leaves in slopes.items() if "/quantum" in p or "/overlap" in p}
    assert len(own) >= 4
    for path, leaves in own.items():
        for name, leaf in leaves.items():
            assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-6, (path, name)


def test_it_is_in_the_last_layers() -> None:
    found = [plan.quantum for plan in layer_plans(small_config(num_layers=3, quantum_layers=2))]
    assert found == [False, True, True]


@pytest.mark.parametrize(("form", "last"), [("circuit", "quantum"), ("overlap", "overlap")])
def test_it_adds_to_the_stream(form: str, last: str) -> None:
    """With its last product at zero the model is the one without it."""
    own = {**FORMS[form], "quantum_layers": 2}
    model, plain = TMSModel(small_config(**own)), TMSModel(small_config())
    params = random_params(model)
    ids = jnp.asarray(packed_batch(model.config).input_ids)
    without = {p: leaves for p, leaves in params.items() if p in plain.shapes}
    expected = jax.jit(plain.logits)(without, ids)
    assert np.abs(jax.jit(model.logits)(params, ids) - expected).max() > 0.01
    output = f"decoder/layers/block/{last}/output"
    params[output] = {"w": jnp.zeros_like(params[output]["w"])}
    np.testing.assert_allclose(jax.jit(model.logits)(params, ids), expected, atol=1e-6)


def test_without_it_nothing_is_left_in_the_program() -> None:
    model, ids = TMSModel(small_config(quantum_layers=0)), jnp.zeros((1, 4), jnp.int32)
    assert not [path for path in model.shapes if "quantum" in path or "overlap" in path]
    assert model.empty_cache(1, 4).loops[0][0].quantum is None
    lowered = jax.jit(model.logits).lower(model.shapes, ids).as_text()
    assert "complex" not in lowered
    with_it = TMSModel(small_config(**CIRCUIT))
    assert "complex" in jax.jit(with_it.logits).lower(with_it.shapes, ids).as_text()
