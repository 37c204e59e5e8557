"""A weight and the einsum that applies it: the only linear layer.

The equation names both sides' axes, so that sharding and shape errors read like the maths:

    Projection("BTD,DHE->BTHE", shape=(D, H, E), name="query")(x_BTD)
"""

import haiku as hk
import jax
import jax.numpy as jnp


def contract(equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """einsum(equation, x, w), written so that XLA transposes no operand.

    The leading axes that only `x` has become one: a CPU multiplies flat matrices as they lie, but
    transposes for a gradient over several axes. And `jnp.einsum` contracts axes in the order of
    their letters, so the weight's axes are lettered in the order in which they lie.
    """
    inputs, weight, result = equation.replace("->", ",").split(",")
    lead = 0
    while inputs[lead : lead + 1] == result[lead : lead + 1] and inputs[lead] not in weight:
        lead += 1
    letters = str.maketrans({axis: "abcdefgh"[place] for place, axis in enumerate(weight)})
    if lead < 2:
        return jnp.einsum(equation.translate(letters), x, w)
    merged = f"{inputs[0]}{inputs[lead:]},{weight}->{result[0]}{result[lead:]}"
    y = jnp.einsum(merged.translate(letters), x.reshape(-1, *x.shape[lead:]), w)
    return y.reshape(*x.shape[:lead], *y.shape[1:])


class Projection(hk.Module):
    """y = einsum(equation, x, w), without a bias."""

    def __init__(
        self, equation: str, *, shape: tuple[int, ...], scale: float = 1.0, name: str
    ) -> None:
        """
        Args:
            equation: einsum of input and weight, such as "BTD,DF->BTF".
            shape: the weight's shape.
            scale: multiplies the initial standard deviation, 1 / sqrt(fan in).
            name: module name, part of the parameter's path.
        """
        super().__init__(name=name)
        self.equation = equation
        self.shape = shape
        self.scale = scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """Contracts the axes that input and weight share."""
        w = hk.get_parameter("w", self.shape, jnp.float32, self._initializer())
        return contract(self.equation, x, w.astype(x.dtype))

    def _initializer(self) -> hk.initializers.TruncatedNormal:
        inputs, weight = self.equation.split("->")[0].split(",")
        result = self.equation.split("->")[1]
        summed = [axis for axis in weight if axis in inputs and axis not in result]
        fan_in = 1
        for axis in summed:
            fan_in *= self.shape[weight.index(axis)]
        # 0.8796 is the standard deviation of a normal cut at two of its own.
        return hk.initializers.TruncatedNormal(stddev=self.scale / (fan_in**0.5 * 0.87962566))
