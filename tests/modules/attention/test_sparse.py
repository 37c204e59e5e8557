import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.attention.blocks import find_blocks
from rtdlm.modules.attention.sparse import sparse_branches
from tests.modules.attention.windows import draw, packed
from tests.modules.reference import softmax

SIZES = {"block": 4, "num_chosen": 2, "window": 6}


def attend_sparse(query, key, value, segments, gates, **sizes):
    return sparse_branches(query, key, value, segments, **sizes).gated(gates)


def complete_blocks(segments, block):
    """Lists of tokens, document by document."""
    found, run = [], []
    for t, segment in enumerate(segments):
        if run and segment != segments[run[-1]]:
            run = []
        run.append(t)
        if len(run) == block:
            found.append(run)
            run = []
    return found


def test_blocks_are_counted_from_each_document_s_start():
    segments = jnp.asarray([[1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 0]], jnp.int32)
    blocks = find_blocks(segments, 2)
    assert blocks.start_BM.tolist() == [[0, 2, 5, 7, 9, 12]]
    assert blocks.document_BM.tolist() == [[0, 0, 1, 1, 2, -1]]
    assert blocks.token_BX.tolist() == [[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 12]]
    assert blocks.place_BT.tolist() == [[0, 1, 2, 3, 12, 4, 5, 6, 7, 8, 9, 12]]


def loop(query, key, value, segments, gates, *, block, num_chosen, window):
    """Query by query, in float64."""
    query, key, value, gates = (np.asarray(x, np.float64) for x in (query, key, value, gates))
    batch, length, heads, width = query.shape
    group = heads // key.shape[2]
    y = np.zeros(query.shape)
    for b, t in np.ndindex(batch, length):
        own = segments[b]
        blocks = [x for x in complete_blocks(own, block) if same_run(own, x[0], t) and x[-1] <= t]
        near = [s for s in range(max(0, t - window + 1), t + 1) if same_run(own, s, t)]
        for kv in range(key.shape[2]):
            means = np.array([key[b, x, kv].mean(0) for x in blocks])
            members = range(kv * group, (kv + 1) * group)
            weights = {
                h: softmax(means @ query[b, t, h] / np.sqrt(width)) if blocks else []
                for h in members
            }
            scores = [sum(weights[h][m] for h in members) for m in range(len(blocks))]
            far = [m for m, x in enumerate(blocks) if x[0] <= t - window]
            far = sorted(far, key=lambda m: -scores[m])[:num_chosen]
            tokens = [s for m in far for s in blocks[m]]
            for h in members:
                for m, x in enumerate(blocks):
                    y[b, t, h] += gates[b, t, h, 0] * weights[h][m] * value[b, x, kv].mean(0)
                for gate, read in ((1, tokens), (2, near)):
                    if read:
                        p = softmax(key[b, read, kv] @ query[b, t, h] / np.sqrt(width))
                        y[b, t, h] += gates[b, t, h, gate] * (p @ value[b, read, kv])
    return y


def same_run(segments, s, t):
    return s <= t and len(set(segments[s : t + 1])) == 1


@pytest.mark.parametrize("length", [48, 37, 5, 3])
def test_equals_the_loop(length):
    inputs, segments = draw(length=length), packed(1, length)
    inputs = tuple(x[:1] for x in inputs)
    gates = jax.nn.sigmoid(jnp.sin(jnp.arange(length * 12.0))).reshape(1, length, 4, 3)
    found = jax.jit(lambda *x: attend_sparse(*x, segments, gates, **SIZES))(*inputs)
    expected = loop(*inputs, np.asarray(segments), gates, **SIZES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_equal_those_of_masked_dense_on_its_own_mask():
    query, key, value = draw(batch=1, length=40)
    segments = jnp.asarray([[1] * 12 + [2] * 28], jnp.int32)
    branches = jax.jit(lambda *x: sparse_branches(*x, segments, **SIZES))
    blocks = branches(query, key, value).blocks_RTk
    where = jax.jit(find_blocks, static_argnums=1)(segments, 4)
    chosen = jnp.any(jax.nn.one_hot(blocks, 10, dtype=jnp.float32) > 0, axis=2)  # K, T, M
    member = jnp.arange(40)[:, None] // 4 == jnp.arange(10)[None]  # place, M
    mask_KTX = jnp.einsum("ktm,xm->ktx", chosen.astype(jnp.float32), member.astype(jnp.float32)) > 0
    assert mask_KTX.any(-1).sum() > 40

    def dense(query, key, value):
        key, value = (
            jnp.take(x, where.token_BX[0], axis=1, mode="fill", fill_value=0) for x in (key, value)
        )
        scores = jnp.einsum("btkge,bske->kgts", query.reshape(1, 40, 2, 2, 8), key) * 8**-0.5
        weights = jax.nn.softmax(jnp.where(mask_KTX[:, None], scores, -1e30), axis=-1)
        weights = weights * mask_KTX[:, None].astype(jnp.float32)
        return jnp.einsum("kgts,bske->btkge", weights, value).reshape(query.shape)

    def results(function):
        @jax.jit  # of arguments: constants would be folded, by an interpreter
        def both(*given):
            read, pullback = jax.vjp(function, *given)
            return read, pullback(jnp.cos(read))

        return both(query, key, value)

    ours = results(lambda *x: sparse_branches(*x, segments, **SIZES).chosen)
    expected = results(dense)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)


def test_a_later_token_leaves_the_past_bitwise_unchanged():
    inputs = draw(length=40)
    segments, gates = jnp.ones((2, 40), jnp.int32), jnp.ones((2, 40, 4, 3))
    read = jax.jit(lambda *x: attend_sparse(*x, segments, gates, **SIZES))
    before = read(*inputs)
    for t in (7, 8, 21):
        changed = read(*(x.at[:, t].add(1.0) for x in inputs))
        assert (changed[:, :t] == before[:, :t]).all()
        assert (changed[:, t] != before[:, t]).any()


def test_packed_documents_read_as_if_alone():
    inputs = draw(batch=1, length=40)
    segments, gates = jnp.asarray([[1] * 15 + [2] * 25], jnp.int32), jnp.ones((1, 40, 4, 3))
    read = jax.jit(lambda *x: attend_sparse(*x, **SIZES))
    together = read(*inputs, segments, gates)
    for part in (slice(0, 15), slice(15, 40)):
        pieces = (x[:, part] for x in (*inputs, segments, gates))
        alone = read(*pieces)
        np.testing.assert_allclose(together[:, part], alone, atol=1e-6)


def test_keys_of_blocks_that_are_not_chosen_are_trained_through_their_means():
    query, key, value = draw(batch=1, length=40)
    segments = jnp.ones((1, 40), jnp.int32)

    def loss(key):
        branches = sparse_branches(query, key, value, segments, **SIZES)
        return jnp.sum(jnp.sin(branches.means[:, -1]))

    assert (jnp.abs(jax.jit(jax.grad(loss))(key)).sum((0, 2, 3)) > 0).all()


def test_bfloat16_is_near_where_the_same_blocks_are_chosen():
    """Scores are rounded, so that near-equal blocks may change places; what is read is near."""
    segments, gates = packed(2, 48), jnp.ones((2, 48, 4, 3))
    low = [x.astype(jnp.bfloat16) for x in draw(length=48)]
    read = jax.jit(lambda *x: sparse_branches(*x, segments, **SIZES))
    found, expected = read(*low), read(*(x.astype(jnp.float32) for x in low))
    assert found.chosen.dtype == jnp.bfloat16
    same = (jnp.sort(found.blocks_RTk) == jnp.sort(expected.blocks_RTk)).all(-1)
    assert same.mean() > 0.95
    same_BT = same.reshape(2, 2, 48).all(1)
    apart = jnp.abs(found.gated(gates).astype(jnp.float32) - expected.gated(gates)).max((2, 3))
    assert float(apart[same_BT].max()) < 0.05


def test_the_choice_is_trained_through_the_means():
    """One block has what the last token needs and is marked by a feature that nobody asks for yet.

    Only the means' gradient can teach queries to ask for it: nothing that is read at first has it.
    """
    rng = np.random.default_rng(0)
    rows, length, width, marked = 8, 40, 8, 2
    x = rng.normal(size=(rows, length, 1, width)).astype(np.float32)
    x[..., 0], x[..., 1] = 0.0, 1.0  # the mark, which is also the value, and a constant
    x[:, 4 * marked : 4 * marked + 4, :, 0] = 2.0
    segments, sizes = jnp.ones((rows, length), jnp.int32), SIZES | {"num_chosen": 1}
    weights = {
        name: jnp.asarray(0.2 * rng.normal(size=(width, width)), jnp.float32) for name in "qk"
    }

    def loss(weights):
        query, key = (jnp.einsum("bthe,ef->bthf", x, weights[name]) for name in "qk")
        branches = sparse_branches(query, key, jnp.asarray(x), segments, **sizes)
        read = branches.means[:, -1, 0, 0] + branches.chosen[:, -1, 0, 0]
        return jnp.mean(jnp.square(read - 4.0)), branches.blocks_RTk[:, -1, 0]

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, before), gradients = differentiate(weights)
    assert all(jnp.abs(gradient).max() > 1e-3 for gradient in gradients.values())
    for _ in range(100):
        (_, after), gradients = differentiate(weights)
        weights = jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradients)
    assert (before == marked).astype(int).sum() < 4
    assert (after == marked).all()
