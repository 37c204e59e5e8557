"""A weight and the einsum that applies it: the only linear layer.

The equation names both sides' axes, so that sharding and shape errors read like the maths:

    Projection("BTD,DHE->BTHE", shape=(D, H, E), name="query")(x_BTD)
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.primitives.product import product
from rtdlm.parallel import axis_size, split_of


def contract(equation: str, x: jax.Array, w: jax.Array, *, split: int | None = None) -> jax.Array:
    """einsum(equation, x, w) in x's format; see `product`, which it lays the axes out for.

    Axes of `x` that the result keeps become rows and axes that it sums become columns, so that
    gradients too are products of flat matrices. Axes of both that the result keeps are a batch.
    `split` is the dimension of `w` along which its gradient is scattered, if any; see `split_of`.
    """
    inputs, weight, result = equation.replace("->", ",").split(",")
    batch = [axis for axis in weight if axis in inputs and axis in result]
    summed = [axis for axis in weight if axis in inputs and axis not in result]
    rows = [axis for axis in inputs if axis not in weight]
    made = [axis for axis in weight if axis not in inputs]
    size = dict(zip(inputs, x.shape, strict=True)) | dict(zip(weight, w.shape, strict=True))

    def arrange(array: jax.Array, axes: str, *groups: list[str]) -> jax.Array:
        order = [axes.index(axis) for group in (batch, *groups) for axis in group]
        shape = [size[axis] for axis in batch]
        shape += [prod(size[axis] for axis in group) for group in groups]
        return array.transpose(order).reshape(shape)

    if split is not None:
        # Of axes that become one, parts of the first are parts of the whole.
        axis = weight[split]
        split = None if batch or axis not in (summed[0], made[0]) else int(axis == made[0])
    y = product(arrange(x, inputs, rows, summed), arrange(w, weight, summed, made), split=split)
    axes = [*batch, *rows, *made]
    y = y.reshape([size[axis] for axis in axes])
    return y.transpose([axes.index(axis) for axis in result])


class Projection(hk.Module):
    """y = einsum(equation, x, w)  (+ b)."""

    def __init__(
        self,
        equation: str,
        *,
        shape: tuple[int, ...],
        scale: float = 1.0,
        bias: bool = False,
        start: jax.Array | None = None,
        name: str,
    ) -> None:
        """
        Args:
            equation: einsum of input and weight, such as "BTD,DF->BTF".
            shape: the weight's shape.
            scale: multiplies the initial standard deviation, 1 / sqrt(fan in).
            bias: adds a vector over the axes that the weight makes, which are the result's last.
            start: what the weight begins as, in place of random numbers.
            name: module name, part of the parameter's path.
        """
        super().__init__(name=name)
        self.start = start
        self.equation = equation
        self.shape = shape
        self.scale = scale
        self.bias = bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """Contracts the axes that input and weight share."""
        return self.shifted(contract(self.equation, x, self.weight(), split=self.split()))

    def shifted(self, y: jax.Array) -> jax.Array:
        """`y` with the bias, if there is one."""
        if not self.bias:
            return y
        inputs, weight = self.equation.split("->")[0].split(",")
        pairs = zip(weight, self.shape, strict=True)
        shape = tuple(size for axis, size in pairs if axis not in inputs)
        b = hk.get_parameter("b", shape, jnp.float32, hk.initializers.Constant(0.0))
        return y + b.reshape((1,) * (y.ndim - b.ndim) + shape).astype(y.dtype)

    def weight(self) -> jax.Array:
        """The parameter."""
        return hk.get_parameter("w", self.shape, jnp.float32, self._initializer())

    def split(self) -> int | None:
        """The weight's dimension along which its gradient is scattered; see `split_of`."""
        return split_of(f"{self.module_name}/w", self.shape)

    def _initializer(self) -> Callable[..., jax.Array]:
        if self.start is not None:
            begin = self.start
            return lambda shape, dtype: begin.reshape(shape).astype(dtype)
        inputs, weight = self.equation.split("->")[0].split(",")
        result = self.equation.split("->")[1]
        summed = [axis for axis in weight if axis in inputs and axis not in result]
        fan_in = 1
        for axis in summed:
            fan_in *= self.shape[weight.index(axis)]
        # 0.8796 is the standard deviation of a normal cut at two of its own.
        return hk.initializers.TruncatedNormal(stddev=self.scale / (fan_in**0.5 * 0.87962566))


MIN_SHARED_ROWS = 64
"""Fewest rows for which `project_all` copies weights."""


def project_all(x: jax.Array, projections: Sequence[Projection]) -> list[jax.Array]:
    """What every one of `projections`, each "...d,d...->......", makes of one `x`.

    Their weights are put side by side for one wide product, which is faster than several narrow
    ones, and so is its gradient. The products stay apart where that copy would be most of the work,
    as in decoding, and where it would move weights that are split over devices.
    """
    summed = x.shape[-1]
    if axis_size("tensor") > 1 or x.size // summed < MIN_SHARED_ROWS:
        return [projection(x) for projection in projections]
    weights = [projection.weight().reshape(summed, -1) for projection in projections]
    split = 0 if all(projection.split() == 0 for projection in projections) else None
    made = product(x.reshape(-1, summed), jnp.concatenate(weights, axis=1), split=split)
    ends = list(accumulate(weight.shape[1] for weight in weights))
    parts = jnp.split(made, ends[:-1], axis=1)
    return [
        projection.shifted(part.reshape(*x.shape[:-1], *projection.shape[1:]))
        for part, projection in zip(parts, projections, strict=True)
    ]
