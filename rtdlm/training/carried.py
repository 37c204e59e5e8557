"""What rows remember from one step to the next: `memory.across_steps=true`.

Row b of a step goes on where row b of the step before ended, and memory with it. Gradients do not:
they end where the step's rows begin (truncated back-propagation, as in arXiv 1901.02860).

The loader counts the documents of a row from 1 where the row begins inside the document that the
one before ended with, and from 2 where it does not. Here they are counted on from step to step, so
that memory tells what is of the same document from what is not.

Axes: B rows, T positions, A micro-batches, R layers of one place (see `MemoryState`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from rtdlm.data import Batch
from rtdlm.models import TMSModel
from rtdlm.models.memory import MemoryState
from rtdlm.parallel import memory_spec, path_name


class Carried(NamedTuple):
    """What the rows of a step leave to those of the next."""

    memory: MemoryState
    """Leaves are `[R, B, ...]`."""
    document_B: jax.Array
    """int32; number of the document that each row ended with, 0 before the first step."""


def empty_carried(model: TMSModel) -> Carried | None:
    """Before the first step; None where nothing is carried."""
    if not model.config.memory.across_steps:
        return None
    rows = model.config.batch_size
    return Carried(model.empty_memory(rows), jnp.zeros((rows,), jnp.int32))


def carried_shapes(model: TMSModel) -> Carried | None:
    """Shapes and dtypes of `empty_carried`."""
    return jax.eval_shape(lambda: empty_carried(model))


def counted_on(batch: Batch, carried: Carried) -> tuple[Batch, jax.Array]:
    """`batch` with its documents counted on from earlier steps', and the last ones `[B]`."""
    before_B1 = jnp.maximum(carried.document_B - 1, 0)[:, None]
    own_BT = jnp.asarray(batch.segment_ids)
    document_BT = jnp.where(own_BT > 0, own_BT + before_B1, 0)
    last_B = jnp.maximum(jnp.max(document_BT, axis=1), carried.document_B)
    return batch._replace(segment_ids=cast(Any, document_BT)), last_B


def kept(before: Carried | None, after: Carried | None, finite: jax.Array) -> Carried | None:
    """`after` a step, or what was `before` it where a step is skipped (not `finite`) or a memory is
    not finite: no gradient tells of what was written last, and rows would read it for ever.
    """
    if after is None:
        return None
    sound = [finite, *(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(after))]
    whole = jnp.all(jnp.stack(sound))
    return jax.tree.map(lambda new, old: jnp.where(whole, new, old), after, before)


def in_micros(rows: Any, count: int) -> Any:
    """Arrays `[B, ...]`, or what is carried, as `[A, B / A, ...]`.

    Row r goes to micro-batch r mod A, so that each device keeps its own rows.
    """

    def split(x: jax.Array, axis: int) -> jax.Array:
        parts = x.reshape(*x.shape[:axis], -1, count, *x.shape[axis + 1 :])
        return jnp.moveaxis(parts, axis + 1, 0)

    return _each(split, rows)


def of_micros(carried: Carried | None) -> Carried | None:
    """What `in_micros` took apart, put together."""

    def join(x: jax.Array, axis: int) -> jax.Array:
        parts = jnp.moveaxis(x, 0, axis + 1)
        return parts.reshape(*parts.shape[:axis], -1, *parts.shape[axis + 2 :])

    found: Carried | None = _each(join, carried)
    return found


def carried_shardings(shapes: Carried | None, mesh: Mesh) -> Any:
    """Where each leaf lies: beside its row, by the rule table of memories."""

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, memory_spec(path_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, shapes)


def _each(function: Callable[[jax.Array, int], jax.Array], rows: Any) -> Any:
    """`function` of every array and of its axis of rows."""
    if not isinstance(rows, Carried):
        return jax.tree.map(lambda x: function(x, 0), rows)
    memory = jax.tree.map(lambda x: function(x, 1), rows.memory)
    return Carried(memory, function(rows.document_B, 0))
