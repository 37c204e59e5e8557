"""The gated delta rule against its formula, token by token, with gates a head and a channel."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import UserError
from rtdlm.modules.primitives import DeltaState, gated_delta, gated_delta_step

BATCH, LENGTH, HEADS, KEYS, VALUES = 2, 37, 2, 8, 6
SEGMENTS = jnp.asarray([[1] * 5 + [2] * 15 + [3] * 12 + [1] * 5, [4] * 37], jnp.int32)
"""In chunks of 16: documents that end within a chunk and with one, and a row of one document."""
GATES = list(itertools.product(("head", "channel"), repeat=3))
EXTREMES = [("head",) * 3, ("channel",) * 3]
ORDER = ("query", "key", "value", "log_decay", "write", "erase")


def draw(gates, *, length=LENGTH, seed=0):
    """Inputs whose decays range from none to e^-20 a token."""
    rng = np.random.default_rng(seed)
    shape = (BATCH, length, HEADS)
    width = {"log_decay": KEYS, "erase": KEYS, "write": VALUES}
    given = {
        name: rng.normal(size=(*shape, size))
        for name, size in {"query": KEYS, "key": KEYS, "value": VALUES, **width}.items()
    }
    given["key"] /= np.linalg.norm(given["key"], axis=-1, keepdims=True)
    for name, kind in zip(("log_decay", "erase", "write"), gates, strict=True):
        given[name] = given[name] if kind == "channel" else given[name][..., 0]
    weak, strong = np.exp(given["log_decay"] - 2), rng.random(given["log_decay"].shape) < 0.05
    given["log_decay"] = -np.where(strong, 20.0, weak)
    for name in ("erase", "write"):
        given[name] = 1 / (1 + np.exp(-given[name]))
    return {name: jnp.asarray(given[name], jnp.float32) for name in ORDER}


def start():
    state = np.random.default_rng(7).normal(size=(BATCH, HEADS, KEYS, VALUES))
    return DeltaState(jnp.asarray(state, jnp.float32))


def loop(given, segments, state=None):
    """Reads and the last state, in float64, as the formula stands."""
    given = {name: np.asarray(x, np.float64) for name, x in given.items()}
    segments = np.asarray(segments)
    reads = np.zeros(given["value"].shape)
    begin = DeltaState.empty(BATCH, HEADS, KEYS, VALUES) if state is None else state
    states = np.array(begin.state_BHEF, np.float64)
    for b, h, t in np.ndindex(BATCH, HEADS, reads.shape[1]):
        query, key, value, log_decay, write, erase = (given[name][b, t, h] for name in ORDER)
        if t > 0 and segments[b, t] != segments[b, t - 1]:
            states[b, h] = 0
        decay = np.diag(np.broadcast_to(np.exp(log_decay), KEYS))
        states[b, h] = (np.eye(KEYS) - np.outer(key, erase * key)) @ decay @ states[b, h]
        states[b, h] += np.outer(key, write * value)
        reads[b, t, h] = states[b, h].T @ query
    return reads, states


def chunked(given, segments, state=None, *, chunk=16, counts_BT=None):
    """Reads and the last state."""
    read, end = gated_delta(
        *(given[name] for name in ORDER[:5]),
        segments,
        erase=given["erase"],
        chunk=chunk,
        state=state,
        counts_BT=counts_BT,
    )
    return read, end.state_BHEF


def recurrent(given, segments, state):
    """The same by steps."""

    def step(state_BHEF, token):
        given, fresh_B = token
        state = DeltaState(jnp.where(fresh_B[:, None, None, None], 0.0, state_BHEF))
        read, after = gated_delta_step(
            *(given[name] for name in ORDER[:5]), state, erase=given["erase"]
        )
        return after.state_BHEF, read

    by_time = {name: jnp.swapaxes(x, 0, 1) for name, x in given.items()}
    fresh_BT = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    end, reads = jax.lax.scan(step, state.state_BHEF, (by_time, fresh_BT.T))
    return jnp.swapaxes(reads, 0, 1), end


def with_gradients(read):
    """What `read` returns, and gradients of an uneven sum of it for inputs and the first state."""

    def loss(given, state):
        reads, end = read(given, SEGMENTS, state)
        return jnp.sum(jnp.sin(reads)) + jnp.sum(jnp.cos(end)), (reads, end)

    def both(given, state):
        (_, found), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(given, state)
        return found, gradients

    return jax.jit(both)


# Made once, so that tests share what is compiled.
READ, STEPS = jax.jit(chunked), jax.jit(recurrent)
READ_BACK, STEPS_BACK = with_gradients(chunked), with_gradients(recurrent)


@pytest.mark.parametrize("gates", GATES, ids="-".join)
def test_chunks_and_steps_equal_the_formula(gates):
    given = draw(gates)
    expected = loop(given, SEGMENTS, start())
    for found in (READ(given, SEGMENTS, start()), STEPS(given, SEGMENTS, start())):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "gates", [*EXTREMES, ("channel", "head", "head"), ("head", "channel", "head")], ids="-".join
)
def test_chunks_and_steps_have_the_same_gradients(gates):
    (_, by_chunk), (_, by_step) = (back(draw(gates), start()) for back in (READ_BACK, STEPS_BACK))
    for a, b in zip(*map(jax.tree.leaves, (by_chunk, by_step)), strict=True):
        assert jnp.any(b != 0)
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 64])
@pytest.mark.parametrize("gates", EXTREMES, ids="-".join)
def test_the_chunk_is_a_matter_of_speed_alone(gates, chunk):
    """The smallest, and more than there are tokens, which are no power of two; nothing before."""
    given = draw(gates)
    found = jax.jit(lambda given: chunked(given, SEGMENTS, chunk=chunk))(given)
    for a, b in zip(found, loop(given, SEGMENTS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("gates", EXTREMES, ids="-".join)
def test_a_split_stream_equals_the_whole(gates):
    """Cut within a document of either row."""
    given, segments = draw(gates, length=2 * LENGTH), jnp.concatenate([SEGMENTS, SEGMENTS], 1)
    first, state = READ({n: x[:, :LENGTH] for n, x in given.items()}, SEGMENTS, start())
    rest = {name: x[:, LENGTH:] for name, x in given.items()}
    second, end = READ(rest, SEGMENTS, DeltaState(state))
    found = jnp.concatenate([first, second], 1), end
    for a, b in zip(found, loop(given, segments, start()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_one_gate_erases_as_much_as_it_writes():
    given = draw(("head",) * 3)
    given["erase"] = given["write"]
    inputs = [given[name] for name in ORDER[:5]]
    found = jax.jit(lambda *x: gated_delta(*x, SEGMENTS, chunk=16, state=start()))(*inputs)
    step, _ = gated_delta_step(*(x[:, 0] for x in inputs), start())
    expected, end = loop(given, SEGMENTS, start())
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_allclose(found[1].state_BHEF, end, atol=1e-5)
    np.testing.assert_allclose(step, expected[:, 0], atol=1e-5)


def test_channels_that_agree_are_one_number_a_head():
    given = draw(("head",) * 3)
    widths = {"log_decay": KEYS, "erase": KEYS, "write": VALUES}
    tied = {
        name: jnp.broadcast_to(given[name][..., None], (*given[name].shape, width))
        for name, width in widths.items()
    }
    by_head, by_channel = (READ(x, SEGMENTS, start()) for x in (given, {**given, **tied}))
    for a, b in zip(by_head, by_channel, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("gates", EXTREMES, ids="-".join)
@pytest.mark.parametrize("strong", [(0, 37), (0, 5), (5, 20)], ids=str)
def test_strong_decay_stays_finite_and_true(gates, strong):
    """The exponential of a difference of the other sign would overflow, and its gradient be NaN.

    A decay a head is a difference of sums up to 320, which are rounded to 320 / 2^24 each.
    """
    given, place = draw(gates), np.arange(LENGTH)
    log_decay = np.full(given["log_decay"].shape, -1e-3, np.float32)
    log_decay[:, (place >= strong[0]) & (place < strong[1])] = -20
    given["log_decay"] = jnp.asarray(log_decay)
    found, gradients = READ_BACK(given, start())
    for a, b in zip(found, loop(given, SEGMENTS, start()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize("gates", EXTREMES, ids="-".join)
def test_neither_the_future_nor_another_document_is_read(gates):
    given = draw(gates)
    before, _ = READ(given, SEGMENTS, start())
    for t, end in ((3, 5), (9, 20), (33, 37)):
        halved = {name: x.at[0, t].multiply(0.5) for name, x in given.items()}
        changed, _ = READ(halved, SEGMENTS, start())
        others = np.setdiff1d(np.arange(LENGTH), np.arange(t, end))
        assert (changed[0, others] == before[0, others]).all()
        assert (changed[0, t:end] != before[0, t:end]).any(axis=(1, 2)).all()
        assert (changed[1] == before[1]).all()


@pytest.mark.parametrize("gates", EXTREMES, ids="-".join)
def test_tokens_that_do_not_count_leave_no_trace(gates):
    given, one_row = draw(gates), jnp.ones((BATCH, LENGTH), jnp.int32)
    counts = jnp.arange(LENGTH)[None] < jnp.asarray([[0], [21]])
    read = jax.jit(lambda given: chunked(given, one_row, start(), counts_BT=counts))
    reads, end = read(given)
    assert (end[0] == start().state_BHEF[0]).all()
    own, last = loop({n: x[:, :21] for n, x in given.items()}, one_row[:, :21], start())
    np.testing.assert_allclose(reads[1, :21], own[1], atol=1e-5)
    np.testing.assert_allclose(end[1], last[1], atol=1e-5)
    other = draw(gates, seed=1)
    padding = {
        name: jnp.where(counts.reshape(BATCH, -1, *(1,) * (x.ndim - 2)), x, other[name])
        for name, x in given.items()
    }
    again, end_again = read(padding)
    assert (end_again == end).all() and (again[1, :21] == reads[1, :21]).all()


@pytest.mark.parametrize("gates", EXTREMES, ids="-".join)
def test_a_step_that_does_not_count_reads_and_leaves_no_trace(gates):
    given = {name: x[:, 0] for name, x in draw(gates).items()}

    def step(*counts):
        inputs = (given[name] for name in ORDER[:5])
        counts_B = jnp.asarray(counts) if counts else None
        return gated_delta_step(*inputs, start(), erase=given["erase"], counts_B=counts_B)

    (all_read, full), (read, after) = step(), step(False, True)
    assert (after.state_BHEF[0] == start().state_BHEF[0]).all()
    assert (full.state_BHEF[0] != start().state_BHEF[0]).any()
    assert (after.state_BHEF[1] == full.state_BHEF[1]).all() and (read == all_read).all()


@pytest.mark.parametrize("gates", EXTREMES, ids="-".join)
def test_bfloat16_is_rounded_on_the_way_in_and_out_alone(gates):
    """Half a unit in the last place of a read, and nothing of the state."""
    given = {name: x.astype(jnp.bfloat16) for name, x in draw(gates).items()}
    reads, end = READ(given, SEGMENTS, start())
    assert (reads.dtype, end.dtype) == (jnp.bfloat16, jnp.float32)
    expected, last = loop(given, SEGMENTS, start())
    np.testing.assert_allclose(reads.astype(jnp.float32), expected, rtol=2**-8, atol=1e-5)
    np.testing.assert_allclose(end, last, atol=1e-5)


def test_gates_of_another_shape_are_refused():
    given = draw(("channel",) * 3)
    inputs = [given[name] for name in ORDER[:5]]
    with pytest.raises(UserError, match=r"write has shape \(2, 37, 2, 6\).*pass erase"):
        gated_delta(*inputs, SEGMENTS)
    with pytest.raises(UserError, match=r"erase has .*expected \(2, 37, 2\).*\(2, 37, 2, 8\)"):
        gated_delta(*inputs, SEGMENTS, erase=given["write"])
