"""One layer of experts, forward and backward: all of them computed, or the chosen ones."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Answer, Spec, time_blocks
from rtdlm.config import ExpertsConfig
from rtdlm.modules.experts import SparseExperts
from rtdlm.modules.primitives import SILU, Projection, gated
from rtdlm.training.allocator import keep_freed_memory

Layer = Callable[[jax.Array], jax.Array]


def measure(spec: Spec) -> Answer:
    """Times a layer on a batch of random tokens.

    Spec: `kind` (`all`, `capacity` or `dropless`), `experts`, `top_k`, `d_model`, `d_ff`, `batch`,
    `length`, `precision`, `seconds`. Answer: `wall` and `cpu` of a forward and backward pass [s],
    and `flops`, the compiler's count, in which a loop counts once.
    """
    keep_freed_memory()
    rng = np.random.default_rng(0)
    shape = (spec["batch"], spec["length"], spec["d_model"])
    x, change = (jnp.asarray(rng.normal(size=shape), spec["precision"]) for _ in range(2))

    def forward(x_BTD: jax.Array) -> jax.Array:
        return _layer(spec)(x_BTD)

    layer: Any = hk.without_apply_rng(hk.transform(forward))  # whose type haiku leaves open
    params = jax.jit(layer.init)(jax.random.key(0), x)

    def both(params: hk.Params, x: jax.Array, change: jax.Array) -> tuple[jax.Array, object]:
        y, pull_back = jax.vjp(layer.apply, params, x)
        return y, pull_back(change)

    compiled = jax.jit(both).lower(params, x, change).compile()
    analysis = compiled.cost_analysis()
    assert analysis is not None, "XLA counts the operations of what it compiles"

    def advance(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(compiled(params, x, change))

    return time_blocks(advance, seconds=spec["seconds"]) | {"flops": analysis["flops"]}


def _layer(spec: Spec) -> Layer:
    if spec["kind"] == "all":
        return lambda x: all_experts(x, spec)
    config = ExpertsConfig(num_experts=spec["experts"], top_k=spec["top_k"], dispatch=spec["kind"])
    module = SparseExperts(config, d_ff=spec["d_ff"], out_scale=1.0)
    return lambda x: module(x, weights_BT=jnp.ones(x.shape[:2]))[0]


def all_experts(x_BTD: jax.Array, spec: Spec) -> jax.Array:
    """Every expert on every token, weighed by the same router: three wide products."""
    experts, model, hidden = spec["experts"], spec["d_model"], spec["d_ff"]
    router = Projection("BTD,DE->BTE", shape=(model, experts), name="router")
    p_BTE = jax.nn.softmax(router(x_BTD.astype(jnp.float32)))
    top_BTJ, chosen_BTJ = jax.lax.top_k(p_BTE, spec["top_k"])
    top_BTJ /= jnp.sum(top_BTJ, axis=-1, keepdims=True)
    share_BTE = jnp.sum(jax.nn.one_hot(chosen_BTJ, experts) * top_BTJ[..., None], axis=2)
    inner, outer = (experts, model, hidden), (experts, hidden, model)
    gate_BTEF = Projection("BTD,EDF->BTEF", shape=inner, name="gate")(x_BTD)
    up_BTEF = Projection("BTD,EDF->BTEF", shape=inner, name="up")(x_BTD)
    hidden_BTEF = gated(SILU, gate_BTEF, up_BTEF) * share_BTE.astype(x_BTD.dtype)[..., None]
    return Projection("BTEF,EFD->BTD", shape=outer, name="down")(hidden_BTEF)
