"""What a circuit is estimated to cost, against what the compiler counts and allocates."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rtdlm.config import UserError
from rtdlm.modules.quantum import ANSATZES, calibrate, estimate_quantum_overhead
from rtdlm.modules.quantum.halves_plan import rounds_in_halves
from rtdlm.modules.quantum.overhead import Mode, program_of

WITHIN = 0.1


def compiled(num_qubits: int, depth: int, mode: Mode, bond_dim: int | None, ansatz: str) -> Any:
    circuit = ANSATZES[ansatz](num_qubits, num_rounds=depth)
    params = jax.ShapeDtypeStruct((depth, circuit.num_params), jnp.float32)
    return program_of(circuit, mode, bond_dim).lower(params).compile()


@pytest.mark.parametrize(
    ("num_qubits", "depth", "mode", "bond_dim"),
    [
        (16, 4, "statevector", None),
        (18, 2, "statevector", None),
        (20, 8, "statevector", None),
        (18, 2, "gradient", None),
        (20, 6, "gradient", None),
        (40, 1, "mps", 16),
        (20, 4, "mps", 32),
        (50, 4, "mps", 16),
    ],
)
@pytest.mark.parametrize("ansatz", ["brick_wall", "hardware_efficient"])
def test_bytes_are_those_that_are_allocated(
    num_qubits: int, depth: int, mode: Mode, bond_dim: int | None, ansatz: str
) -> None:
    memory = compiled(num_qubits, depth, mode, bond_dim, ansatz).memory_analysis()
    allocated = memory.temp_size_in_bytes + memory.output_size_in_bytes
    told = estimate_quantum_overhead(num_qubits, depth, mode, bond_dim, ansatz=ansatz)
    assert abs(told.bytes / allocated - 1) < WITHIN, (told.bytes, allocated)


@pytest.mark.parametrize(
    ("num_qubits", "mode", "bond_dim"),
    [(12, "statevector", None), (12, "gradient", None), (2, "mps", 32)],
)
def test_operations_are_those_that_the_compiler_counts(
    num_qubits: int, mode: Mode, bond_dim: int | None
) -> None:
    """Of one round, or one cut: of a loop it counts the body once."""
    depth = 2 if bond_dim is None else 1
    counted = compiled(num_qubits, depth, mode, bond_dim, "brick_wall").cost_analysis()["flops"]
    told = estimate_quantum_overhead(num_qubits, 1, mode, bond_dim)
    assert abs(told.flops / counted - 1) < WITHIN, (told.flops, counted)
    deeper = estimate_quantum_overhead(num_qubits, 5, mode, bond_dim)
    assert deeper.flops == 5 * told.flops


@pytest.mark.parametrize("ansatz", ["brick_wall", "hardware_efficient"])
@pytest.mark.parametrize(
    ("num_qubits", "depth", "mode"),
    [
        (16, 2, "statevector"), (18, 10, "statevector"),
        (14, 2, "gradient"), (16, 2, "gradient"), (18, 10, "gradient"),
    ],
)  # fmt: skip
def test_operations_in_halves_and_behind_them_are_those_that_the_compiler_counts(
    num_qubits: int, depth: int, mode: Mode, ansatz: str
) -> None:
    counted = compiled(num_qubits, depth, mode, None, ansatz).cost_analysis()["flops"]
    told = estimate_quantum_overhead(num_qubits, depth, mode, ansatz=ansatz).flops
    begun = rounds_in_halves(ANSATZES[ansatz](num_qubits, num_rounds=depth))
    assert begun > 0
    if begun < depth:
        deeper = estimate_quantum_overhead(num_qubits, depth + 1, mode, ansatz=ansatz).flops
        # Of the loop over the rounds that are left it counts the body once.
        told -= (depth - begun - 1) * (deeper - told)
    assert abs(told / counted - 1) < WITHIN, (told, counted)


def test_seconds_are_operations_over_a_measured_rate() -> None:
    rate = calibrate("mps", 4)
    told = estimate_quantum_overhead(30, 2, "mps", 4, rate=rate)
    assert told.seconds == told.flops / rate > 0
    assert estimate_quantum_overhead(30, 2, "mps", 4).seconds is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "density"}, "there is no mode 'density'; there are statevector, gradient, mps"),
        ({"mode": "mps"}, "mode='mps' is given bond_dim=None: mps takes one, the others take none"),
        (
            {"bond_dim": 4},
            "mode='statevector' is given bond_dim=4: mps takes one, the others take none",
        ),
        (
            {"ansatz": "ring"},
            "ansatz='ring' is none of hardware_efficient, strongly_entangling, brick_wall",
        ),
    ],
)
def test_what_cannot_be_estimated_is_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        estimate_quantum_overhead(4, 1, **given)
    assert str(caught.value) == message
