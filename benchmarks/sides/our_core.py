"""One strategy of a model with a compute controller, forward over one batch.

Axes: B batch, T time.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Answer, Spec, time_blocks
from benchmarks.ours.characters import packed
from rtdlm.config import STRATEGIES, AGIConfig
from rtdlm.data.batch import Batch
from rtdlm.evaluation import Pricing, with_price
from rtdlm.models import TMSModel
from rtdlm.models.core import tile_of
from rtdlm.models.tms import Params, with_strategy
from rtdlm.parallel import make_mesh


def measure(spec: Spec) -> Answer:
    """Times one strategy, or the preset without a controller.

    Spec: `kind`, `preset`, `core_layers`, `max_steps`, `overrides`, `seconds`. Answer: `wall` and
    `cpu` of a batch [s], `flops` of it, and `steps` a token.
    """
    kind = spec["kind"]
    plain = AGIConfig.from_preset(spec["preset"], **spec["overrides"])
    own = {"core_layers": spec["core_layers"], "max_steps": spec["max_steps"]}
    config = plain.replace(use_compute_controller=True, controller=own)
    model = TMSModel(plain) if kind == "plain" else with_strategy(TMSModel(config), kind)
    params, batch = fresh(model), batch_of(plain)
    if kind in ("fast", "balanced"):
        found = Pricing(model, mesh=make_mesh(plain.mesh, jax.devices()[:1])).price_for(
            params, [batch], budget=STRATEGIES[kind].budget
        )
        params = with_price(params, kind, found.price)
    run = jax.jit(lambda params, batch: model.batch_scores(params, batch))
    scores = run(params, batch)

    def advance(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(run(params, batch))

    steps_BT = np.zeros(batch.labels.shape)
    if scores.spent is not None:
        steps_BT = np.asarray(scores.spent.steps_BT)
    told = {"flops": flops(model, batch, steps_BT), "steps": float(steps_BT.mean())}
    return time_blocks(advance, seconds=spec["seconds"]) | told


def fresh(model: TMSModel) -> Params:
    """Random parameters; of a policy's, those that make it listen to the price."""
    params: Any = dict(jax.jit(model.init)(jax.random.key(0)))
    path = "decoder/core/controller"
    if f"{path}/told" in params:
        decide_HO = 4.0 * params[f"{path}/decide"]["w"]
        told_FH = params[f"{path}/told"]["w"].at[0].set(2.0 * jnp.sign(decide_HO[:, 0]))
        params[f"{path}/told"] = {"w": told_FH}
        params[f"{path}/decide"] = {**params[f"{path}/decide"], "w": decide_HO}
    return params


def batch_of(config: AGIConfig) -> Batch:
    """Random tokens."""
    shape = (config.batch_size, config.max_seq_len)
    ids_BT, labels_BT = np.random.default_rng(0).integers(config.vocab_size, size=(2, *shape))
    return packed(ids_BT, labels_BT, np.ones(config.batch_size))


def flops(model: TMSModel, batch: Batch, steps_BT: np.ndarray) -> float:
    """Operations of a batch: the compiler's count of one step, for the tiles that are run."""
    if not model.config.use_compute_controller:
        return counted(model, batch)
    one, two = (
        counted(with_strategy(_of_steps(model, count), "thorough"), batch) for count in (2, 3)
    )
    step, length = two - one, steps_BT.shape[1]
    tile, total = tile_of(length), one - 2 * step
    for number in range(model.config.controller.steps):
        most = int((steps_BT > number).sum(axis=1).max())
        total += step * min(length, -(-most // tile) * tile) / length
    return total


def counted(model: TMSModel, batch: Batch) -> float:
    """The compiler's count, the head in one chunk: the body of a loop is counted once."""
    model = TMSModel(model.config.replace(loss={"chunk_size": model.config.max_seq_len}))
    compiled = jax.jit(model.batch_scores).lower(model.shapes, batch).compile()
    counts = compiled.cost_analysis()
    assert counts is not None
    return float(counts["flops"])


def _of_steps(model: TMSModel, steps: int) -> TMSModel:
    return TMSModel(model.config.replace(controller={"max_steps": steps}))
