"""Rotary position embedding (RoPE, arXiv 2104.09864).

Features i and i + E/2 of a head form a plane that position p turns by p * base^(-2i/E), so that a
query-key product depends on the distance of the two positions alone. Phases are float32 always:
in bfloat16 positions above 256 would collide. To read longer rows than were trained on, frequencies
are lowered; see `rope_scaling`.

Axes: B batch, T time, N heads, E head features, R = E/2 planes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rtdlm.config import RopeConfig
from rtdlm.modules.attention.rope_scaling import scaled_planes


class Rotation(NamedTuple):
    """Cosine and sine of every plane's angle at every position."""

    cos_BTR: jax.Array
    sin_BTR: jax.Array


def rotation(
    positions_BT: jax.Array,
    *,
    head_dim: int,
    base: float,
    scaling: RopeConfig | None = None,
) -> Rotation:
    """The turns for integer `positions_BT`; `head_dim` is even, `base` in tokens over 2 pi."""
    planes = scaled_planes(scaling or RopeConfig(), head_dim=head_dim, base=base)
    frequency_R = jnp.asarray(planes.frequency_R, jnp.float32)
    angle_BTR = positions_BT.astype(jnp.float32)[:, :, None] * frequency_R[None, None, :]
    turn = jax.lax.platform_dependent(angle_BTR, cpu=_turn_once, default=_turn)
    if planes.length == 1.0:
        return turn
    return Rotation(planes.length * turn.cos_BTR, planes.length * turn.sin_BTR)


def _turn(angle_BTR: jax.Array) -> Rotation:
    return Rotation(jnp.cos(angle_BTR), jnp.sin(angle_BTR))


def _turn_once(angle_BTR: jax.Array) -> Rotation:
    """`_turn`, behind a branch that XLA cannot decide.

    On a CPU it would otherwise make the tables again wherever they are read, for every head of
    every layer, forward and backward.
    """
    unknown = jnp.max(angle_BTR) > -jnp.inf
    return jax.lax.cond(unknown, _turn, lambda angle: Rotation(angle, angle), angle_BTR)


def rotate(x_BTNE: jax.Array, turn: Rotation) -> jax.Array:
    """Turns each head of `x_BTNE`; computed in float32, returned in the input's dtype."""
    first, second = jnp.split(x_BTNE.astype(jnp.float32), 2, axis=-1)
    cos, sin = turn.cos_BTR[:, :, None, :], turn.sin_BTR[:, :, None, :]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTNE.dtype)
