"""What simulating a circuit costs, before it is run: bytes, operations, seconds.

    statevector   R sum over blocks of k qubits 2 (2^(k + 1))^2 2^(n - k)  operations, where rounds
                  in halves (`halves`) take those of their own products; two states, or three where
                  halves are put together across both their controls or more rounds follow
    gradient      four times the operations: forward, back with the state and with its cotangent,
                  and the matrices' own; four states. With rounds in halves, two to seven: the
                  compiler, which takes seconds, is asked
    mps           24 chi^3 + 114 chi^2 operations a cut, singular values apart; all tensors, four
                  of the matrices that are cut, and `GATE_BYTES` a gate

A state is 8 * 2^n bytes, a tensor 16 chi^2. Operations are those that the compiler counts; it sees
neither into LAPACK, which finds singular values, nor how often a loop turns. Blocks' matrices count
too, but where they are not small beside a state, below 16 qubits and for gradients below 18, it is
the compiler that decides how many of them are there at once. Seconds are operations over a rate
that `calibrate` measures on this machine, LAPACK included.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import UserError
from rtdlm.modules.quantum.ansatz import ANSATZES
from rtdlm.modules.quantum.circuit import Circuit, matrices
from rtdlm.modules.quantum.fusion import block_size, fuse
from rtdlm.modules.quantum.halves import made_blocks
from rtdlm.modules.quantum.halves_plan import Join, Step, operations, rounds_in_halves
from rtdlm.modules.quantum.halves_plan import plan as plan_halves
from rtdlm.modules.quantum.mps_circuit import run_mps
from rtdlm.modules.quantum.mps_plan import GATE, plan
from rtdlm.modules.quantum.pauli import expectations
from rtdlm.modules.quantum.statevector import run

Mode = Literal["statevector", "gradient", "mps"]
MODES: tuple[Mode, ...] = ("statevector", "gradient", "mps")
PROBE_QUBITS = {"statevector": 18, "gradient": 18, "mps": 12}
"""Of the circuits whose speed is measured."""
GATE_BYTES = 224
"""Of a gate on two qubits and the steps that it takes, as found."""
VALUE = 22
"""Operations an amplitude of an expectation value and of its gradient by the state, as found."""
REPEATS = 5


class QuantumOverhead(NamedTuple):
    """What one run of a circuit takes, in complex64."""

    bytes: int
    """What is allocated, the result included and parameters not."""
    flops: int
    seconds: float | None
    """None without a rate."""


def estimate_quantum_overhead(
    num_qubits: int,
    depth: int,
    mode: Mode = "statevector",
    bond_dim: int | None = None,
    *,
    ansatz: str = "brick_wall",
    rate: float | None = None,
) -> QuantumOverhead:
    """The cost of `depth` rounds of one of `ANSATZES`.

    Args:
        num_qubits: of the circuit.
        depth: rounds.
        mode: all amplitudes; the gradient of an expectation value by all angles; or a matrix
            product state.
        bond_dim: chi, with `mps` alone.
        ansatz: which circuit.
        rate: operations a second, as `calibrate` gives them for this mode and bond.

    Raises:
        UserError: no such mode or ansatz, or `bond_dim` without `mps` or the other way round.
    """
    circuit = _circuit(num_qubits, depth, mode, bond_dim, ansatz)
    flops = _flops(circuit, mode, bond_dim)
    if bond_dim is not None:
        bytes = _tensor_bytes(circuit, bond_dim)
    elif mode == "gradient" and rounds_in_halves(circuit):
        bytes = _allocated(circuit)
    else:
        bytes = _state_bytes(circuit, gradient=mode == "gradient")
    return QuantumOverhead(bytes, flops, None if rate is None else flops / rate)


def calibrate(mode: Mode = "statevector", bond_dim: int | None = None) -> float:
    """Operations a second that this machine reaches, by a small circuit; takes a few seconds.

    Raises:
        UserError: as `estimate_quantum_overhead`.
    """
    num_qubits, depth = PROBE_QUBITS.get(mode, 0), 4
    circuit = _circuit(num_qubits, depth, mode, bond_dim, "brick_wall")
    program = program_of(circuit, mode, bond_dim)
    params_LP = jnp.full((depth, circuit.num_params), 0.5)
    jax.block_until_ready(program(params_LP))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(program(params_LP))
        times.append(time.perf_counter() - start)
    return _flops(circuit, mode, bond_dim) / sorted(times)[REPEATS // 2]


def program_of(circuit: Circuit, mode: Mode, bond_dim: int | None) -> "jax.stages.Wrapped":
    """What is estimated, compiled: a function of the parameters `[depth, P]`."""
    if bond_dim is not None:
        return jax.jit(lambda params_LP: run_mps(circuit, params_LP, max_bond=bond_dim))
    if mode == "statevector":
        return jax.jit(lambda params_LP: run(circuit, params_LP))
    string = "Z" + "I" * (circuit.num_qubits - 1)
    return jax.jit(jax.grad(lambda params_LP: expectations(run(circuit, params_LP), [string])[0]))


def _circuit(num_qubits: int, depth: int, mode: Mode, bond_dim: int | None, ansatz: str) -> Circuit:
    if mode not in MODES:
        raise UserError(f"there is no mode {mode!r}; there are {', '.join(MODES)}")
    if (mode == "mps") != (bond_dim is not None):
        raise UserError(
            f"mode={mode!r} is given bond_dim={bond_dim}: mps takes one, the others take none"
        )
    if ansatz not in ANSATZES or ansatz == "data_reuploading":
        known = [name for name in ANSATZES if name != "data_reuploading"]
        raise UserError(f"ansatz={ansatz!r} is none of {', '.join(known)}")
    return ANSATZES[ansatz](num_qubits, num_rounds=depth)


def _flops(circuit: Circuit, mode: Mode, bond_dim: int | None) -> int:
    if bond_dim is not None:
        return _cuts(circuit) * (24 * bond_dim**3 + 114 * bond_dim**2)
    gradient, begun = mode == "gradient", rounds_in_halves(circuit)
    steps = plan_halves(circuit, begun) if begun else None
    in_halves = 0
    if steps is not None:
        # Few enough that what makes the matrices, and looks at the state, is no small part.
        in_halves = operations(circuit, steps, gradient=gradient)
        in_halves += _making(circuit, begun, steps) * (2 if gradient else 1)
        in_halves += VALUE * 2**circuit.num_qubits if gradient else 0
    a_round = sum(4 * 2**circuit.num_qubits * rows for rows in _rows(circuit))
    return in_halves + (circuit.num_rounds - begun) * a_round * (4 if gradient else 1)


def _making(circuit: Circuit, rounds: int, steps: Sequence[Step]) -> int:
    """Of the blocks' matrices, as the compiler counts them before it begins."""
    begun = replace(circuit, num_rounds=rounds)
    params = jax.ShapeDtypeStruct((rounds, circuit.num_params), jnp.float32)

    def make(params_LP: jax.Array) -> list[list[jax.Array]]:
        return made_blocks(begun, matrices(begun, params_LP), steps)

    cost = jax.jit(make).lower(params).cost_analysis()
    assert cost is not None, "every backend that runs circuits counts operations"
    return int(cost["flops"])


def _state_bytes(circuit: Circuit, *, gradient: bool) -> int:
    """With all amplitudes; for a gradient, of whole rounds alone."""
    state, begun = 8 * 2**circuit.num_qubits, rounds_in_halves(circuit)
    kept = 4 * sum(rows**2 for rows in _rows(circuit)) * (circuit.num_rounds - begun)
    if gradient:
        return 4 * state + 3 * kept
    steps = plan_halves(circuit, begun) if begun else None
    if steps is None:
        return 2 * state + kept
    join = steps[-1]
    assert isinstance(join, Join)
    states = 3 if begun < circuit.num_rounds or all(join.controls) else 2
    return states * state + kept


def _rows(circuit: Circuit) -> list[int]:
    """Of the real form of each block of a round."""
    blocks = fuse(circuit.ops, most=block_size(circuit.num_qubits))
    return [2 ** (len(block.qubits) + 1) for block in blocks]


def _allocated(circuit: Circuit) -> int:
    """What the compiled gradient is going to allocate; nothing is run."""
    params = jax.ShapeDtypeStruct((circuit.num_rounds, circuit.num_params), jnp.float32)
    memory = program_of(circuit, "gradient", None).lower(params).compile().memory_analysis()
    assert memory is not None, "every backend that runs circuits tells what a program allocates"
    return int(memory.temp_size_in_bytes + memory.output_size_in_bytes)


def _tensor_bytes(circuit: Circuit, chi: int) -> int:
    """With a matrix product state."""
    gates = len(circuit.ops) * circuit.num_rounds
    return 16 * circuit.num_qubits * chi**2 + 4 * 32 * chi**2 + GATE_BYTES * gates


def _cuts(circuit: Circuit) -> int:
    """Matrices of a matrix product state that are cut."""
    steps = plan([each.qubits for each in circuit.ops] * circuit.num_rounds, circuit.num_qubits)
    return sum(int(kind) in (GATE, GATE + 1) for kind in steps.kind)
