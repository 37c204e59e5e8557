import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention.compressed import attend_compressed, chunk_mask, summary_mask
from tests.modules.attention.test_sparse import complete_blocks
from tests.modules.attention.windows import draw, packed

CHUNK, SUMMARIES = 4, 2


def probes(width=8):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(SUMMARIES, 2, width)), jnp.float32)


def test_masks_are_these_tables():
    """Documents of five, two and three tokens in chunks of two; the row's ends are complete."""
    segments = jnp.asarray([[1, 1, 1, 1, 1, 2, 2, 3, 3, 3]], jnp.int32)
    assert chunk_mask(segments, chunk=2)[0].astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ]
    # Chunks are tokens 0 1, 2 3, 5 6 and 7 8; the fifth does not exist.
    assert summary_mask(segments, chunk=2)[0].astype(int).tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0],
    ]


def dense(query, key, value, probe, segments, own, sums):
    """All tokens and all summaries as keys of one table of scores, a chunk at a time."""
    batch, length, heads, width = query.shape
    rows = []
    for b in range(batch):
        keys, values = [key[b]], [value[b]]
        for tokens in complete_blocks(segments[b].tolist(), CHUNK):
            part_k, part_v = key[b, np.array(tokens)], value[b, np.array(tokens)]
            scores = jnp.einsum("nke,cke->nkc", probe, part_k) * width**-0.5
            pool = jax.nn.softmax(scores, axis=-1)
            keys.append(jnp.einsum("nkc,cke->nke", pool, part_k))
            values.append(jnp.einsum("nkc,cke->nke", pool, part_v))
        every_k, every_v = jnp.concatenate(keys), jnp.concatenate(values)
        spare = jnp.repeat(sums[b], SUMMARIES, axis=1)[:, : len(every_k) - length]
        mask = jnp.concatenate([own[b], spare], axis=1)
        scores = jnp.einsum("tkge,ske->kgts", query[b].reshape(length, 2, -1, width), every_k)
        weights = jax.nn.softmax(jnp.where(mask[None, None], scores * width**-0.5, -1e30), axis=-1)
        rows.append(jnp.einsum("kgts,ske->tkge", weights, every_v).reshape(length, heads, width))
    return jnp.stack(rows)


@pytest.mark.parametrize("length", [37, 16, 3])
def test_equals_one_dense_table_with_its_gradients(length):
    inputs, probe = draw(length=length), probes()
    segments = np.ones((2, length), np.int32)
    segments[1, length // 3 :] = 2
    masks = (
        chunk_mask(jnp.asarray(segments), chunk=CHUNK),
        summary_mask(jnp.asarray(segments), chunk=CHUNK),
    )

    def results(function):
        read, back = jax.vjp(function, *inputs, probe)
        return read, back(jnp.cos(read))

    expected = jax.jit(lambda: results(lambda *x: dense(*x, segments, *masks)))()
    found = jax.jit(
        lambda: results(
            lambda q, k, v, p: attend_compressed(q, k, v, jnp.asarray(segments), p, chunk=CHUNK)
        )
    )()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    assert bool(jnp.any(found[1][3])) == (length > CHUNK)


def test_a_later_token_leaves_the_past_bitwise_unchanged_and_an_early_one_is_still_seen():
    inputs, segments = draw(length=37), jnp.ones((2, 37), jnp.int32)
    read = jax.jit(lambda *x: attend_compressed(*x, segments, probes(), chunk=CHUNK))
    before = read(*inputs)
    for t in (3, 4, 21):
        changed = read(*(x.at[:, t].add(1.0) for x in inputs))
        assert (changed[:, :t] == before[:, :t]).all()
        assert (changed[:, t] != before[:, t]).any()
        assert (changed[:, -1] != before[:, -1]).any(), "summaries reach the end of the row"


def test_packed_documents_read_as_if_alone():
    inputs, segments = draw(length=40), packed(2, 40)
    read = jax.jit(lambda *x: attend_compressed(*x, probes(), chunk=CHUNK))
    together = read(*inputs, segments)
    for row in range(2):
        own = np.asarray(segments[row])
        number = np.bincount(own).argmax()
        where = np.flatnonzero(own == number)
        filled = [
            jnp.zeros((1, 40, *x.shape[2:])).at[:, : len(where)].set(x[row, where]) for x in inputs
        ]
        alone = read(*filled, jnp.ones((1, 40), jnp.int32))
        np.testing.assert_allclose(together[row, where], alone[0, : len(where)], atol=1e-5)
