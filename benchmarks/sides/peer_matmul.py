"""PyTorch's best square matrix product."""

import time

import torch

from benchmarks.child import Answer, Spec


def measure(spec: Spec) -> Answer:
    """Spec: `size`, `repeats`, `precision`, `threads`. Answer: `flops` [FLOP/s]."""
    torch.set_num_threads(spec["threads"])
    size = spec["size"]
    a, b = (torch.randn(size, size).to(getattr(torch, spec["precision"])) for _ in range(2))
    out = torch.empty_like(a)
    clock = time.process_time if spec["threads"] == 1 else time.perf_counter
    best = float("inf")
    with torch.no_grad():
        for _ in range(spec["repeats"] + 2):
            start = clock()
            torch.mm(a, b, out=out)
            best = min(best, clock() - start)
    return {"flops": 2 * size**3 / best}
