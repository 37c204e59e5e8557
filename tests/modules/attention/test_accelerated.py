import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from rtdlm.modules.attention import accelerated
from rtdlm.modules.attention.accelerated import attend_fused, fused_attention_serves
from rtdlm.modules.attention.dot_product import attend, attend_causally
from tests.modules.attention.windows import draw, window_mask


@pytest.fixture
def a_gpu(monkeypatch):
    """Traces as on a machine with an H100 and cuDNN 9.10, which this one need not be."""
    monkeypatch.setattr(accelerated, "_has_cudnn", lambda: True)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def half(length=64, width=64, dtype=jnp.bfloat16):
    return tuple(x.astype(dtype) for x in draw(length=length, width=width))


def test_lowers_to_cudnn_forward_and_backward(a_gpu):
    inputs, mask = half(), window_mask(jnp.ones((2, 64), jnp.int32), 64)

    def loss(query, key, value):
        read = attend_fused(query, key, value, mask, causal=True)
        return jnp.sum(read.astype(jnp.float32))

    traced = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).trace(*inputs)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaScaleBiasSoftmax(" in text
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward(" in text
    assert "dot_general" not in text


@pytest.mark.parametrize("read", [attend, attend_causally])
def test_attention_takes_it_where_it_serves(a_gpu, read):
    mask = window_mask(jnp.ones((2, 64), jnp.int32), 64)
    for inputs, products in ((half(), 0), (half(width=60), 2)):
        traced = jax.jit(read).trace(*inputs, mask)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert text.count("__cudnn$fmhaScaleBiasSoftmax(") == (products == 0)
        assert text.count("stablehlo.dot_general") == products


@pytest.mark.parametrize(
    ("inputs", "serves"),
    [
        (half(), True),
        (half(dtype=jnp.float16), True),
        (half(dtype=jnp.float32), False),
        (half(length=63), False),
        (half(width=60), False),
        (half(width=256), False),
    ],
)
def test_serves_what_cudnn_knows(a_gpu, inputs, serves):
    assert fused_attention_serves(*inputs[:2]) == serves


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is a GPU")
def test_without_a_gpu_it_does_not_serve():
    assert not fused_attention_serves(*half()[:2])
