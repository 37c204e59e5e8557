"""One kind of attention, forward and backward, from projected queries, keys and values."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Answer, Spec, time_blocks
from rtdlm.config import MeshConfig
from rtdlm.modules.attention.dot_product import attend_causally
from rtdlm.modules.attention.linear import linear_attention
from rtdlm.modules.attention.mask import causal_mask
from rtdlm.modules.attention.ring_attention import attend_round
from rtdlm.modules.attention.sliding import attend_window
from rtdlm.modules.attention.sparse import sparse_branches
from rtdlm.modules.attention.spiking import attend_spiking
from rtdlm.modules.attention.topk import attend_topk
from rtdlm.modules.primitives import gated_delta
from rtdlm.parallel import batch_sharding, make_mesh
from rtdlm.training.allocator import keep_freed_memory

Read = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def measure(spec: Spec) -> Answer:
    """Times a kind of attention on one row.

    Spec: `kind`, `length`, `precision`, `heads`, `kv_heads`, `width`, `window`, `block`, `chosen`,
    `chosen_keys`, `first`, `devices` that the row lies on, `seconds`, `limit` (of bytes). Answer:
    `wall` and `cpu` of a forward and backward pass [s], and `temporary_bytes`, what the compiled
    program allocates on a device beside its arguments and results; of a program that allocates more
    than the limit, only that.
    """
    keep_freed_memory()
    mesh = make_mesh(MeshConfig(context=spec["devices"]), jax.devices()[: spec["devices"]])
    with jax.set_mesh(mesh):
        return _measure(spec, batch_sharding(mesh))


def _measure(spec: Spec, place: jax.sharding.Sharding) -> Answer:
    rng = np.random.default_rng(0)

    def draw(heads: int) -> jax.Array:
        x = jnp.asarray(rng.normal(size=(1, length, heads, spec["width"])), spec["precision"])
        return jax.device_put(x, place)

    length, heads, kv_heads = spec["length"], spec["heads"], spec["kv_heads"]
    inputs = (draw(heads), draw(kv_heads), draw(kv_heads))
    change = draw(heads)
    segments = jax.device_put(jnp.ones((1, length), jnp.int32), place)

    def both(
        query: jax.Array, key: jax.Array, value: jax.Array, change: jax.Array, segments: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        read, pull_back = jax.vjp(_kind(spec, segments), query, key, value)
        return read, pull_back(change)

    compiled = jax.jit(both).lower(*inputs, change, segments).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None, "XLA knows the memory of what it compiles"
    memory = {"temporary_bytes": analysis.temp_size_in_bytes}
    if memory["temporary_bytes"] > spec["limit"]:
        return memory

    def advance(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(compiled(*inputs, change, segments))

    return time_blocks(advance, seconds=spec["seconds"]) | memory


def _kind(spec: Spec, segments: jax.Array) -> Read:
    def sparse(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        gates = jnp.full((*query.shape[:3], 3), 0.5, query.dtype)
        branches = sparse_branches(
            query, key, value, segments,
            block=spec["block"], num_chosen=spec["chosen"], window=spec["window"],
        )  # fmt: skip
        return branches.gated(gates)

    def topk(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        may = causal_mask(segments)
        place = jnp.arange(spec["length"])
        near = place[:, None] - place[None] < spec["window"]
        always = may & (near | (place < spec["first"])[None])[None]
        return attend_topk(query, key, value, may, always, num_chosen=spec["chosen_keys"])

    def spiking(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        places = jax.random.uniform(jax.random.key(0), key.shape[:3])
        drive = jnp.where(places < 1 / 6, 1.0, -1.0)
        return attend_spiking(query, key, value, drive, segments)[0]

    def delta(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        shared = query.shape[2] // key.shape[2]
        key, value = (jnp.repeat(x, shared, axis=2) for x in (key, value))
        key = key / jnp.linalg.norm(key, axis=-1, keepdims=True)
        decay, write = (jnp.full(query.shape[:3], x, jnp.float32) for x in (-0.1, 0.5))
        return gated_delta(query, key, value, decay, write, segments)[0]

    kinds: dict[str, Read] = {
        "dense": lambda q, k, v: attend_causally(q, k, v, causal_mask(segments)),
        "sliding": lambda q, k, v: attend_window(q, k, v, segments, window=spec["window"]),
        "linear": lambda q, k, v: linear_attention(q, k, v, segments)[0],
        "sparse": sparse,
        "topk": topk,
        "spiking": spiking,
        "delta": delta,
        "ring": lambda q, k, v: attend_round(q, k, v, segments),
    }
    return kinds[spec["kind"]]
