"""JAX's best square matrix product."""

import time

import jax

from benchmarks.child import Answer, Spec


def measure(spec: Spec) -> Answer:
    """Spec: `size`, `repeats`, `precision`, `threads`. Answer: `flops` [FLOP/s]."""
    size, dtype = spec["size"], spec["precision"]
    a, b = (jax.random.normal(jax.random.key(k), (size, size), dtype) for k in range(2))
    multiply = jax.jit(jax.numpy.matmul)
    clock = time.process_time if spec["threads"] == 1 else time.perf_counter
    best = float("inf")
    for _ in range(spec["repeats"] + 2):
        start = clock()
        multiply(a, b).block_until_ready()
        best = min(best, clock() - start)
    return {"flops": 2 * size**3 / best}
