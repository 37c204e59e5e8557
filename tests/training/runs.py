"""A small model with its compiled step on a mesh of any shape."""

from functools import cached_property
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import AGIConfig, MeshConfig
from rtdlm.data.batch import Batch
from rtdlm.models import TMSModel
from rtdlm.parallel import batch_sharding, make_mesh, mesh_of, path_name
from rtdlm.training.carried import empty_carried
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.precision import initial_loss_scale
from rtdlm.training.state import TrainState, state_shapes, state_shardings
from rtdlm.training.step import Metrics, TrainStep, make_train_step
from tests.models.small import packed_batch, random_params

ONE = (1, 1, 1)
Shape = tuple[int, ...] | str
"""Devices along data, fsdp, tensor, context and expert; or a strategy for all eight."""
# Steps of a plain gradient: what a parameter moves by is its gradient times 0.1.
PLAIN: dict[str, Any] = {
    "name": "sgd", "momentum": 0.0, "learning_rate": 0.1, "weight_decay": 0.0,
    "schedule": "constant", "warmup_steps": 0, "clip_norm": float("inf"),
}  # fmt: skip


class Run:
    """Everything that a step needs; nothing is compiled before it is used."""

    def __init__(self, config: AGIConfig, shape: Shape = ONE) -> None:
        if isinstance(shape, str):
            config = config.replace(mesh={"strategy": shape})
            self.mesh = mesh_of(config)
        else:
            sizes = dict(zip(("data", "fsdp", "tensor", "context", "expert"), shape, strict=False))
            self.mesh = make_mesh(MeshConfig(**sizes), jax.devices()[: prod(shape)])
        self.config = config
        self.model = TMSModel(config)
        self.optimizer = make_optimizer(config.optimizer)
        self.knobs = Knobs.from_config(config)

    @cached_property
    def step(self) -> TrainStep:
        return make_train_step(self.model, self.optimizer, self.mesh)

    @cached_property
    def shapes(self) -> TrainState:
        return state_shapes(self.model, self.optimizer)

    @property
    def shardings(self) -> TrainState:
        return state_shardings(self.shapes, self.mesh, self.config.mesh_strategy)

    def start(self, params: Any = None) -> TrainState:
        """A state with `params` (None: random ones), the same on every mesh."""
        params = random_params(self.model) if params is None else params
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            optimizer=self.optimizer.init(params),
            key=jax.random.key(7),
            skipped=jnp.zeros((), jnp.int32),
            loss_scale=initial_loss_scale(self.config.precision),
            memory=empty_carried(self.model),
        )
        # A copy: what is donated must not be what another test holds.
        return jax.device_put(jax.tree.map(jnp.copy, state), self.shardings)

    def batch(self, seed: int = 0) -> Batch:
        return jax.device_put(packed_batch(self.config, seed=seed), batch_sharding(self.mesh))

    def go(
        self,
        state: TrainState,
        *,
        batch: Batch | None = None,
        fraction: float = 0.0,
        **knobs: float,
    ) -> tuple[TrainState, Metrics]:
        """One step with the config's knobs except for those given."""
        turned = {name: jnp.float32(value) for name, value in knobs.items()}
        return self.step(
            state,
            self.batch() if batch is None else batch,
            self.knobs._replace(**turned),
            jnp.float32(fraction),
        )


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Host copies by path; PRNG keys as their words."""

    def words(leaf: Any) -> np.ndarray:
        key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(leaf) if key else leaf)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): words(leaf) for path, leaf in leaves}
