"""What a training step needs on each device, estimated by tracing it: nothing is compiled or made.

    peak = state + batch + max(loss and gradient, optimizer)

State and batch are exact: shapes and how they lie on the mesh. The gradient's part is the traced
loss of one device's share, run through `peak_memory`: under `remat` what is kept is what the trace
keeps. While the optimizer moves, gradients are still there and moments are there twice: XLA makes
the new ones, on processors and on TPUs, before it has read the old ones for the last time.
docs/scaling.md holds the sum to the compiler's own count.
"""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, Mesh, NamedSharding

from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel
from rtdlm.parallel import batch_sharding, check_batch, layout_of, mesh_of
from rtdlm.training.carried import carried_shapes, carried_shardings
from rtdlm.training.gradients import make_gradients
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.planning.liveness import Buffer, peak_memory
from rtdlm.training.planning.local import ONE_DEVICE, WHOLE_FROM_THE_START, local_config
from rtdlm.training.planning.program import batch_shapes, knob_shapes
from rtdlm.training.state import TrainState, param_shardings, state_shapes, state_shardings

# What the state's shapes do not depend on.
ONE_ROW: dict[str, Any] = {"batch_size": 1, "accumulate_steps": 1, **WHOLE_FROM_THE_START}


@dataclass(frozen=True)
class ModelMemory:
    """Of one device during a training step [bytes]."""

    parameters: float
    optimizer: float
    batch: float
    carried: float
    """What rows remember from step to step (`memory.across_steps`)."""
    gradients: float
    """Between the backward pass and the optimizer; within `working`."""
    working: float
    """Activations, gradients and work space at the worst moment, beside the state."""
    buffers: tuple[Buffer, ...] = ()
    """The largest of what `working` is made of."""

    @property
    def state(self) -> float:
        """What stays from step to step, and the batch."""
        return self.parameters + self.optimizer + self.batch + self.carried

    @property
    def activations(self) -> float:
        """What `working` has beside gradients."""
        return max(0.0, self.working - self.gradients)

    @property
    def total(self) -> float:
        """All at the worst moment."""
        return self.state + self.working


def estimate_model_memory(config: AGIConfig, mesh: Mesh | AbstractMesh) -> ModelMemory:
    """What a step of `config` needs on each device of `mesh`, without compiling.

    Args:
        config: the run; with `precision.compute=auto` as on this process's devices.
        mesh: real, fake or described devices, or none (abstract); its axes count, and the
            platform, which decides what attention is computed by.

    Raises:
        UserError: rows do not split over the mesh.
    """
    model = TMSModel(config)
    config = model.config
    check_batch(mesh, rows=config.batch_size // config.accumulate_steps)
    state = _state(_key(config.replace(**ONE_DEVICE, **ONE_ROW)))
    strategy = config.mesh_strategy
    named = cast(Mesh, mesh)  # of an abstract one too, only the axes count
    shardings = state_shardings(state, named, strategy)
    split = param_shardings(state.params, named, split=layout_of(strategy).gradients)
    gradients = device_bytes(state.params, split)
    parameters = device_bytes(state.params, shardings.params)
    moments = device_bytes(state.optimizer, shardings.optimizer)
    batch = batch_shapes(config)
    rows = device_bytes(batch, jax.tree.map(lambda _: batch_sharding(mesh), batch))
    kept = carried_shapes(model)
    carried = device_bytes(kept, carried_shardings(kept, named))
    peak, buffers = _gradient_peak(config, mesh, shardings.params, split)
    # The new moments are made while the old ones still serve: they are there twice.
    working = max(peak, gradients + moments)
    return ModelMemory(parameters, moments, rows, carried, gradients, working, buffers)


def device_bytes(shapes: Any, shardings: Any) -> float:
    """What one device holds of arrays of these shapes that lie so [bytes]."""
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return float(sum(prod(s.shard_shape(x.shape)) * _width(x) for x, s in pairs))


def _gradient_peak(
    config: AGIConfig, mesh: Mesh | AbstractMesh, parameters: Any, gradients: Any
) -> tuple[float, tuple[Buffer, ...]]:
    described = mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh
    jaxpr, params = _traced(_key(local_config(config, mesh)), described.abstract_device)
    leaves = jax.tree.leaves(params)
    ways = [_split_over_rows(sharding) for sharding in jax.tree.leaves(parameters)]
    # Under FSDP a whole table appears where it is read; a layer's matrices do so in every case,
    # as rows of their stack.
    sizes = [
        _width(x) * prod(x.shape) if way > 1 else 0.0 for x, way in zip(leaves, ways, strict=True)
    ]
    lazy = [0.0] * len(jaxpr.invars)
    lazy[: len(sizes)] = sizes
    shares = [1.0] * len(jaxpr.outvars)
    shares[: len(ways)] = [
        1.0 / _split_over_rows(sharding) for sharding in jax.tree.leaves(gradients)
    ]
    found = peak_memory(jaxpr, lazy=lazy, shares=shares)
    return found.bytes, found.buffers


def _key(config: AGIConfig) -> str:
    """Configs hold dictionaries and so are no keys of a cache themselves."""
    return json.dumps(config.to_dict())


@lru_cache(maxsize=32)
def _state(tree: str) -> TrainState:
    config = AGIConfig.from_dict(json.loads(tree))
    return state_shapes(TMSModel(config), make_optimizer(config.optimizer))


@lru_cache(maxsize=32)  # strategies often give a device the same work
def _traced(tree: str, device: AbstractDevice | None) -> tuple[Any, Any]:
    """The gradient as `device` would compute it, traced, and parameters.

    These are its first arguments and results.
    """
    config = AGIConfig.from_dict(json.loads(tree))
    model = TMSModel(config)
    state = replace(_state(_key(config.replace(**ONE_ROW))), memory=carried_shapes(model))
    mesh = mesh_of(config, jax.devices()[:1])
    function = make_gradients(model, mesh, state)

    def gradients(params: Any, rest: TrainState, batch: Any, knobs: Any) -> Any:
        return function(replace(rest, params=params), batch, knobs)

    rest, batch, knobs = replace(state, params=None), batch_shapes(config), knob_shapes(config)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh.update(abstract_device=device)):
        traced = jax.make_jaxpr(gradients)(state.params, rest, batch, knobs)
    return traced.jaxpr, state.params


def _split_over_rows(sharding: NamedSharding) -> int:
    """Over how many devices with rows of their own a parameter is split."""
    ways: int = 1
    for axes in sharding.spec:
        for axis in (axes,) if isinstance(axes, str) else axes or ():
            ways *= sharding.mesh.shape[axis] if axis != "tensor" else 1
    return ways


def _width(leaf: Any) -> int:
    """Bytes of one number; a random key's are four words at most."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8
    return int(leaf.dtype.itemsize)
