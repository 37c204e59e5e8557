"""The peer's generation loops."""

import time

import torch

from benchmarks.child import Answer, Spec
from benchmarks.peer.generate import generate, generate_cached
from benchmarks.peer.llama import Llama
from benchmarks.peer.shape import Shape

LOOPS = {"standard": generate, "cached": generate_cached}


def measure(spec: Spec) -> Answer:
    """Spec: `shape`, `loop`, `batch`, `prompt`, `tokens`, `tries`, `threads`, `temperature`,
    `top_k`. Answer: `speed`, the best of the tries [tokens/s], all rows together.
    """
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    shape = Shape(**spec["shape"])
    model, loop = Llama(shape).eval(), LOOPS[spec["loop"]]
    prompt_BT = torch.randint(shape.vocab_size, (spec["batch"], spec["prompt"]))
    best = float("inf")
    for _ in range(spec["tries"] + 1):
        start = time.perf_counter()
        out_BT = loop(
            model,
            prompt_BT,
            spec["tokens"],
            temperature=spec["temperature"],
            top_k=spec["top_k"],
        )
        best = min(best, time.perf_counter() - start)
        assert out_BT.shape[1] == spec["prompt"] + spec["tokens"]
    return {"speed": spec["batch"] * spec["tokens"] / best}
