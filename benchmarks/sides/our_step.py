"""Our training step, as `rtdlm.train` runs it: forward, backward, clip, optimizer, metrics."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Answer, Spec, since_spawned, time_blocks
from benchmarks.ours.characters import packed
from rtdlm.config import AGIConfig
from rtdlm.data import Batch
from rtdlm.models import TMSModel
from rtdlm.parallel import batch_sharding, make_mesh
from rtdlm.training.allocator import keep_freed_memory
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.state import init_state
from rtdlm.training.step import make_train_step

BATCHES = 8


def measure(spec: Spec) -> Answer:
    """Spec: `config` (the fields of an `AGIConfig`), `seconds`. Answer: as the peer's."""
    keep_freed_memory()
    config = AGIConfig.from_dict(spec["config"])
    mesh = make_mesh(config.mesh)
    model, optimizer = TMSModel(config), make_optimizer(config.optimizer)
    step = make_train_step(model, optimizer, mesh)
    state, knobs = init_state(model, optimizer, mesh), Knobs.from_config(config)
    rng = np.random.default_rng(0)
    batches = [
        jax.device_put(random_batch(config, rng), batch_sharding(mesh)) for _ in range(BATCHES)
    ]
    fraction = jnp.float32(0.1)
    jax.block_until_ready((state, batches))
    startup = since_spawned(spec)
    loss = jnp.zeros(())

    def advance(count: int) -> None:
        nonlocal state, loss
        for number in range(count):
            state, metrics = step(state, batches[number % BATCHES], knobs, fraction)
            loss = metrics.means.tokens.nll
        jax.block_until_ready((state, loss))

    times = time_blocks(advance, seconds=spec["seconds"])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.shapes))
    return {
        **times,
        "startup_wall": startup,
        "parameters": parameters,
        "loss": float(loss),
        "compute": model.config.precision.compute,
    }


def random_batch(config: AGIConfig, rng: np.random.Generator) -> Batch:
    """Rows of random tokens, each one document."""
    size = (config.batch_size, config.max_seq_len + 1)
    ids_BT = rng.integers(config.vocab_size, size=size)
    return packed(ids_BT[:, :-1], ids_BT[:, 1:], np.ones(config.batch_size))
