"""Our training step under XLA's own clock: time by the module that an operation came from."""

import gzip
import json
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Answer, Spec
from benchmarks.sides.our_step import random_batch
from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel
from rtdlm.parallel import make_mesh
from rtdlm.training.allocator import keep_freed_memory
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.state import init_state
from rtdlm.training.step import make_train_step

STEPS = 3
PARTS = {
    "attention": "/attention/",
    "feed-forward": "/feedforward/",
    "norms": "norm/",
    "output table and loss": "/while/body",
}
"""Part -> what the name of its operations holds; the first that fits. The loss is the one loop."""
REST = "optimizer and the rest"


def measure(spec: Spec) -> Answer:
    """Spec: `config`. Answer: `milliseconds` by part, and `product_flops` a second in products."""
    keep_freed_memory()
    config = AGIConfig.from_dict(spec["config"])
    mesh = make_mesh(config.mesh)
    model, optimizer = TMSModel(config), make_optimizer(config.optimizer)
    state, knobs = init_state(model, optimizer, mesh), Knobs.from_config(config)
    batch, fraction = random_batch(config, np.random.default_rng(0)), jnp.float32(0.1)
    step = make_train_step(model, optimizer, mesh)
    with jax.set_mesh(mesh):
        lowered = step.__wrapped__.lower(state, batch, knobs, fraction)
    compiled = lowered.compile({"xla_cpu_enable_xprof_traceme": True})
    for _ in range(2):
        state, _ = compiled(state, batch, knobs, fraction)
    jax.block_until_ready(state)
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(STEPS):
                state, _ = compiled(state, batch, knobs, fraction)
                jax.block_until_ready(state)
        [path] = Path(directory).glob("**/*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return _sorted(events, compiled.as_text())


def _sorted(events: list[dict[str, Any]], program: str) -> Answer:
    operations = _operations(program)
    milliseconds: Counter[str] = Counter()
    seconds = flops = 0.0
    for event in events:
        found = operations.get(event["name"]) if event.get("ph") == "X" else None
        if found is None:
            continue
        name, work = found
        part = next((part for part, word in PARTS.items() if word in name), REST)
        kind = "products" if work else "the rest"
        milliseconds[f"{part}, {kind}" if part != REST else REST] += event["dur"] / STEPS / 1e3
        if work:
            seconds, flops = seconds + event["dur"] / 1e6, flops + work
    return {"milliseconds": dict(milliseconds), "product_flops": flops / seconds}


def _operations(program: str) -> dict[str, tuple[str, float]]:
    """Instruction -> its name in our program and the FLOP of the product in it, if there is one.

    Loops and calls are left out: what runs in them is listed by itself.
    """
    products: dict[str, float] = {}
    inside = ""
    shapes: dict[str, list[int]] = {}
    operations = {}
    for line in program.splitlines():
        if opened := re.match(r"(?:ENTRY )?%([\w.\-]+) \(", line):
            inside, shapes = opened[1], {}
        made = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = \(?\w+\[([\d,]*)\]", line)
        if made is None:
            continue
        shapes[made[1]] = _sizes(made[2])
        work = _product_flops(line, shapes)
        if work:
            products[inside] = products.get(inside, 0.0) + work
        called = re.search(r"calls=%([\w.\-]+)", line)
        if re.search(r"\) (while|conditional|call)\(|= [^=]* (while|conditional|call)\(", line):
            continue
        label = re.search(r'op_name="([^"]*)"', line)
        own = products.get(called[1], 0.0) if called else work
        operations[made[1]] = (label[1] if label else "", own)
    return operations


def _product_flops(line: str, shapes: dict[str, list[int]]) -> float:
    found = re.search(r" dot\(%([\w.\-]+), .*lhs_contracting_dims=\{([\d,]+)\}", line)
    if found is None:
        return 0.0
    made = re.match(r"\s+(?:ROOT )?%([\w.\-]+) =", line)
    assert made is not None
    summed = [shapes[found[1]][axis] for axis in _sizes(found[2])]
    return 2.0 * float(np.prod(shapes[made[1]])) * float(np.prod(summed))


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]
