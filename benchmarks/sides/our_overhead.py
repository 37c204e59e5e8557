"""One circuit: what it is estimated to cost, and what it does."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from benchmarks.child import Answer, Spec, time_blocks
from rtdlm.modules.quantum import brick_wall, calibrate, estimate_quantum_overhead
from rtdlm.modules.quantum.circuit import Circuit
from rtdlm.modules.quantum.halves_plan import rounds_in_halves
from rtdlm.modules.quantum.overhead import Mode, program_of


def measure(spec: Spec) -> Answer:
    """Spec: `mode`, `num_qubits`, `bond_dim`, `depth`, `seconds`.

    Answer: `bytes`, `operations` and `seconds` as they are, and `..._told` as estimated; operations
    of a matrix product state are those of one cut.
    """
    num_qubits, mode, bond = spec["num_qubits"], spec["mode"], spec["bond_dim"]
    circuit = brick_wall(num_qubits, num_rounds=spec["depth"])
    params_LP = jnp.full((spec["depth"], circuit.num_params), 0.5)
    program = program_of(circuit, mode, bond)
    compiled = program.lower(params_LP).compile()
    memory = compiled.memory_analysis()
    assert memory is not None, "the CPU backend tells what a program allocates"
    rate = calibrate(mode, bond)
    told = estimate_quantum_overhead(num_qubits, spec["depth"], mode, bond, rate=rate)

    def advance(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(program(params_LP))

    if bond is None:
        operations, operations_told = _operations(circuit, mode), told.flops
    else:
        # Two qubits have one cut, of which all others are repetitions.
        operations = _counted(brick_wall(2, num_rounds=1), mode, bond)
        operations_told = estimate_quantum_overhead(2, 1, mode, bond).flops
    return {
        "bytes": memory.temp_size_in_bytes + memory.output_size_in_bytes,
        "bytes_told": told.bytes,
        "operations": operations,
        "operations_told": operations_told,
        "seconds": time_blocks(advance, seconds=spec["seconds"])["wall"],
        "seconds_told": told.seconds,
    }


def _operations(circuit: Circuit, mode: Mode) -> float:
    """Of all rounds, where the compiler counts the body of their loop once."""
    depth, counted = circuit.num_rounds, _counted(circuit, mode, None)
    begun = rounds_in_halves(circuit)
    if begun:
        assert begun == depth, "rounds in halves and a loop behind them cannot be told apart"
        return counted
    # A program of twice as many rounds makes the matrices of so many more and has the same loop.
    twice = _counted(replace(circuit, num_rounds=2 * depth), mode, None)
    return counted + (depth - 1) * (2 * counted - twice)


def _counted(circuit: Circuit, mode: Mode, bond: int | None) -> float:
    params = jax.ShapeDtypeStruct((circuit.num_rounds, circuit.num_params), jnp.float32)
    cost = program_of(circuit, mode, bond).lower(params).compile().cost_analysis()
    assert cost is not None, "the CPU backend counts operations"
    return float(cost["flops"])
