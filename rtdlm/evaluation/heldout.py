"""Held-out loss: a token-weighted mean over a fixed set of batches, bitwise repeatable.

Each batch gives float32 sums on the devices; the host adds them up in float64 in their order.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rtdlm.config import UserError
from rtdlm.data.batch import Batch
from rtdlm.evaluation.sums import TokenSums, score_sums
from rtdlm.models import TMSModel
from rtdlm.parallel import batch_sharding, gathering, under

EvalStep = Callable[[Any, Batch], TokenSums]


@dataclass(frozen=True)
class HeldOut:
    """How well a model predicts held-out text; means over tokens."""

    loss: float
    """Negative log-likelihood [nats a token]."""
    perplexity: float
    """exp(loss)."""
    top1: float
    """Share of tokens that were the model's first choice."""
    top5: float
    """Share of tokens among the model's first five choices."""
    entropy: float
    """Of the predicted distributions [nats]."""
    tokens: int
    """Tokens that were predicted."""
    steps: float | None = None
    """Steps of a controller's core that a token took; None without one."""
    calls: tuple[float, ...] | None = None
    """Calls of each of `controller.calls` by a token; None where there is nothing to call."""


def make_eval_step(model: TMSModel, mesh: Mesh) -> EvalStep:
    """The compiled (parameters, batch) -> sums, without dropout or any regulariser."""

    def step(params: Any, batch: Batch) -> TokenSums:
        with gathering(mesh, model.config.mesh_strategy):
            return score_sums(model.batch_scores(params, batch), batch.weights)

    whole = NamedSharding(mesh, PartitionSpec())
    compiled = jax.jit(step, in_shardings=(None, batch_sharding(mesh)), out_shardings=whole)
    return under(mesh, compiled)


def evaluate(step: EvalStep, params: Any, batches: Iterable[Batch]) -> HeldOut:
    """Means over `batches`, which lie on the devices already.

    Raises:
        UserError: the batches hold no token to predict.
    """
    sums = [step(params, batch) for batch in batches]  # dispatched together, read once
    calls = [np.asarray(one.calls_M) for one in sums if one.calls_M is not None]
    total = {
        name: math.fsum(float(value) for value in column)
        for name, column in zip(TokenSums._fields, zip(*sums, strict=True), strict=False)
        if column[0] is not None and name != "calls_M"
    }
    weight = total.get("weight", 0.0)
    if weight == 0:
        raise UserError(
            "the held-out set holds no token to predict; raise data.held_out_fraction or add text"
        )
    mean = total["nll"] / weight
    return HeldOut(
        loss=mean,
        perplexity=math.inf if mean > 700 else math.exp(mean),
        top1=total["top1"] / weight,
        top5=total["top5"] / weight,
        entropy=total["entropy"] / weight,
        tokens=round(weight),
        steps=total["steps"] / weight if "steps" in total else None,
        calls=tuple(math.fsum(own) / weight for own in zip(*calls, strict=True)) or None,
    )
