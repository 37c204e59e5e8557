"""The simulator against tensorcircuit, stim and closed forms; its gradient against three others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stim
import tensorcircuit

from rtdlm.config import UserError
from rtdlm.modules.quantum.adjoint import evolve, orders_of
from rtdlm.modules.quantum.ansatz import hardware_efficient
from rtdlm.modules.quantum.circuit import Angle, Circuit, matrices, op
from rtdlm.modules.quantum.fusion import block_size, fuse
from rtdlm.modules.quantum.pauli import expectations
from rtdlm.modules.quantum.statevector import run, zero_state
from tests.modules.quantum.circuits import (
    CLIFFORD,
    act,
    fidelity,
    random_circuit,
    random_params,
    random_state,
)


def by_tensorcircuit(circuit, params):
    peer = tensorcircuit.Circuit(circuit.num_qubits)
    for each in circuit.ops:
        if not isinstance(each.gate, str):
            peer.unitary(*each.qubits, unitary=np.asarray(each.gate, np.complex64))
            continue
        angles = [float(params[0, angle.param]) for angle in each.angles]
        names = ("theta", "phi", "lbd") if each.gate == "U3" else ("theta",)
        method = getattr(peer, {"U3": "u", "PHASE": "phase"}.get(each.gate, each.gate.lower()))
        method(*each.qubits, **dict(zip(names, angles, strict=False)))
    return np.asarray(peer.state())


def by_gates(circuit, params, features, state):
    """The same in JAX, for ordinary autodiff."""
    made = matrices(circuit, params, features)
    for turn in range(circuit.num_rounds):
        for each, matrix in zip(circuit.ops, made, strict=True):
            state = act(matrix[turn], state, each.qubits)
    return state


@pytest.mark.parametrize("num_qubits", [1, 2, 5, 8, 12])
def test_random_circuits_are_those_of_tensorcircuit(num_qubits):
    rng = np.random.default_rng(num_qubits)
    circuit = random_circuit(rng, num_qubits, 50)
    params = random_params(rng, circuit)
    found = jax.jit(lambda params: run(circuit, params))(params)
    expected = by_tensorcircuit(circuit, params)
    assert fidelity(found, expected) >= 1 - 1e-6
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("num_qubits", [3, 10])
def test_random_clifford_circuits_are_those_of_stim(num_qubits):
    circuit = random_circuit(np.random.default_rng(0), num_qubits, 120, gates=CLIFFORD)
    peer = stim.TableauSimulator()
    for each in circuit.ops:
        peer.do(stim.Circuit(f"{each.gate} {' '.join(map(str, each.qubits))}"))
    found = jax.jit(lambda state: run(circuit, state=state))(zero_state(num_qubits))
    assert fidelity(found, peer.state_vector(endian="big")) >= 1 - 1e-6


@pytest.mark.parametrize("num_qubits", [2, 9])
def test_ghz_is_half_and_half(num_qubits):
    chain = [op("CNOT", q, q + 1) for q in range(num_qubits - 1)]
    found = jax.jit(lambda: run(Circuit(num_qubits, (op("H", 0), *chain))))()
    expected = np.zeros(2**num_qubits)
    expected[[0, -1]] = 0.5**0.5
    np.testing.assert_allclose(found, expected, atol=1e-7)


def fourier(num_qubits):
    ops = []
    for target in range(num_qubits):
        ops.append(op("H", target))
        for control in range(target + 1, num_qubits):
            turn = np.pi / 2 ** (control - target)
            ops.append(op(np.diag([1, 1, 1, np.exp(1j * turn)]), control, target))
    swaps = [op("SWAP", q, num_qubits - 1 - q) for q in range(num_qubits // 2)]
    return Circuit(num_qubits, (*ops, *swaps))


@pytest.mark.parametrize(("dtype", "atol"), [("complex64", 1e-6), ("complex128", 1e-14)])
def test_the_fourier_transform_is_numpys(dtype, atol):
    with jax.enable_x64(True):
        state = random_state(np.random.default_rng(0), 7, dtype)
        found = jax.jit(lambda state: run(fourier(7), state=state))(state)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, np.fft.ifft(state, norm="ortho"), atol=atol)


def losses(circuit, strings):
    """An uneven function of the state by both, of params, features and the first state."""

    def loss(state):
        return jnp.sum(jnp.sin(jnp.arange(1.0, 4.0) * expectations(state, strings)))

    def ours(params, features, state):
        return loss(run(circuit, params, features, state=state))

    def plain(params, features, state):
        return loss(by_gates(circuit, params, features, state))

    return ours, plain


@pytest.mark.parametrize("num_qubits", [3, 6])
def test_the_adjoint_method_is_autodiff(num_qubits):
    rng = np.random.default_rng(num_qubits)
    circuit = random_circuit(rng, num_qubits, 20, num_rounds=3)
    data = [op("RX", q, angles=[Angle(0.1, 0, 0.5, feature=q, weight=1)]) for q in range(2)]
    circuit = Circuit(num_qubits, (*circuit.ops[:10], *data, *circuit.ops[10:]), 3)
    strings = ["XYZZIX"[:num_qubits], "ZIIIII"[:num_qubits], "YXYIXY"[:num_qubits]]
    given = (
        random_params(rng, circuit),
        jnp.asarray(rng.normal(size=2), jnp.float32),
        random_state(rng, num_qubits),
    )
    (found, back), (expected, plain) = (
        jax.jit(jax.value_and_grad(of, (0, 1, 2)))(*given) for of in losses(circuit, strings)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for a, b in zip(back, plain, strict=True):
        assert jnp.any(b != 0)
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_gradient_is_that_of_the_parameter_shift_rule():
    """dE/da = (E(a + pi / 2) - E(a - pi / 2)) / 2 for exp(-i a P / 2) (arXiv 1803.00745)."""
    rng = np.random.default_rng(0)
    circuit = hardware_efficient(5, num_rounds=2)
    params = random_params(rng, circuit)

    def value(params):
        return expectations(run(circuit, params), ["ZXIYZ"])[0]

    shifts = jnp.pi / 2 * jnp.eye(params.size, dtype=jnp.float32).reshape(-1, *params.shape)
    shifted = params[None] + jnp.concatenate([shifts, -shifts])
    up, down = jax.jit(jax.vmap(value))(shifted).reshape(2, *params.shape)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(params), (up - down) / 2, atol=1e-4)


def test_a_round_after_another_is_one_of_twice_as_many():
    rng = np.random.default_rng(1)
    one, four = (hardware_efficient(5, num_rounds=rounds) for rounds in (1, 4))
    params = random_params(rng, four)
    state, step = zero_state(5), jax.jit(lambda row, state: run(one, row, state=state))
    for row in params:
        state = step(row, state)
    np.testing.assert_allclose(jax.jit(lambda p: run(four, p))(params), state, atol=1e-6)


def test_a_batch_is_each_alone():
    rng = np.random.default_rng(2)
    data = [op("RX", q, angles=[Angle(feature=q)]) for q in range(4)]
    circuit = Circuit(4, (*data, *hardware_efficient(4, num_rounds=1).ops), 2)
    params = random_params(rng, circuit)
    features = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)

    def values(params, features):
        return expectations(run(circuit, params, features), ["ZIII", "IXYI"])

    def loss(params, features):
        found = jax.vmap(lambda x: values(params, x))(features)
        return jnp.sum(jnp.cos(found)), found

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, found), back = both(params, features)
    alone = [both(params, jnp.stack([x] * 3)) for x in features]
    for i, ((_, values_of), _) in enumerate(alone):
        np.testing.assert_allclose(found[i], values_of[0], atol=1e-6)
    np.testing.assert_allclose(back, sum(gradient for _, gradient in alone) / 3, atol=1e-5)


def test_depth_makes_no_program_longer():
    lengths = []
    for rounds in (3, 30):
        circuit = hardware_efficient(6, num_rounds=rounds)

        def value(params, circuit=circuit):
            return expectations(run(circuit, params), ["ZIIIII"])[0]

        params = jnp.zeros((rounds, circuit.num_params))
        lengths.append(str(jax.make_jaxpr(jax.grad(value))(params)).count("\n"))
    assert lengths[0] == lengths[1]


def test_depth_takes_no_memory():
    """Going back holds the state, its cotangent and what is being made of them."""
    num_qubits, held = 14, []
    ops = hardware_efficient(num_qubits, num_rounds=1).ops
    blocks = [block.qubits for block in fuse(ops, most=block_size(num_qubits))]
    planes = jax.ShapeDtypeStruct((2, 2**num_qubits), jnp.float32)
    for rounds in (3, 30):
        shapes = [(rounds, 2 * 2 ** len(block), 2 * 2 ** len(block)) for block in blocks]
        given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

        def back(given, planes, cotangent):
            orders = orders_of(num_qubits, blocks)
            _, pull = jax.vjp(lambda *given: evolve(orders, *given), given, planes)
            return pull(cotangent)

        compiled = jax.jit(back).lower(given, planes, planes).compile()
        held.append(compiled.memory_analysis().temp_size_in_bytes)
    assert held[0] == held[1]
    assert held[0] <= 5 * 8 * 2**num_qubits


def test_an_empty_circuit_is_nothing():
    np.testing.assert_array_equal(run(Circuit(2, ())), [1, 0, 0, 0])


def test_a_state_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"shape \(8,\): 2 qubits have 4 amplitudes"):
        run(Circuit(2, (op("H", 0),)), state=zero_state(3))


def test_a_state_may_be_given_as_real_numbers():
    """Gates keep their imaginary parts."""
    circuit = Circuit(1, (op("Y", 0),))
    np.testing.assert_allclose(run(circuit, state=jnp.asarray([1.0, 0.0])), [0, 1j], atol=1e-6)
