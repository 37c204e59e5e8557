"""The layer against its circuit, gate by gate; its start, its training and what is refused."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.modules.quantum.ansatz import ANSATZES
from rtdlm.modules.quantum.circuit import matrices
from rtdlm.modules.quantum.variational import VariationalQuantumCircuit
from tests.modules.quantum.circuits import act


def layer(**options):
    return hk.without_apply_rng(
        hk.transform(lambda x: VariationalQuantumCircuit(3, num_outputs=2, **options)(x))
    )


def expected(ansatz, x, params):
    """<Z> of the first two qubits, in NumPy; the gates' matrices have tests of their own."""
    uploads = ansatz == "data_reuploading"
    options = {"num_features": x.shape[-1]} if uploads else {}
    circuit = ANSATZES[ansatz](3, num_rounds=2, **options)
    by_features = jax.jit(lambda features: matrices(circuit, params, features))
    found = []
    for features in x.reshape(-1, x.shape[-1]):
        state = np.zeros(8, np.complex128)
        state[0] = 1
        for qubit, angle in enumerate([] if uploads else np.float64(features)):
            cos, sin = np.cos(angle / 2), np.sin(angle / 2)
            state = act(np.array([[cos, -sin], [sin, cos]]), state, [qubit])
        made = by_features(features if uploads else None)
        for turn in range(2):
            for each, matrix in zip(circuit.ops, made, strict=True):
                state = act(np.asarray(matrix[turn]), state, each.qubits)
        shares = abs(state.reshape(2, 2, 2)) ** 2
        found.append([shares[0].sum() - shares[1].sum(), shares[:, 0].sum() - shares[:, 1].sum()])
    return np.reshape(found, (*x.shape[:-1], 2))


@pytest.mark.parametrize("ansatz", ANSATZES)
def test_outputs_are_expectation_values_of_the_circuit(ansatz):
    features = 5 if ansatz == "data_reuploading" else 3
    x = jax.random.normal(jax.random.key(0), (2, 2, features))
    model = layer(ansatz=ansatz)
    params = jax.jit(model.init)(jax.random.key(1), x)
    found = jax.jit(model.apply)(params, x)
    (angles,) = jax.tree.leaves(params)
    np.testing.assert_allclose(found, expected(ansatz, x, angles), atol=1e-5)


def test_the_start_is_near_the_identity():
    """Parameters of spread 0.1: outputs are not far from those of the encoding and CNOTs alone."""
    x = jax.random.normal(jax.random.key(0), (64, 3))
    model = layer()
    params = jax.jit(model.init)(jax.random.key(1), x)
    (angles,) = jax.tree.leaves(params)
    assert angles.shape == (2, 6) and 0.03 < jnp.std(angles) < 0.2
    still = jax.tree.map(jnp.zeros_like, params)
    both = [jax.jit(model.apply)(p, x) for p in (params, still)]
    assert 0 < jnp.abs(both[0] - both[1]).mean() < 0.25


def test_it_learns_the_parity_of_two_signs():
    """A function that no linear layer of the same inputs has: 1 - 2 (a xor b)."""
    signs = jnp.asarray([[a, b, 0.0] for a in (0.0, jnp.pi) for b in (0.0, jnp.pi)])
    wanted = jnp.asarray([1.0, -1.0, -1.0, 1.0])
    model = layer(ansatz="strongly_entangling")
    params = jax.jit(model.init)(jax.random.key(0), signs)

    def loss(params):
        return jnp.mean((model.apply(params, signs)[:, 0] - wanted) ** 2)

    def step(params, _):
        value, back = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda x, g: x - 0.3 * g, params, back), value

    _, values = jax.jit(lambda params: jax.lax.scan(step, params, length=200))(params)
    assert values[0] > 0.5 and values[-1] < 0.01


def test_the_format_is_kept():
    x = jnp.ones((4, 3), jnp.bfloat16)
    model = layer()
    found = jax.eval_shape(lambda x: model.apply(model.init(jax.random.key(0), x), x), x)
    assert found.dtype == jnp.bfloat16 and found.shape == (4, 2)


@pytest.mark.parametrize(
    ("options", "width", "message"),
    [
        ({"ansatz": "cubist"}, 3, "no ansatz 'cubist': there are hardware_efficient"),
        ({}, 4, "4 angles for 3 qubits: hardware_efficient takes one"),
    ],
)
def test_what_does_not_fit_is_refused(options, width, message):
    with pytest.raises(UserError, match=message):
        layer(**options).init(jax.random.key(0), jnp.ones((1, width)))


def test_more_outputs_than_qubits_are_refused():
    model = hk.transform(lambda x: VariationalQuantumCircuit(2, num_outputs=3)(x))
    with pytest.raises(UserError, match="3 outputs of 2 qubits"):
        model.init(jax.random.key(0), jnp.ones((1, 2)))
