"""A run's state as a checkpoint snapshot, and back.

`model` holds the parameters to use (for schedule-free their average), `optimizer` everything else
that the step carries, so that a resumed run continues bitwise.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import yaml
from jax.sharding import Mesh

from rtdlm.checkpoint import Snapshot
from rtdlm.checkpoint.tree import flatten_own, unflatten_like
from rtdlm.config import AGIConfig, UserError, build_config, to_yaml
from rtdlm.config.build import differences
from rtdlm.parallel import put
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import evaluation_params
from rtdlm.training.source import Origin
from rtdlm.training.state import TrainState, state_shardings

# Fields that may differ between a checkpoint and the run that resumes it: they change when the run
# ends, what it tells and what it keeps, not what the next step computes. Another mesh or unrolling
# computes the same in another order, and so to rounding, not to the bit.
FREE = (
    *("num_steps", "num_epochs", "num_tokens", "max_seconds", "layer_unroll", "mesh."),
    *("distributed_training", "tensor_parallel", "hosts."),
    *("data.text", "data.shards", "data.prefetch", "checkpoint.", "evaluation.", "monitoring."),
)


class Position(NamedTuple):
    """Where the run stands on the host."""

    step: int
    seconds: float
    """Wall time spent, over all sessions [seconds]."""
    trained_seconds: float
    """The part of it that went into training steps [seconds]."""
    best_loss: float | None
    best_step: int | None
    bad_evaluations: int
    """Evaluations since the best one."""


def to_snapshot(
    state: TrainState,
    knobs: Knobs,
    position: Position,
    config: AGIConfig,
    *,
    data: Mapping[str, Any],
    tokenizer: bytes | None,
    origin: Origin | None = None,
) -> Snapshot:
    """A copy of everything on the host, or of what this one of several hosts holds.

    `data` describes the training data for the record, and `origin` the model that the run started
    from, if any.
    """
    params = evaluation_params(config.optimizer, state.optimizer, state.params)
    rest = {"optimizer": state.optimizer, **_rest(state)}
    if params is not state.params:
        rest["trained_params"] = state.params
    return Snapshot(
        step=position.step,
        params=flatten_own(params),
        optimizer=flatten_own(rest),
        state={
            "position": position._asdict(),
            "knobs": {name: _json_number(value) for name, value in knobs._asdict().items()},
            "data": dict(data) | {"seed": config.seed, "next_step": position.step},
            "origin": origin,
        },
        config=to_yaml(config),
        tokenizer=tokenizer,
    )


def from_snapshot(
    snapshot: Snapshot, shapes: TrainState, config: AGIConfig, mesh: Mesh
) -> tuple[TrainState, Knobs, Position]:
    """The state of `snapshot`, placed on `mesh`; it may have been saved on another mesh.

    Raises:
        UserError: the snapshot's config or arrays do not fit.
    """
    check_config(config, snapshot.config, step=snapshot.step)
    averaged = config.optimizer.name == "schedule_free"
    template = {"optimizer": shapes.optimizer, **_rest(shapes)}
    if averaged:
        template["trained_params"] = shapes.params
    rest = unflatten_like(template, snapshot.optimizer)
    params = (
        rest.pop("trained_params") if averaged else unflatten_like(shapes.params, snapshot.params)
    )
    state = TrainState(params=params, **rest)
    state = put(state, state_shardings(shapes, mesh, config.mesh_strategy))
    saved = snapshot.state["knobs"]
    # An older checkpoint lacks the knobs that came later.
    knobs = Knobs.from_config(config)._replace(
        **{name: jnp.asarray(float(value), jnp.float32) for name, value in saved.items()}
    )
    return state, knobs, Position(**snapshot.state["position"])


def check_config(config: AGIConfig, saved: str, *, step: int) -> None:
    """Raises UserError naming the fields in which a run and its checkpoint differ."""
    theirs = build_config(overrides=yaml.safe_load(saved))
    differing = {
        name: values
        for name, values in differences(config, theirs).items()
        if not name.startswith(FREE)
    }
    if differing:
        named = ", ".join(f"{k} is {a!r}, was {b!r}" for k, (a, b) in differing.items())
        raise UserError(
            f"the checkpoint at step {step} was made with another config: {named}; resume with the "
            "values it was made with, or start a new run in another --out"
        )


def _rest(state: TrainState) -> dict[str, Any]:
    names = ("step", "key", "skipped", "loss_scale", "memory")
    return {name: getattr(state, name) for name in names}


def _json_number(value: jax.Array) -> float | str:
    """JSON has no sign for infinity, which `clip_norm` may be; `float` reads the text back."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
