"""Our side of the quantum benchmark: a value, or with it the gradient, in one compiled program."""

import jax
import jax.numpy as jnp

from benchmarks.child import Answer, Spec, time_blocks
from benchmarks.sides.quantum_circuit import angles, answer
from rtdlm.modules.quantum.ansatz import hardware_efficient
from rtdlm.modules.quantum.pauli import expectations
from rtdlm.modules.quantum.statevector import run


def measure(spec: Spec) -> Answer:
    """See `quantum_circuit`. Answer: also `held`, states' worth of scratch memory."""
    num_qubits = spec["num_qubits"]
    circuit = hardware_efficient(num_qubits, num_rounds=spec["num_layers"])
    string = "Z" + "I" * (num_qubits - 1)

    def value(params: jax.Array) -> jax.Array:
        return expectations(run(circuit, params), [string])[0]

    params = jnp.asarray(angles(spec).reshape(spec["num_layers"], -1))
    program = jax.jit(jax.value_and_grad(value) if spec["gradient"] else value)

    def advance(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(program(params))

    times = time_blocks(advance, seconds=spec["seconds"])
    memory = program.lower(params).compile().memory_analysis()
    assert memory is not None, "the CPU backend tells what a program allocates"
    found = program(params) if spec["gradient"] else (program(params), None)
    return {**answer(times, *found), "held": memory.temp_size_in_bytes / (8 * 2**num_qubits)}
