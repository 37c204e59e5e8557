import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention.delta import DeltaState, gated_delta, gated_delta_step
from tests.modules.attention.windows import draw, packed


def inputs(length, batch=2):
    query, key, value = draw(batch=batch, length=length, heads=3, kv_heads=3)
    key = key / jnp.linalg.norm(key, axis=-1, keepdims=True)
    place = jnp.arange(batch * length * 3.0).reshape(batch, length, 3)
    return query, key, value, -3.0 * jnp.square(jnp.sin(place)), jax.nn.sigmoid(jnp.cos(7 * place))


def loop(query, key, value, log_decay, write, segments):
    """Token by token, in float64, as the paper writes it."""
    query, key, value, log_decay, write = (
        np.asarray(x, np.float64) for x in (query, key, value, log_decay, write)
    )
    y = np.zeros(value.shape)
    for b, h in np.ndindex(query.shape[0], query.shape[2]):
        for t in range(query.shape[1]):
            if t == 0 or segments[b, t] != segments[b, t - 1]:
                state = np.zeros((value.shape[-1], key.shape[-1]))
            k, beta = key[b, t, h], write[b, t, h]
            erase = np.eye(len(k)) - beta * np.outer(k, k)
            state = np.exp(log_decay[b, t, h]) * state @ erase + beta * np.outer(value[b, t, h], k)
            y[b, t, h] = state @ query[b, t, h]
    return y


@pytest.mark.parametrize(("length", "chunk"), [(37, 8), (32, 8), (5, 64), (64, 64)])
def test_chunks_equal_the_loop(length, chunk):
    given, segments = inputs(length), packed(2, length)
    found, _ = jax.jit(lambda *x: gated_delta(*x, segments, chunk=chunk))(*given)
    np.testing.assert_allclose(found, loop(*given, np.asarray(segments)), atol=1e-5)


def test_steps_equal_the_loop_and_end_in_the_chunks_state():
    given, segments = inputs(21), jnp.ones((2, 21), jnp.int32)
    step, state, reads = jax.jit(gated_delta_step), DeltaState.empty(2, 3, 8, 8), []
    for t in range(21):
        read, state = step(*(x[:, t] for x in given), state)
        reads.append(read)
    np.testing.assert_allclose(jnp.stack(reads, 1), loop(*given, np.asarray(segments)), atol=1e-5)
    _, end = gated_delta(*given, segments, chunk=8)
    np.testing.assert_allclose(end.state_BHEF, state.state_BHEF, atol=1e-5)


def test_gradients_do_not_depend_on_the_chunk():
    given, segments = inputs(29), packed(2, 29)

    def gradients(chunk):
        def loss(*x):
            return jnp.sum(jnp.sin(gated_delta(*x, segments, chunk=chunk)[0]))

        return jax.jit(jax.grad(loss, (0, 1, 2, 3, 4)))(*given)

    for a, b in zip(gradients(4), gradients(29), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


def test_strong_decay_over_a_chunk_stays_finite():
    query, key, value, _, write = inputs(64)
    decay = jnp.full(write.shape, -20.0)
    segments = jnp.ones((2, 64), jnp.int32)

    def loss(decay):
        return jnp.sum(gated_delta(query, key, value, decay, write, segments)[0])

    assert jnp.isfinite(jax.grad(loss)(decay)).all()


def test_neither_the_future_nor_another_document_is_read():
    given = inputs(30, batch=1)
    segments = jnp.asarray([[1] * 11 + [2] * 19], jnp.int32)
    read = jax.jit(lambda *x: gated_delta(*x, segments, chunk=8)[0])
    before = read(*given)
    for t in (3, 20):
        changed = read(*(x.at[:, t].add(1.0) for x in given[:3]), *given[3:])
        own = slice(3, 11) if t == 3 else slice(20, 30)
        others = np.setdiff1d(np.arange(30), np.arange(30)[own])
        assert (changed[:, others] == before[:, others]).all()
        assert (changed[:, own] != before[:, own]).any()
