"""Kinds with parameters of their own against NumPy loops that make those themselves too."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.attention import Heads
from rtdlm.modules.attention.neurons import Spiking
from rtdlm.modules.attention.recurrent import Delta
from rtdlm.modules.attention.sparse import sparse_branches
from rtdlm.modules.attention.sparse_kinds import Native
from tests.modules.attention.windows import draw, packed

LENGTH, MODEL = 37, 5


def whole(kind: Any, **sizes: int) -> tuple[dict[str, np.ndarray], Heads, np.ndarray, np.ndarray]:
    """Random parameters, what is read from, its documents, and what `kind` reads of packed rows."""
    rng = np.random.default_rng(7)
    x = jnp.asarray(rng.normal(size=(2, LENGTH, MODEL)), jnp.float32)
    heads, segments = Heads(*draw(length=LENGTH, **sizes), x), packed(2, LENGTH)
    positions = jnp.zeros_like(segments)
    module = hk.without_apply_rng(
        hk.transform(lambda heads: kind.read(heads, kind.packed(positions, segments)))
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), heads)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.7, s.shape), jnp.float32), shapes)
    found = np.asarray(jax.jit(module.apply)(params, heads))
    own = {
        f"{path}/{name}".removeprefix("~/"): np.asarray(leaf, np.float64)
        for path, leaves in params.items()
        for name, leaf in leaves.items()
    }
    return own, jax.tree.map(lambda x: np.asarray(x, np.float64), heads), segments, found


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_delta_decays_and_writes_by_what_it_makes_of_the_token() -> None:
    own, heads, segments, found = whole(Delta(), kv_heads=4)
    query, key = (x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6) for x in heads.qkv[:2])
    softplus = np.log1p(np.exp(heads.x_BTD @ own["decay/w"] + own["decay_shift"]))
    keep, write = (
        np.exp(-np.exp(own["decay_rate"]) * softplus),
        sigmoid(heads.x_BTD @ own["write/w"]),
    )
    for row, head in np.ndindex(2, 4):
        state = np.zeros((8, 8))
        for t in range(LENGTH):
            if t and segments[row, t] != segments[row, t - 1]:
                state[:] = 0
            k, v = key[row, t, head], heads.value_BTKE[row, t, head]
            state *= keep[row, t, head]
            state += write[row, t, head] * np.outer(v - state @ k, k)
            read = state @ query[row, t, head]
            expected = read / np.sqrt((read**2).mean() + 1e-2) * own["read_norm/scale"]
            if segments[row, t]:
                np.testing.assert_allclose(found[row, t, head], expected, atol=2e-5)


def test_spiking_reads_tokens_whose_neuron_passes_its_threshold() -> None:
    own, heads, segments, found = whole(Spiking())
    spikes = heads.x_BTD @ own["drive/w"] > own["threshold"]
    assert 0.1 < spikes.mean() < 0.9
    for row, t, head in np.ndindex(2, LENGTH, 4):
        if not segments[row, t]:
            continue
        kv = head // 2
        total, read = 1.0, np.zeros(8)
        for s in range(t + 1):
            if segments[row, s] == segments[row, t] and spikes[row, s, kv]:
                score = heads.query_BTHE[row, t, head] @ heads.key_BTKE[row, s, kv] * 8**-0.5
                total += np.exp(score)
                read += np.exp(score) * heads.value_BTKE[row, s, kv]
        np.testing.assert_allclose(found[row, t, head], read / total, atol=1e-5)


def test_sparse_weighs_its_branches_by_gates_of_the_token() -> None:
    """The branches themselves: test_sparse.py."""
    sizes = {"block": 4, "num_chosen": 2, "window": 6}
    own, heads, segments, found = whole(Native(**sizes))
    branches = sparse_branches(
        *(jnp.asarray(x, jnp.float32) for x in heads.qkv), jnp.asarray(segments), **sizes
    )
    gates = sigmoid(np.einsum("btd,dhn->bthn", heads.x_BTD, own["gates/w"]))
    parts = (branches.means, branches.chosen, branches.window)
    expected = sum(gates[..., n, None] * np.asarray(part) for n, part in enumerate(parts))
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)
    assert all(np.abs(part[real]).max() > 0.1 for part in map(np.asarray, parts))
