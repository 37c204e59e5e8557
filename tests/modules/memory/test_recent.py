"""Memory's convolutions over several calls are those of the whole row, document by document."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.memory import Tokens
from rtdlm.modules.memory.recent import MemoryHeads, Recent, convolved

ROWS, TIME, HEADS, FEATURES, WIDTH = 3, 12, 2, 4, 4


def tokens(label_BT: np.ndarray) -> Tokens:
    label = jnp.asarray(label_BT, jnp.int32)
    return Tokens(label, label > 0, jnp.zeros_like(label), jnp.zeros_like(label))


def empty() -> Recent:
    return Recent.empty(ROWS, WIDTH - 1, HEADS, FEATURES, dtype=jnp.float32)


def drawn() -> MemoryHeads:
    x = np.random.default_rng(0).normal(size=(3, ROWS, TIME, HEADS, FEATURES))
    return MemoryHeads(*jnp.asarray(x, jnp.float32))


def loop(x_BTHE: np.ndarray, kernel_WHE: np.ndarray, label_BT: np.ndarray) -> np.ndarray:
    """y_t = x_t + sum_j k_j x_{t-j} of the same document."""
    y = x_BTHE.copy()
    for b, t, back in np.ndindex(ROWS, TIME, WIDTH):
        if t >= back and label_BT[b, t] == label_BT[b, t - back]:
            y[b, t] += kernel_WHE[back] * x_BTHE[b, t - back]
    return y


@pytest.mark.parametrize("cuts", [(), (4, 8), (1, 2, 9), tuple(range(1, TIME))], ids=str)
def test_calls_one_after_another_are_the_whole_row(cuts: tuple[int, ...]) -> None:
    # Documents that end within a call and at its end, and one that goes on throughout.
    label_BT = np.array([[1] * 12, [1] * 4 + [2] * 3 + [3] * 5, [1] * 7 + [2] * 5])
    x = drawn()
    function = hk.transform(lambda x, recent, label: convolved(x, recent, tokens(label)))
    shapes = jax.eval_shape(function.init, jax.random.key(0), x, empty(), label_BT)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    recent, pieces = empty(), []
    for start, end in zip((0, *cuts), (*cuts, TIME), strict=True):
        own = MemoryHeads(*(every[:, start:end] for every in x))
        found, recent = function.apply(params, None, own, recent, label_BT[:, start:end])
        pieces.append(found)
    for at, name in enumerate(("queries", "keys", "values")):
        kernel = params[f"memory_{name}_conv"]["kernel"]
        joined = np.concatenate([piece[at] for piece in pieces], axis=1)
        expected = loop(np.asarray(x[at]), kernel, label_BT)
        np.testing.assert_allclose(joined, expected, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(recent.heads[at], x[at][:, -3:])
    np.testing.assert_array_equal(recent.label_BJ, label_BT[:, -3:])


def test_what_does_not_count_leaves_no_trace() -> None:
    """Each row goes on behind its own last token, whatever stands behind that."""
    label_BT = np.zeros((ROWS, TIME), np.int32)
    counts = (0, 2, 7)
    for row, count in enumerate(counts):
        label_BT[row, :count] = 1
    # Wherever it stands: the tokens of the last row begin late.
    label_BT[2, :2] = 0
    ones = jnp.ones_like(empty().heads.key)
    before = Recent(MemoryHeads(ones, ones, ones), jnp.ones((ROWS, 3), jnp.int32))
    x = drawn()
    function = hk.transform(lambda x: convolved(x, before, tokens(label_BT)))
    _, recent = function.apply(function.init(jax.random.key(0), x), None, x)
    for row, count in enumerate(counts):
        every = np.concatenate([ones[row], x.key[row, :count]])
        np.testing.assert_array_equal(recent.heads.key[row], every[-3:])
    assert (np.asarray(recent.label_BJ) == 1).all()
