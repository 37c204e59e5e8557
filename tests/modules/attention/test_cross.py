import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.attention.cross import CrossAttention, document_mask, memory_mask
from tests.modules.reference import softmax


def test_masks_are_these_tables():
    assert memory_mask(jnp.asarray([2, 0]), queries=2, slots=3).astype(int).tolist() == [
        [[1, 1, 0], [1, 1, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]
    found = document_mask(jnp.asarray([[1, 2, 2, 0]]), jnp.asarray([[2, 1, 2, 0]]))
    assert found.astype(int).tolist() == [[[0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]]


def test_equals_the_loop_and_reads_nothing_where_nothing_may_be_read():
    rng = np.random.default_rng(0)
    x, memory = rng.normal(size=(2, 5, 12)), rng.normal(size=(2, 7, 10))
    mask = rng.random((2, 5, 7)) < 0.5
    mask[1, 2] = False

    def forward(x_BTD, memory_BSM, mask_BTS):
        module = CrossAttention(num_heads=4, num_kv_heads=2, head_dim=3, out_scale=1.0)
        return module(x_BTD, memory_BSM, mask_BTS=mask_BTS)

    transformed = hk.without_apply_rng(hk.transform(forward))
    given = (jnp.asarray(x, jnp.float32), jnp.asarray(memory, jnp.float32), jnp.asarray(mask))
    params = jax.jit(transformed.init)(jax.random.key(0), *given)
    w = {path.split("/")[1]: np.asarray(leaf["w"], np.float64) for path, leaf in params.items()}
    expected = np.zeros(x.shape)
    for b, t, h in np.ndindex(2, 5, 4):
        read = np.flatnonzero(mask[b, t])
        if len(read):
            query = x[b, t] @ w["query"][:, h]
            keys, values = (memory[b, read] @ w[name][:, h // 2] for name in ("key", "value"))
            expected[b, t] += softmax(keys @ query / 3**0.5) @ values @ w["output"][h]
    found = jax.jit(transformed.apply)(params, *given)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.asarray(found[1, 2]).any()

    def loss(memory_BSM):
        return jnp.sum(jnp.sin(transformed.apply(params, given[0], memory_BSM, given[2])))

    slope = np.asarray(jax.jit(jax.grad(loss))(given[1]))
    unread = ~mask.any(1)
    assert np.isfinite(slope).all() and not slope[unread].any() and slope[~unread].any()
