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
from rtdlm.parallel import BATCH_AXES, layout_of
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import Sums, loss_sums, loss_terms
from rtdlm.training.state import TrainState, param_shardings

Gradients = Callable[[TrainState, Batch, Knobs], tuple[Any, Sums]]
"""A batch's gradient, unscaled, and its sums."""


def make_gradients(model: TMSModel, mesh: Mesh, shapes: TrainState) -> Gradients:
    """The function for the mesh and the strategy of the model's config."""
    strategy = model.config.mesh_strategy
    split = param_shardings(shapes.params, mesh, split=layout_of(strategy).gradients)
    alone = mesh.size == 1 or strategy == "pmap"

    def place(grads: Any) -> Any:
        return grads if alone else jax.lax.with_sharding_constraint(grads, split)

    def gradients(state: TrainState, batch: Batch, knobs: Knobs) -> tuple[Any, Sums]:
        weight = divisor(jnp.sum(batch.weights))
        scale = jnp.float32(1.0) if state.loss_scale is None else state.loss_scale.scale
        key = jax.random.fold_in(state.key, state.step) if _is_random(model) else None

        def local(
            params: Any, batch: Batch, knobs: Knobs, weight: Any, scale: Any, key: Any
        ) -> tuple[Any, Sums]:
            return _sum_micros(model, params, batch, knobs, weight, scale, key, place)

        function = _on_each_device(local, mesh) if strategy == "pmap" else local
        grads, sums = function(state.params, batch, knobs, weight, scale, key)
        if state.loss_scale is not None:
            grads = jax.tree.map(lambda grad: grad / scale, grads)
        return place(grads), sums

    return gradients


def _on_each_device(local: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    def device(params: Any, batch: Batch, knobs: Knobs, weight: Any, scale: Any, key: Any) -> Any:
        if key is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(BATCH_AXES))
        return jax.lax.psum(local(params, batch, knobs, weight, scale, key), BATCH_AXES)

    whole, rows = PartitionSpec(), PartitionSpec(BATCH_AXES)
    # Without the check of what varies: with it, the sum of gradients would be put in by itself.
    return jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(whole, rows, whole, whole, whole, whole),
        out_specs=whole,
        check_vma=False,
    )


def _is_random(model: TMSModel) -> bool:
    config = model.config
    return config.dropout_rate > 0 or config.experts.random or config.use_compute_controller


def _sum_micros(
    model: TMSModel,
    params: Any,
    batch: Batch,
    knobs: Knobs,
    weight: jax.Array,
    scale: jax.Array,
    key: jax.Array | None,
    place: Callable[[Any], Any],
) -> tuple[Any, Sums]:
    """Gradient of `scale` times the rows' part of the mean loss, whose divisor is `weight`."""

    def objective(params: Any, micro: Batch, key: jax.Array | None) -> tuple[jax.Array, Sums]:
        terms = loss_terms(micro.weights, knobs, scale=scale / weight)
        scores = model.batch_scores(params, micro, key=key, terms=terms)
        sums = loss_sums(scores, micro.weights, knobs)
        return sums.objective / weight * scale, sums

    differentiate = jax.grad(objective, has_aux=True)
    count = model.config.accumulate_steps
    if count == 1:
        return differentiate(params, batch, key)
    # Row r goes to micro-batch r mod A, so that each device keeps its own rows.
    micros = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)

    def add(total: Any, item: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        micro, index = item
        folded = None if key is None else jax.random.fold_in(key, index)
        grads, sums = jax.tree.map(jnp.add, total, differentiate(params, micro, folded))
        return (place(grads), sums), None

    micro = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(differentiate, params, micro, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, (micros, jnp.arange(count)))[0]
