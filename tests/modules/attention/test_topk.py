import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention import Heads
from rtdlm.modules.attention.sparse_kinds import TopK
from tests.modules.attention.windows import draw, packed
from tests.modules.reference import softmax

KIND = TopK(num_chosen=3, num_global=2, window=4)


def read(query, key, value, segments, kind=KIND):
    positions = jnp.broadcast_to(jnp.arange(segments.shape[1])[None], segments.shape)
    return kind.read(Heads(query, key, value), kind.packed(positions, segments))


def own_mask(query, key, segments):
    """[B, H, T, S] by sorting, query by query, in float64."""
    query, key, segments = (np.asarray(x, np.float64) for x in (query, key, segments))
    batch, length, heads, _ = query.shape
    mask = np.zeros((batch, heads, length, length), bool)
    for b, h, t in np.ndindex(mask.shape[:3]):
        start = max(s for s in range(t + 1) if s == 0 or segments[b, s] != segments[b, s - 1])
        scores = key[b, :, h // (heads // key.shape[2])] @ query[b, t, h]
        always = {s for s in range(start, t + 1) if s > t - 4 or s < start + 2}
        rest = sorted(set(range(start, t + 1)) - always, key=lambda s: -scores[s])
        mask[b, h, t, [*always, *rest[:3]]] = True
    return mask


@pytest.mark.parametrize("length", [37, 3])
def test_equals_dense_on_its_own_mask(length):
    query, key, value = draw(length=length)
    segments = packed(2, length)
    mask = own_mask(query, key, segments)
    assert length == 3 or (mask.sum(-1) == 9).any()

    def dense(query, key, value):
        key, value = (jnp.repeat(x, 2, axis=2) for x in (key, value))
        scores = jnp.einsum("bthe,bshe->bhts", query, key) * 8**-0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
        return jnp.einsum("bhts,bshe->bthe", weights, value)

    def results(function):
        @jax.jit  # of arguments: constants would be folded, by an interpreter
        def both(*given):
            found, pull_back = jax.vjp(function, *given)
            return found, pull_back(jnp.cos(found))

        return both(query, key, value)

    ours = results(lambda *x: read(*x, segments))
    expected = results(dense)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)


def test_bfloat16_is_near():
    """A key that changes places with one of almost its score changes little."""
    low = [x.astype(jnp.bfloat16) for x in draw(length=48)]
    segments = packed(2, 48)
    found = jax.jit(read)(*low, segments)
    expected = jax.jit(read)(*(x.astype(jnp.float32) for x in low), segments)
    assert found.dtype == jnp.bfloat16
    assert float(jnp.abs(found.astype(jnp.float32) - expected).mean()) < 0.01


def test_the_weights_of_one_query_are_those_of_its_keys():
    """Scores of 0 read the mean of the window, the first tokens and the first of the rest."""
    query, (_, key, value) = jnp.zeros((1, 12, 4, 8)), draw(batch=1, length=12)
    found = jax.jit(read)(query, key, value, jnp.ones((1, 12), jnp.int32))[0, 11, 0]
    chosen = [0, 1, 2, 3, 4, 8, 9, 10, 11]
    weights = softmax(np.zeros(len(chosen)))
    np.testing.assert_allclose(found, weights @ np.asarray(value)[0, chosen, 0], atol=1e-6)
