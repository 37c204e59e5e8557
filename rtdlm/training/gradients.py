"""The gradient of a batch's mean loss: over micro-batches, and over devices.

Micro-batches add up to exactly the big batch: each contributes the gradient of its loss sum over
the whole batch's weight. (Only the experts' balancing losses are each micro-batch's own: they are
products of means.)

Over devices, XLA's partitioner adds what the shardings say (GSPMD, arXiv 2105.04663). Under the
strategy `pmap` every device computes the gradient of its own rows as though it were alone, and one
sum over devices, written out, makes them equal.

Axes: B batch, T time, A micro-batches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from rtdlm.data import Batch
from rtdlm.evaluation import divisor
from rtdlm.models import TMSModel
from rtdlm.parallel import BATCH_AXES, gathering, layout_of
from rtdlm.training.carried import Carried, carried_shardings, counted_on, in_micros, of_micros
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import Sums, loss_sums, loss_terms
from rtdlm.training.state import TrainState, param_shardings

Gradients = Callable[[TrainState, Batch, Knobs], tuple[Any, Sums, Carried | None]]
"""A batch's gradient, unscaled, its sums, and what its rows leave to the next step's."""
Micro = tuple[Batch, Carried | None]
"""Rows, and what was remembered before them."""


def make_gradients(model: TMSModel, mesh: Mesh, shapes: TrainState) -> Gradients:
    """The function for the mesh and the strategy of the model's config."""
    strategy = model.config.mesh_strategy
    split = param_shardings(shapes.params, mesh, split=layout_of(strategy).gradients)
    alone = mesh.size == 1 or strategy == "pmap"

    def place(grads: Any) -> Any:
        return grads if alone else jax.lax.with_sharding_constraint(grads, split)

    def gradients(
        state: TrainState, batch: Batch, knobs: Knobs
    ) -> tuple[Any, Sums, Carried | None]:
        weight = divisor(jnp.sum(batch.weights))
        scale = jnp.float32(1.0) if state.loss_scale is None else state.loss_scale.scale
        key = jax.random.fold_in(state.key, state.step) if _is_random(model) else None

        def local(
            params: Any, rows: Micro, knobs: Knobs, weight: Any, scale: Any, key: Any
        ) -> tuple[tuple[Any, Sums], Carried | None]:
            return _sum_micros(model, params, rows, knobs, weight, scale, key, place)

        function = _on_each_device(local, mesh, state) if strategy == "pmap" else local
        rows = (batch, state.memory)
        with gathering(mesh, strategy, recomputed=model.config.remat in ("full", "named")):
            (grads, sums), carried = function(state.params, rows, knobs, weight, scale, key)
        if state.loss_scale is not None:
            grads = jax.tree.map(lambda grad: grad / scale, grads)
        return place(grads), sums, carried

    return gradients


def _on_each_device(local: Callable[..., Any], mesh: Mesh, state: TrainState) -> Callable[..., Any]:
    def device(params: Any, rows: Micro, knobs: Knobs, weight: Any, scale: Any, key: Any) -> Any:
        if key is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(BATCH_AXES))
        total, carried = local(params, rows, knobs, weight, scale, key)
        return jax.lax.psum(total, BATCH_AXES), carried

    whole = PartitionSpec()
    carried = jax.tree.map(lambda at: at.spec, carried_shardings(state.memory, mesh))
    rows = (PartitionSpec(BATCH_AXES), carried)
    # Without the check of what varies: with it, the sum of gradients would be put in by itself.
    return jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(whole, rows, whole, whole, whole, whole),
        out_specs=(whole, carried),
        check_vma=False,
    )


def _is_random(model: TMSModel) -> bool:
    config = model.config
    return config.dropout_rate > 0 or config.experts.random or config.use_compute_controller


def _sum_micros(
    model: TMSModel,
    params: Any,
    rows: Micro,
    knobs: Knobs,
    weight: jax.Array,
    scale: jax.Array,
    key: jax.Array | None,
    place: Callable[[Any], Any],
) -> tuple[tuple[Any, Sums], Carried | None]:
    """Gradient of `scale` times the rows' part of the mean loss, whose divisor is `weight`."""

    def objective(
        params: Any, micro: Micro, key: jax.Array | None
    ) -> tuple[jax.Array, tuple[Sums, Carried | None]]:
        batch, carried = micro
        terms = loss_terms(batch.weights, knobs, scale=scale / weight)
        if carried is None:
            scores = model.batch_scores(params, batch, key=key, terms=terms)
        else:
            batch, last_B = counted_on(batch, carried)
            scores = model.batch_scores(params, batch, key=key, terms=terms, memory=carried.memory)
            assert scores.memory is not None
            carried = Carried(scores.memory, last_B)
        sums = loss_sums(scores, batch.weights, knobs)
        return sums.objective / weight * scale, (sums, carried)

    def differentiated(
        params: Any, micro: Micro, key: jax.Array | None
    ) -> tuple[tuple[Any, Sums], Carried | None]:
        grads, (sums, carried) = jax.grad(objective, has_aux=True)(params, micro, key)
        return (grads, sums), carried

    count = model.config.accumulate_steps
    if count == 1:
        return differentiated(params, rows, key)
    batch, carried = rows
    micros = (in_micros(batch, count), in_micros(carried, count))

    def add(total: Any, item: tuple[Micro, jax.Array]) -> tuple[Any, Carried | None]:
        micro, index = item
        folded = None if key is None else jax.random.fold_in(key, index)
        found, carried = differentiated(params, micro, folded)
        grads, sums = jax.tree.map(jnp.add, total, found)
        return (place(grads), sums), carried

    micro = jax.tree.map(lambda x: x[0], micros)
    shapes, _ = jax.eval_shape(differentiated, params, micro, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, carried = jax.lax.scan(add, zeros, (micros, jnp.arange(count)))
    return total, of_micros(carried)
