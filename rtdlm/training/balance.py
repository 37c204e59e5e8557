"""The rule of experts' balancing biases, apart from the optimizer's (arXiv 2408.15664).

    b <- b - bias_rate * sign(g)        g: load less mean load, which travels as b's gradient

See `rtdlm.modules.experts.balance`. A bias has no moments and no decay, and its g is no part of the
gradient's norm; a step whose gradient is not finite leaves it too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rtdlm.models.core import is_trained
from rtdlm.parallel import path_name
from rtdlm.training.knobs import Knobs


def trained(tree: Any) -> Any:
    """`tree`, parameters or gradients, with None in place of biases and of a core's prices."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if is_trained(path_name(path)) else None, tree
    )


def with_biases(tree: Any, biases: Any) -> Any:
    """Undoes `trained`: leaves of `biases` where `tree` has None."""
    return jax.tree.map(
        lambda own, other: other if own is None else own, tree, biases, is_leaf=lambda x: x is None
    )


def balanced(
    optimizer: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """`optimizer` for all other parameters, and the rule above for biases."""

    def init(params: Any) -> Any:
        return optimizer.init(trained(params))

    def update(
        grads: Any, state: Any, params: Any, *, knobs: Knobs, **extra: Any
    ) -> tuple[Any, Any]:
        updates, state = optimizer.update(
            trained(grads), state, trained(params), knobs=knobs, **extra
        )
        steps = jax.tree.map(lambda g: -knobs.bias_rate * jnp.sign(g), grads)
        return with_biases(updates, steps), state

    return optax.GradientTransformationExtraArgs(init, update)
