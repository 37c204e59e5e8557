"""The hashed memory against its formula, token by token."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import KnowledgeConfig
from rtdlm.modules.knowledge import HashedMemory

CONFIG = KnowledgeConfig(kind="ngram", rows=11, heads=2, orders=(2, 3), dim=5)


def layer(seed: int) -> tuple[Any, dict[str, dict[str, np.ndarray]], jax.Array, np.ndarray]:
    run = hk.without_apply_rng(hk.transform(lambda x, rows: HashedMemory(CONFIG)(x, rows)))
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(2, 6, 8)), jnp.float32)
    rows = rng.integers(11, size=(2, 6, 4), dtype=np.int32) + 11 * np.arange(4, dtype=np.int32)
    return run, jax.jit(run.init)(jax.random.key(seed), x, rows), x, rows


def rms(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return scale * x / np.sqrt((x**2).mean() + 1e-6)


def test_the_layer_is_its_formula() -> None:
    run, params, x, rows = layer(0)
    rng = np.random.default_rng(1)
    random = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    w = {module.removeprefix("knowledge"): leaves for module, leaves in random.items()}
    found = jax.jit(run.apply)(random, x, rows)
    for place in np.ndindex(2, 6):
        read = w[""]["table"][rows[place]]
        key, value = (np.einsum("ne,ned->d", read, w[f"/{name}"]["w"]) for name in ("key", "value"))
        query = rms(np.asarray(x[place]), w["/query_norm"]["scale"])
        score = query @ rms(key, w["/key_norm"]["scale"]) / 8**0.5
        np.testing.assert_allclose(found[place], value / (1 + np.exp(-score)), atol=1e-4)


def test_what_was_never_seen_adds_nothing_and_can_be_learned() -> None:
    """Before training the table has a slope, and after one step so has everything else."""
    run, params, x, rows = layer(2)
    assert params["knowledge"]["table"].shape == (44, 5)
    assert not np.asarray(run.apply(params, x, rows)).any()
    target = jnp.asarray(np.random.default_rng(3).normal(size=x.shape), jnp.float32)
    slope = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(run.apply(p, x, rows) - target))))
    first = slope(params)
    table = np.asarray(first["knowledge"]["table"])
    read = set(rows.ravel().tolist())
    assert {int(row) for row in np.flatnonzero(table.any(-1))} == read
    stepped = jax.tree.map(lambda p, g: p - 0.01 * g, params, first)
    for leaf in jax.tree.leaves(slope(stepped)):
        assert np.isfinite(leaf).all() and np.asarray(leaf).any()
