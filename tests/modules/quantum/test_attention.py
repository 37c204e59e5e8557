"""Overlap of states as attention, against states that NumPy makes gate by gate."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import QuantumConfig
from rtdlm.modules.quantum import QuantumAttention, data_reuploading
from rtdlm.modules.quantum.first import first_angles
from rtdlm.modules.quantum.gates import GATES

FORM = QuantumConfig(kind="attention", num_qubits=2, num_rounds=2, heads=2)
B, T, D, E = 2, 5, 4, 3


def state(features: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """U3 on both qubits, shift + weight * feature, then CZ; round after round."""
    psi = np.zeros(4, complex)
    psi[0] = 1
    for shifts in angles:
        turns = []
        for qubit in range(2):
            at = 3 * qubit + np.arange(3)
            turned = shifts[2 * at] + shifts[2 * at + 1] * features[at]
            turns.append(np.asarray(GATES["U3"].matrix(*map(jnp.float32, turned))))
        psi = np.diag([1, 1, 1, -1]) @ np.kron(*turns) @ psi
    return psi


def test_tokens_are_read_by_the_overlap_of_their_states() -> None:
    x = jax.random.normal(jax.random.key(0), (B, T, D))
    allowed = jnp.broadcast_to(jnp.tril(jnp.ones((T, T), bool))[None], (B, T, T))
    positions = jnp.broadcast_to(jnp.arange(T)[None], (B, T))

    def build(x: jax.Array) -> Any:
        layer = QuantumAttention(FORM, features=E, out_scale=1.0)
        return layer(x, allowed_BTS=allowed, positions_BT=positions)[0]

    pure = hk.without_apply_rng(hk.transform(build))
    params = jax.jit(pure.init)(jax.random.key(1), x)
    w = {path.split("/")[-1]: jax.tree.map(np.asarray, own) for path, own in params.items()}
    angles = w["overlap"]["angles"]
    given = {
        name: np.einsum("btd,dhf->bthf", x, w[name]["w"]) for name in ("query", "key", "value")
    }
    expected = np.zeros((B, T, D))
    for b, t, h in np.ndindex(B, T, 2):
        asked = state(given["query"][b, t, h], angles)
        found = [
            abs(np.vdot(asked, state(given["key"][b, s, h], angles))) ** 2 for s in range(t + 1)
        ]
        mixed = np.array(found) @ given["value"][b, : t + 1, h] / sum(found)
        expected[b, t] += mixed @ w["output"]["w"][h]
    np.testing.assert_allclose(jax.jit(pure.apply)(params, x), expected, atol=1e-5)


def test_weights_of_data_begin_near_one_and_angles_near_zero() -> None:
    circuit = data_reuploading(3, num_rounds=40, num_features=9)
    shape = (circuit.num_rounds, circuit.num_params)
    draw = hk.transform(
        lambda: hk.get_parameter("angles", shape, jnp.float32, first_angles(circuit))
    )
    found = np.asarray(draw.init(jax.random.key(0))["~"]["angles"])
    weights = sorted(
        {a.weight for each in circuit.ops for a in each.angles if a.weight is not None}
    )
    shifts = sorted(set(range(circuit.num_params)) - set(weights))
    assert len(weights) == len(shifts) == 9
    np.testing.assert_allclose(found[:, weights].mean(), 1.0, atol=0.02)
    np.testing.assert_allclose(found[:, shifts].mean(), 0.0, atol=0.02)
    np.testing.assert_allclose(found.std(axis=0), 0.1, atol=0.05)
