"""The step: (TrainState, Batch, Knobs) -> (TrainState, Metrics), compiled once.

Micro-batches add up to exactly the big batch: each contributes the gradient of its loss sum over
the whole batch's weight. A non-finite gradient changes neither parameters nor moments; the step
counter still advances, since the batch is spent.

Axes: B batch, T time, A micro-batches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rtdlm.data import Batch
from rtdlm.models import TMSModel
from rtdlm.parallel import BATCH_AXES, path_name
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import Sums, loss_sums
from rtdlm.training.optimizer import Progress, learning_rate
from rtdlm.training.precision import next_loss_scale
from rtdlm.training.state import TrainState, state_shapes, state_shardings


class Metrics(NamedTuple):
    """What one step reports; float32 scalars unless said."""

    means: Sums
    """Token-weighted means over the batch (`weight` stays a sum)."""
    learning_rate: jax.Array
    grad_norm: jax.Array
    """Global norm before clipping."""
    layer_grad_norms: dict[str, jax.Array]
    """Parameter path -> norm of its gradient, one a layer for stacked parameters."""
    skipped: jax.Array
    """1 where this step changed nothing because a gradient was not finite."""
    loss_scale: jax.Array


TrainStep = Callable[[TrainState, Batch, Knobs, jax.Array], tuple[TrainState, Metrics]]
EvalStep = Callable[[Any, Batch], Sums]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch's arrays lie: rows over all batch axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def make_train_step(
    model: TMSModel, optimizer: optax.GradientTransformationExtraArgs, mesh: Mesh
) -> TrainStep:
    """The compiled step; its fourth argument is the share of the budget spent, float32.

    The state is donated: the caller keeps only the returned one.
    """
    shardings = state_shardings(state_shapes(model, optimizer), mesh)
    whole = NamedSharding(mesh, PartitionSpec())

    def step(
        state: TrainState, batch: Batch, knobs: Knobs, fraction: jax.Array
    ) -> tuple[TrainState, Metrics]:
        progress = Progress(state.step, fraction)
        grads, sums = _gradients(model, state, batch, knobs)
        layer_norms = _layer_norms(grads)
        grad_norm = jnp.sqrt(sum(jnp.sum(jnp.square(norm)) for norm in layer_norms.values()))
        finite = jnp.isfinite(grad_norm)
        clip = jnp.minimum(1.0, knobs.clip_norm / jnp.maximum(grad_norm, 1e-12))
        grads = jax.tree.map(lambda grad: grad * clip, grads)
        updates, moved = optimizer.update(
            grads, state.optimizer, state.params, knobs=knobs, progress=progress
        )
        params = optax.apply_updates(state.params, updates)
        params, moved = _where(finite, (params, moved), (state.params, state.optimizer))
        scale = state.loss_scale
        weight = jnp.maximum(sums.weight, 1.0)
        metrics = Metrics(
            means=jax.tree.map(lambda total: total / weight, sums)._replace(weight=sums.weight),
            learning_rate=learning_rate(model.config.optimizer, progress, knobs),
            grad_norm=grad_norm,
            layer_grad_norms=layer_norms,
            skipped=1.0 - finite.astype(jnp.float32),
            loss_scale=jnp.float32(1.0) if scale is None else scale.scale,
        )
        if scale is not None:
            scale = next_loss_scale(model.config.precision, scale, finite)
        state = state.replace(
            step=state.step + 1,
            params=params,
            optimizer=moved,
            skipped=state.skipped + (~finite).astype(jnp.int32),
            loss_scale=scale,
        )
        return state, metrics

    compiled = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh), whole, whole),
        out_shardings=(shardings, whole),
    )
    return _under(mesh, compiled)


def make_eval_step(model: TMSModel, mesh: Mesh) -> EvalStep:
    """(parameters, batch) -> sums over the batch, without dropout and regularisers."""
    plain = Knobs.from_config(model.config)._replace(
        z_loss=jnp.float32(0), label_smoothing=jnp.float32(0)
    )

    def evaluate(params: Any, batch: Batch) -> Sums:
        return loss_sums(_scores(model, params, batch, None), batch.weights, plain)

    whole = NamedSharding(mesh, PartitionSpec())
    compiled = jax.jit(evaluate, in_shardings=(None, batch_sharding(mesh)), out_shardings=whole)
    return _under(mesh, compiled)


def _gradients(model: TMSModel, state: TrainState, batch: Batch, knobs: Knobs) -> tuple[Any, Sums]:
    """Gradient of the batch's mean loss and the batch's sums, over all micro-batches."""
    config = model.config
    scale = jnp.float32(1.0) if state.loss_scale is None else state.loss_scale.scale
    weight = jnp.maximum(jnp.sum(batch.weights), 1.0)
    key = jax.random.fold_in(state.key, state.step) if config.dropout_rate > 0 else None

    def objective(params: Any, micro: Batch, key: jax.Array | None) -> tuple[jax.Array, Sums]:
        sums = loss_sums(_scores(model, params, micro, key), micro.weights, knobs)
        return sums.loss / weight * scale, sums

    differentiate = jax.grad(objective, has_aux=True)
    count = config.accumulate_steps
    if count == 1:
        grads, sums = differentiate(state.params, batch, key)
    else:
        # Row r goes to micro-batch r mod A, so that each device keeps its own rows.
        micros = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch
        )

        def add(total: Any, item: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            micro, index = item
            folded = None if key is None else jax.random.fold_in(key, index)
            part = differentiate(state.params, micro, folded)
            return jax.tree.map(jnp.add, total, part), None

        micro = jax.tree.map(lambda x: x[0], micros)
        shapes = jax.eval_shape(differentiate, state.params, micro, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (grads, sums), _ = jax.lax.scan(add, zeros, (micros, jnp.arange(count)))
    if state.loss_scale is not None:
        grads = jax.tree.map(lambda grad: grad / scale, grads)
    return grads, sums


def _scores(model: TMSModel, params: Any, batch: Batch, key: jax.Array | None) -> Any:
    return model.scores(
        params,
        batch.input_ids,
        batch.labels,
        positions_BT=batch.positions,
        segment_ids_BT=batch.segment_ids,
        key=key,
    )


def _layer_norms(grads: Any) -> dict[str, jax.Array]:
    """Norm of each parameter's gradient; stacked layers keep their leading axis."""

    def norm(path: str, grad: jax.Array) -> jax.Array:
        axes = tuple(range(1 if "/layers/" in path else 0, grad.ndim))
        return jnp.sqrt(jnp.sum(jnp.square(grad), axis=axes))

    leaves = jax.tree_util.tree_leaves_with_path(grads)
    return {path_name(path): norm(path_name(path), grad) for path, grad in leaves}


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _under(mesh: Mesh, function: Any) -> Any:
    """Runs `function` with the mesh set, so that sharding hints inside find it."""

    def call(*args: Any) -> Any:
        with jax.set_mesh(mesh):
            return function(*args)

    call.compiled = function  # type: ignore[attr-defined]
    return call
