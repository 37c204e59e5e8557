"""One circuit: what it is estimated to cost, and what it does."""

import jax
import jax.numpy as jnp

from benchmarks.child import Answer, Spec, time_blocks
from rtdlm.modules.quantum import brick_wall, calibrate, estimate_quantum_overhead
from rtdlm.modules.quantum.overhead import program_of


def measure(spec: Spec) -> Answer:
    """Spec: `mode`, `num_qubits`, `bond_dim`, `depth`, `seconds`.

    Answer: `bytes`, `operations` and `seconds` as they are, and `..._told` as estimated; operations
    are those of one layer, for a matrix product state of one cut.
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

    counted = num_qubits
    if bond is not None:
        # Two qubits have one cut, of which all others are repetitions.
        counted, one = 2, brick_wall(2, num_rounds=1)
        compiled = program_of(one, mode, bond).lower(jnp.zeros((1, one.num_params))).compile()
    cost = compiled.cost_analysis()
    assert cost is not None, "the CPU backend counts operations"
    return {
        "bytes": memory.temp_size_in_bytes + memory.output_size_in_bytes,
        "bytes_told": told.bytes,
        "operations": cost["flops"],
        "operations_told": estimate_quantum_overhead(counted, 1, mode, bond).flops,
        "seconds": time_blocks(advance, seconds=spec["seconds"])["wall"],
        "seconds_told": told.seconds,
    }
