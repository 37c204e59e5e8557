"""`TrainingEvaluator`: one structured answer to "how is this run doing?".

evaluator = TrainingEvaluator(model, batches, mesh=mesh)
held_out = evaluator.evaluate(params)
report = evaluator.report(held_out, step=100, health=gradient_health(norms))
print(json.dumps(report))
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jax.sharding import Mesh

from rtdlm.data.batch import Batch
from rtdlm.evaluation.gradients import GradientHealth
from rtdlm.evaluation.heldout import HeldOut, evaluate, make_eval_step
from rtdlm.models import TMSModel
from rtdlm.monitoring import plain_json
from rtdlm.parallel import batch_sharding, put


class TrainingEvaluator:
    """Measures a model on a fixed held-out set; the same parameters give the same bits."""

    def __init__(
        self,
        model: TMSModel,
        batches: Sequence[Batch],
        *,
        mesh: Mesh,
        bytes_per_token: float | None = None,
    ) -> None:
        """
        Args:
            model: what is evaluated.
            batches: the held-out set, placed on the devices once.
            mesh: where parameters and batches lie.
            bytes_per_token: of the held-out text, for bits a byte, which compares models with
                different tokenizers; None leaves that out.
        """
        self._step = make_eval_step(model, mesh)
        self._batches = [put(batch, batch_sharding(mesh)) for batch in batches]
        self._bytes_per_token = bytes_per_token
        self._called = model.config.called

    def evaluate(self, params: Any) -> HeldOut:
        """Loss, perplexity and accuracy on the held-out set."""
        return evaluate(self._step, params, self._batches)

    def compile(self, params: Any) -> None:
        """Compiles the evaluation, so that timing what follows times the evaluation alone."""
        evaluate(self._step, params, self._batches[:1])

    def report(
        self,
        held_out: HeldOut,
        *,
        step: int,
        health: GradientHealth | None = None,
        tokens_per_second: float | None = None,
    ) -> dict[str, Any]:
        """What was measured at `step` as plain JSON values; what was not is None.

        JSON has no signs for what is not finite: these are strings that `float` reads.
        """
        report = {
            "step": step,
            "held_out": self._means(held_out),
            "gradients": None if health is None else asdict(health),
            "tokens_per_second": tokens_per_second,
        }
        return {name: plain_json(value) for name, value in report.items()}

    def _means(self, held_out: HeldOut) -> dict[str, float | None]:
        """A number a name; `calls_quantum` and the like in place of `calls`."""
        means = asdict(held_out) | {"bits_per_byte": self.bits_per_byte(held_out)}
        calls = means.pop("calls") or ()
        return means | {f"calls_{k}": v for k, v in zip(self._called, calls, strict=True)}

    def bits_per_byte(self, held_out: HeldOut) -> float | None:
        """loss / ln 2 / bytes a token: what the model needs to code a byte of the text [bits]."""
        if self._bytes_per_token is None:
            return None
        return held_out.loss / math.log(2) / self._bytes_per_token
