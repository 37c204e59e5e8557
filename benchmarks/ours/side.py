"""Our side of the time-to-loss benchmark: `TMSModel` and the step that `rtdlm.train` compiles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours.characters import held_out_loss, random_batch
from benchmarks.text import WINDOW, read_characters, windows
from benchmarks.timing import Timing, TrainingClock
from rtdlm.config import AGIConfig
from rtdlm.evaluation import make_eval_step
from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters
from rtdlm.parallel import keep_compiled_programs, make_mesh
from rtdlm.training.allocator import keep_freed_memory
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.state import init_state
from rtdlm.training.step import make_train_step


def train(
    text: Path,
    *,
    seed: int,
    target: float | None,
    config: Mapping[str, Any],
    every: int = 5,
) -> Timing:
    """A `Side`.

    Args:
        text: characters to train on.
        seed: of weights and batches.
        target: held-out loss to stop at; None runs to the end and evaluates there.
        config: fields of `AGIConfig`, `num_steps` among them.
        every: steps between evaluations in the second half, with a target.
    """
    keep_freed_memory()
    keep_compiled_programs()
    characters = read_characters(text)
    settings = AGIConfig.from_dict(
        {"vocab_size": characters.vocab_size, "max_seq_len": WINDOW, "seed": seed, **config}
    )
    assert settings.num_steps is not None
    clock = TrainingClock()
    model = TMSModel(settings)
    optimizer = make_optimizer(settings.optimizer)
    mesh = make_mesh(settings.mesh, jax.devices()[:1])
    step, knobs = make_train_step(model, optimizer, mesh), Knobs.from_config(settings)
    judge = make_eval_step(model, mesh)
    held_out = windows(characters.held_out_N)
    random = np.random.default_rng(seed)
    with clock.compiling():
        state = init_state(model, optimizer, mesh)
        # A step on a copy compiles it and leaves the weights as they are.
        copy = jax.tree.map(jnp.copy, state)
        batch = random_batch(characters.train_N, random, settings)
        jax.block_until_ready(step(copy, batch, knobs, jnp.float32(0.0)))
    with clock.evaluating():
        held_out_loss(judge, state.params, held_out)
    loss, done = float("inf"), 0
    for done in range(1, settings.num_steps + 1):
        fraction = jnp.float32((done - 1) / settings.num_steps)
        state, _ = step(state, random_batch(characters.train_N, random, settings), knobs, fraction)
        due = target is not None and done % every == 0 and 2 * done >= settings.num_steps
        if due or done == settings.num_steps:
            jax.block_until_ready(state)
            with clock.evaluating():
                loss = held_out_loss(judge, state.params, held_out)
            if target is not None and loss <= target:
                break
    reached = target is None or loss <= target
    parameters = count_parameters(settings).total
    return clock.timing(reached=reached, loss=loss, steps=done, parameters=parameters)
