"""Everything that a run carries from step to step, and how it lies on a mesh."""

import os
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rtdlm.config.mesh import MeshStrategy
from rtdlm.models import TMSModel
from rtdlm.parallel import layout_of, partition_spec, path_name, put
from rtdlm.training.carried import Carried, carried_shardings, empty_carried
from rtdlm.training.precision import LossScale, initial_loss_scale

MOST_WHOLE = 1024
"""Elements of optimizer state that may lie whole on every device though no rule says so."""


@flax.struct.dataclass
class TrainState:
    """The step's argument and result; donated from one to the next."""

    step: jax.Array
    """int32; batches consumed."""
    params: Any
    """float32 parameters as the optimizer moves them."""
    optimizer: Any
    """Moments and the like."""
    key: jax.Array
    """Base key of the run; randomness of a step is this key folded with the step."""
    skipped: jax.Array
    """int32; steps whose gradients were not finite and that changed nothing."""
    loss_scale: LossScale | None
    """Only under float16."""
    memory: Carried | None = None
    """What rows remember; only with `memory.across_steps`."""


def init_state(model: TMSModel, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A fresh state, made where it will lie: no whole array exists on any one device."""
    # Compiled within `start`, since what is called as it is would be traced again.
    create = jax.jit(_creator(model, optimizer))
    shapes = state_shapes(model, optimizer)
    shardings = state_shardings(shapes, mesh, model.config.mesh_strategy)

    def start(words: jax.Array) -> TrainState:
        return create(jax.random.wrap_key_data(words))

    options = _compiled_once(mesh)
    return jax.jit(start, out_shardings=shardings, compiler_options=options)(_seed_words(model))


def state_of(
    params: Any, model: TMSModel, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """A fresh state as `init_state` makes it, with `params` in place of random ones.

    Args:
        params: host arrays shaped as `model.shapes`, or what is indexed like them; of each, only
            the parts that lie on this process's devices are read.
        model: whose parameters they are.
        optimizer: what will move them.
        mesh: where the state will lie.
    """
    shapes = state_shapes(model, optimizer)
    shardings = state_shardings(shapes, mesh, model.config.mesh_strategy)

    def start(params: Any, words: jax.Array) -> TrainState:
        _, run_key = jax.random.split(jax.random.wrap_key_data(words))
        return _fresh(params, run_key, model, optimizer)

    # Given away, so that no device holds them twice.
    create = jax.jit(
        start, donate_argnums=0, out_shardings=shardings, compiler_options=_compiled_once(mesh)
    )
    return create(put(params, shardings.params), _seed_words(model))


def _compiled_once(mesh: Mesh) -> dict[str, Any] | None:
    """Options for a program that runs once: on a CPU, optimizing it takes longer than it saves."""
    level, on_cpu = "xla_backend_optimization_level", mesh.devices.flat[0].platform == "cpu"
    chosen = level in os.environ.get("XLA_FLAGS", "")
    return {level: 1} if on_cpu and not chosen else None


def _seed_words(model: TMSModel) -> np.ndarray:
    """The seed's key as host words: a device array of one host is no argument of a program of
    several, and a constant would be another program for every seed.
    """
    return np.asarray(jax.random.key_data(jax.random.key(model.config.seed)))


def state_shapes(model: TMSModel, optimizer: optax.GradientTransformation) -> TrainState:
    """The state's shapes and dtypes."""
    return jax.eval_shape(_creator(model, optimizer), jax.random.key(0))


def state_shardings(
    shapes: TrainState, mesh: Mesh, strategy: MeshStrategy | None = None
) -> TrainState:
    """Where each leaf lies: parameters by the rule table, moments beside their parameters, as far
    as `strategy` splits them, and memories beside their rows.

    Raises:
        ValueError: moments are split, and the optimizer keeps something large that lies beside no
            parameter.
    """
    layout = layout_of(strategy)
    params = param_shardings(shapes.params, mesh, split=layout.parameters)
    moments = param_shardings(shapes.params, mesh, split=layout.moments)
    are_split = any(not sharding.is_fully_replicated for sharding in jax.tree.leaves(moments))
    beside = {
        path_name(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(shapes.params),
            jax.tree.leaves(moments),
            strict=True,
        )
    }

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = path_name(path)
        own = {param: at for param, at in beside.items() if name.endswith("/" + param)}
        for shape, found in own.values():
            if shape == leaf.shape:
                return found
        # Factored moments carry their parameter's path but not its shape, and are smaller.
        few = leaf.size < min((prod(shape) for shape, _ in own.values()), default=0)
        if are_split and not few and leaf.size > MOST_WHOLE:
            raise ValueError(
                f"{name} of shape {leaf.shape} would lie whole on every device: it has more than "
                f"{MOST_WHOLE} elements and no parameter's shape; keep it in a tree like the "
                "parameters', in their shapes, or choose mesh.strategy=data"
            )
        return NamedSharding(mesh, PartitionSpec())

    rest = jax.tree_util.tree_map_with_path(sharding, replace(shapes, memory=None))
    return replace(rest, params=params, memory=carried_shardings(shapes.memory, mesh))


def param_shardings(shapes: Any, mesh: Mesh, *, split: bool) -> Any:
    """Where each parameter lies by the rule table; without `split` whole on the axis `fsdp`."""

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, partition_spec(path_name(path), leaf.shape, mesh, split=split))

    return jax.tree_util.tree_map_with_path(sharding, shapes)


@lru_cache(maxsize=1)  # the same function is traced once, for its shapes and for its values
def _creator(model: TMSModel, optimizer: optax.GradientTransformation) -> Any:
    def create(key: jax.Array) -> TrainState:
        init_key, run_key = jax.random.split(key)
        return _fresh(model.init(init_key), run_key, model, optimizer)

    return create


def _fresh(
    params: Any, key: jax.Array, model: TMSModel, optimizer: optax.GradientTransformation
) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=optimizer.init(params),
        key=key,
        skipped=jnp.zeros((), jnp.int32),
        loss_scale=initial_loss_scale(model.config.precision),
        memory=empty_carried(model),
    )
