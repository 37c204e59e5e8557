"""Our `Generator` with a draft and without one, on trained checkpoints."""

import time

from benchmarks.child import Answer, Spec
from rtdlm.config.sampling import SamplingConfig
from rtdlm.inference import Drafting, load_generator

PROMPT = "KING RICHARD:\n"


def measure(spec: Spec) -> Answer:
    """Spec: `checkpoint`, `temperature`, `tokens`, `tries`; `draft` or `layers`, and `drafted`.

    Answer: `speed`, the best of the tries [tokens/s], and `a_call`, tokens a call of the model in
    all of them together.
    """
    drafting = Drafting(spec.get("draft"), spec.get("layers"), spec.get("drafted"))
    generator = load_generator(spec["checkpoint"], drafting=drafting)
    best, sampled, calls = 0.0, 0, 0
    for seed in range(spec["tries"] + 1):
        sampling = SamplingConfig(
            temperature=spec["temperature"], max_tokens=spec["tokens"], seed=seed
        )
        start = time.perf_counter()
        [done] = generator.generate([PROMPT], sampling)
        best = max(best, done.sampled / (time.perf_counter() - start))
        sampled, calls = sampled + done.sampled, calls + done.calls
    return {"speed": best, "a_call": sampled / calls}
