"""The step: (TrainState, Batch, Knobs) -> (TrainState, Metrics), compiled once.

A non-finite gradient changes neither parameters nor moments nor what rows remember; the step
counter still advances, since the batch is spent.
"""

from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from rtdlm.data import Batch
from rtdlm.evaluation import divisor, layer_norms
from rtdlm.models import TMSModel
from rtdlm.parallel import batch_sharding, gathering, under, whole_again
from rtdlm.training.carried import kept
from rtdlm.training.gradients import make_gradients
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import Sums
from rtdlm.training.optimizer import Progress, learning_rate
from rtdlm.training.precision import next_loss_scale
from rtdlm.training.state import TrainState, state_shapes, state_shardings


class Metrics(NamedTuple):
    """What one step reports; float32 scalars unless said."""

    means: Sums
    """Means over the batch's tokens."""
    weight: jax.Array
    """Tokens that counted, by weight."""
    learning_rate: jax.Array
    grad_norm: jax.Array
    """Global norm before clipping."""
    layer_grad_norms: dict[str, jax.Array]
    """Parameter path -> norm of its gradient, one a layer for stacked parameters."""
    skipped: jax.Array
    """1 where this step changed nothing because a gradient was not finite."""
    loss_scale: jax.Array


class TrainStep(Protocol):
    """The compiled step; `fraction` is the share of the budget spent, float32."""

    __wrapped__: Any
    """The jitted function, for lowering and for its cache."""

    def __call__(
        self, state: TrainState, batch: Batch, knobs: Knobs, fraction: ArrayLike, /
    ) -> tuple[TrainState, Metrics]: ...


def make_train_step(
    model: TMSModel, optimizer: optax.GradientTransformationExtraArgs, mesh: Mesh
) -> TrainStep:
    """The compiled step; its fourth argument is the share of the budget spent, float32.

    The state is donated: the caller keeps only the returned one.
    """
    shapes = state_shapes(model, optimizer)
    shardings = state_shardings(shapes, mesh, model.config.mesh_strategy)
    gradients = make_gradients(model, mesh, shapes)
    whole = NamedSharding(mesh, PartitionSpec())

    def step(
        state: TrainState, batch: Batch, knobs: Knobs, fraction: jax.Array
    ) -> tuple[TrainState, Metrics]:
        progress = Progress(state.step, fraction)
        grads, sums, carried = gradients(state, batch, knobs)
        norms = layer_norms(grads)
        grad_norm = jnp.sqrt(sum(jnp.sum(jnp.square(norm)) for norm in norms.values()))
        finite = jnp.isfinite(grad_norm)
        clip = jnp.minimum(1.0, knobs.clip_norm / jnp.maximum(grad_norm, 1e-12))
        grads = jax.tree.map(lambda grad: grad * clip, grads)
        updates, moved = optimizer.update(
            grads, state.optimizer, state.params, knobs=knobs, progress=progress
        )
        with gathering(mesh, model.config.mesh_strategy):
            params = whole_again(optax.apply_updates(state.params, updates))
        params, moved = _where(finite, (params, moved), (state.params, state.optimizer))
        scale = state.loss_scale
        weight = divisor(sums.tokens.weight)
        metrics = Metrics(
            means=jax.tree.map(lambda total: total / weight, sums),
            weight=sums.tokens.weight,
            learning_rate=learning_rate(model.config.optimizer, progress, knobs),
            grad_norm=grad_norm,
            layer_grad_norms=norms,
            skipped=1.0 - finite.astype(jnp.float32),
            loss_scale=jnp.float32(1.0) if scale is None else scale.scale,
        )
        if scale is not None:
            scale = next_loss_scale(model.config.precision, scale, finite)
        state = TrainState(
            key=state.key,
            step=state.step + 1,
            params=params,
            optimizer=moved,
            skipped=state.skipped + (~finite).astype(jnp.int32),
            loss_scale=scale,
            memory=kept(state.memory, carried, finite),
        )
        return state, metrics

    compiled = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh), whole, whole),
        out_shardings=(shardings, whole),
    )
    return cast(TrainStep, under(mesh, compiled))


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
