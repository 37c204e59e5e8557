"""Gradient health: which layer's gradient is not finite, explodes or vanishes.

Norms are compared with the median of the same step's positive ones, so that the verdict needs no
tuning to a model's scale: above `EXPLODING` times the median is exploding, below `VANISHING` times
it is vanishing. Exactly zero is vanishing too: nothing reaches that layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.models.core import is_trained
from rtdlm.parallel import own_axes, path_name

EXPLODING = 1e3
VANISHING = 1e-5


@dataclass(frozen=True)
class GradientHealth:
    """Norms by parameter, and the names of those in trouble; stacked layers are `path[i]`."""

    norms: dict[str, float]
    not_finite: tuple[str, ...]
    exploding: tuple[str, ...]
    vanishing: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """No parameter is in trouble."""
        return not (self.not_finite or self.exploding or self.vanishing)

    def summary(self) -> str:
        """One line that names what is wrong, or says that nothing is."""
        found = {
            "not finite": self.not_finite,
            "exploding": self.exploding,
            "vanishing": self.vanishing,
        }
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in found.items()
            if names
        ]
        return "gradients: " + ("; ".join(parts) or "healthy")


def layer_norms(grads: Any) -> dict[str, jax.Array]:
    """Norm of each parameter's gradient by path; stacked layers keep their leading axis.

    Balancing biases, whose "gradient" is a load, and prices, which have none, are left out.
    """

    def norm(path: str, grad: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(grad), axis=own_axes(path, grad.ndim)))

    leaves = jax.tree_util.tree_leaves_with_path(grads)
    named = {path_name(path): grad for path, grad in leaves}
    return {path: norm(path, grad) for path, grad in named.items() if is_trained(path)}


def gradient_health(norms: Mapping[str, np.ndarray]) -> GradientHealth:
    """Judges gradient norms by parameter path, scalar or one a layer."""
    flat: dict[str, float] = {}
    for path, norm in norms.items():
        values = np.asarray(norm, np.float64)
        if values.ndim == 0:
            flat[path] = float(values)
        else:
            flat |= {f"{path}[{layer}]": float(value) for layer, value in enumerate(values)}
    usual = [value for value in flat.values() if np.isfinite(value) and value > 0.0]
    median = float(np.median(usual)) if usual else 0.0

    def names(wrong: Mapping[str, bool]) -> tuple[str, ...]:
        return tuple(name for name, is_wrong in wrong.items() if is_wrong)

    return GradientHealth(
        norms=flat,
        not_finite=names({k: not np.isfinite(v) for k, v in flat.items()}),
        exploding=names(
            {k: bool(np.isfinite(v)) and v > EXPLODING * median for k, v in flat.items()}
        ),
        vanishing=names({k: v == 0.0 or v < VANISHING * median for k, v in flat.items()}),
    )
