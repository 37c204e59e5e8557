import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention.linear import EPSILON, LinearState, linear_attention, linear_step
from tests.modules.attention.windows import draw, packed


def phi(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def loop(query, key, value, segments):
    """Token by token, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    group = query.shape[2] // key.shape[2]
    y = np.zeros((*query.shape[:3], value.shape[-1]))
    for b in range(query.shape[0]):
        for t in range(query.shape[1]):
            if t == 0 or segments[b, t] != segments[b, t - 1]:
                state = np.zeros((*key.shape[2:], value.shape[-1]))
                total = np.zeros(key.shape[2:])
            state += phi(key[b, t])[:, :, None] * value[b, t][:, None, :]
            total += phi(key[b, t])
            for h in range(query.shape[2]):
                q, k = phi(query[b, t, h]), h // group
                y[b, t, h] = q @ state[k] / (q @ total[k] + EPSILON)
    return y


@pytest.mark.parametrize(("length", "chunk"), [(37, 8), (32, 8), (5, 64), (64, 64), (1, 1)])
def test_chunks_equal_the_loop(length, chunk):
    inputs, segments = draw(length=length), packed(2, length)
    found, _ = jax.jit(lambda *x: linear_attention(*x, segments, chunk=chunk))(*inputs)
    np.testing.assert_allclose(found, loop(*inputs, np.asarray(segments)), atol=1e-5)


def test_steps_equal_the_loop_and_end_in_the_chunks_state():
    inputs = draw(length=21)
    segments = jnp.ones((2, 21), jnp.int32)
    step = jax.jit(linear_step)
    state, reads = LinearState.empty(2, 2, 8, 8), []
    for t in range(21):
        read, state = step(*(x[:, t] for x in inputs), state)
        reads.append(read)
    np.testing.assert_allclose(jnp.stack(reads, 1), loop(*inputs, np.asarray(segments)), atol=1e-5)
    _, end = linear_attention(*inputs, segments, chunk=8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), end, state)


def test_gradients_do_not_depend_on_the_chunk():
    inputs, segments = draw(length=29), packed(2, 29)

    def gradients(chunk):
        def loss(*x):
            return jnp.sum(jnp.sin(linear_attention(*x, segments, chunk=chunk)[0]))

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*inputs)

    for a, b in zip(gradients(4), gradients(29), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_later_token_leaves_the_past_bitwise_unchanged():
    inputs, segments = draw(length=30), jnp.ones((2, 30), jnp.int32)
    read = jax.jit(lambda *x: linear_attention(*x, segments, chunk=8)[0])
    before = read(*inputs)
    for t in (7, 8, 20):
        changed = read(*(x.at[:, t].add(1.0) for x in inputs))
        assert (changed[:, :t] == before[:, :t]).all()
        assert (changed[:, t:] != before[:, t:]).any(axis=(0, 2, 3)).all()


def test_another_document_changes_nothing_bitwise():
    inputs = draw(batch=1, length=30)
    segments = jnp.asarray([[1] * 11 + [2] * 19], jnp.int32)
    read = jax.jit(lambda *x: linear_attention(*x, segments, chunk=8)[0])
    changed = read(*(x.at[:, 3].set(1e4) for x in inputs))
    assert (changed[:, 11:] == read(*inputs)[:, 11:]).all()
