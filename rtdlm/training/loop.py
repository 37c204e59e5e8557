"""The loop: step after step until the budget is spent, with nothing slow on the hot path.

The metrics of step t are read after step t + 1 was dispatched, so that the devices never wait for
the host. Steps are numbered by how many are done: step 1 is the first.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rtdlm.checkpoint import CheckpointStore
from rtdlm.config import AGIConfig
from rtdlm.data import Batch, Loader, Warmup, prefetch
from rtdlm.disk import replace_file
from rtdlm.evaluation import TrainingEvaluator, gradient_health
from rtdlm.evaluation.pricing import BATCHES as PRICING_BATCHES
from rtdlm.models.layers import layer_plans
from rtdlm.monitoring import (
    CheckpointSaved,
    EvalFinished,
    Event,
    Meter,
    Notice,
    StepFinished,
)
from rtdlm.parallel import Peers, Watchdog
from rtdlm.training.budget import Budget
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import evaluation_params
from rtdlm.training.saving import Position, to_snapshot
from rtdlm.training.source import Origin
from rtdlm.training.state import TrainState
from rtdlm.training.step import Metrics, TrainStep
from rtdlm.training.stop import StopRequest
from rtdlm.training.usage import expert_values

EVALUATION_FILE = "evaluation.json"
TURNS_KEPT = 16
"""Steps for which a decision is kept: no process is as far behind."""
WAKE_STEPS = 10
"""Steps after which zero-initialised outputs let gradients through."""


class Parts(NamedTuple):
    """What a loop is made of; nothing here changes while it runs."""

    config: AGIConfig
    step: TrainStep
    loader: Loader
    place: Callable[[int], Any]
    """The batch of a step on the devices."""
    place_knobs: Callable[[Knobs], Any]
    evaluator: TrainingEvaluator
    pricing: Callable[[Any, Sequence[Batch]], Any]
    """Parameters with the prices of a compute controller's strategies."""
    store: CheckpointStore
    budget: Budget
    peers: Peers
    emit: Callable[[Event], None]
    meter: Meter
    tokenizer: bytes | None
    origin: Origin | None
    """Of the model that the run started from."""
    out: Path


class Pending(NamedTuple):
    """A step that was dispatched and whose metrics are not read yet."""

    step: int
    metrics: Metrics


class Turn(NamedTuple):
    """What a step and what follows it go by, the same in all processes."""

    seconds: float
    """Wall time spent [seconds]."""
    signal: str | None
    """The one that asked for the end."""


class End(NamedTuple):
    """Why a session ended; an incomplete run can be resumed."""

    reason: str
    complete: bool


class Loop:
    """Owns the state between the first step and the last."""

    def __init__(self, parts: Parts, state: TrainState, knobs: Knobs, position: Position) -> None:
        self.parts = parts
        self.state = state
        self.knobs = parts.place_knobs(knobs)
        self.position = position
        self._warmup = Warmup(parts.config)
        self._pending: Pending | None = None
        self._norms: dict[str, jax.Array] = {}
        self._speed: dict[str, float] = {}
        self._saved_step = position.step
        self._evaluated_step = -1
        self._before = position.seconds
        self._trained = position.trained_seconds
        self._started = self._reported = time.monotonic()
        self._turn = Turn(position.seconds, None)
        self._told_stop = False

    def run(self, *, stop: StopRequest, watchdog: Watchdog) -> End:
        """Trains until the budget is spent, patience ends or a signal comes, and saves.

        Args:
            stop: entered until everything is told, since a signal may come to the last save.
            watchdog: entered until then, too; fed after every step, evaluation and save.
        """
        depth = self.parts.config.data.prefetch
        with prefetch(self.parts.place, self.position.step, depth) as batches:
            end = None
            while end is None:
                self._turn = self._agree(stop)
                self._advance(next(batches))
                watchdog.feed()
                if self._due(self.parts.config.evaluation.every_steps) or self._budget_is_spent():
                    self._evaluate()
                    watchdog.feed()
                if self._due(self.parts.config.checkpoint.every_steps):
                    self._save()
                    watchdog.feed()
                self._announce_saved()
                end = self._end()
        self._report()
        watchdog.feed()
        self._save()
        watchdog.feed()
        self.parts.store.wait()
        watchdog.feed()
        self._announce_saved()
        return end

    @property
    def seconds(self) -> float:
        """Wall time spent, over all sessions of the run [seconds]."""
        return self._before + time.monotonic() - self._started

    def _agree(self, stop: StopRequest) -> "Turn":
        """What this process sees, or what the first of several decides for all.

        Clocks differ, and a signal may come to one alone; what follows from them must not.
        """
        peers, step = self.parts.peers, self.position.step
        if stop.requested and peers.count > 1 and not self._told_stop:
            peers.say(f"stop/{peers.process}", stop.requested)
            self._told_stop = True
        told = peers.said("stop") if peers.leads else {}
        named = stop.requested or next(iter(told.values()), None)
        if peers.leads and step >= TURNS_KEPT:
            peers.forget(f"turn/{step - TURNS_KEPT}")
        return Turn(*peers.follow(f"turn/{step}", Turn(self.seconds, named)))

    def _advance(self, batch: Any) -> None:
        step, seconds = self.position.step, self._turn.seconds
        fraction = self.parts.budget.fraction(step=step, seconds=seconds)
        self.state, metrics = self.parts.step(
            self.state, batch, self.knobs, np.asarray(fraction, np.float32)
        )
        self._report()
        self.position = self.position._replace(step=self.position.step + 1)
        self._pending = Pending(self.position.step, metrics)

    def _report(self) -> None:
        """Reads and tells the metrics of the step before; waits until that step is done."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        self._norms = metrics.layer_grad_norms
        values = jax.device_get(metrics._replace(layer_grad_norms={}))
        now = time.monotonic()
        self._trained += now - self._reported
        self._reported = now
        if values.skipped:
            problem = gradient_health(self._gradient_norms()).summary()
            self.parts.emit(Notice(step, "warning", f"step {step}: update skipped, {problem}"))
        tokens = self._warmup.tokens_before(step)
        self._speed = self.parts.meter.update(seconds=self._trained, tokens=tokens)
        told = metric_values(values, self.parts.config) | self._speed
        self.parts.emit(StepFinished(step, told, self._trained, tokens))

    def _gradient_norms(self) -> dict[str, np.ndarray]:
        return {path: np.asarray(norm) for path, norm in self._norms.items()}

    def _due(self, every: int) -> bool:
        return self.position.step % every == 0

    def _evaluate(self) -> None:
        self._report()
        step, evaluator = self.position.step, self.parts.evaluator
        if self.parts.config.use_compute_controller:
            # On rows that come next, which nothing was trained on yet.
            coming = [self.parts.loader.batch(step + ahead) for ahead in range(PRICING_BATCHES)]
            priced = self.parts.pricing(self.state.params, coming)
            self.state = replace(self.state, params=priced)
        params = evaluation_params(
            self.parts.config.optimizer, self.state.optimizer, self.state.params
        )
        held_out = evaluator.evaluate(params)
        before = math.inf if self.position.best_loss is None else self.position.best_loss
        best = held_out.loss < before  # never so for NaN
        if best:
            self.position = self.position._replace(
                best_loss=held_out.loss, best_step=step, bad_evaluations=0
            )
        else:
            bad = self.position.bad_evaluations + 1
            self.position = self.position._replace(bad_evaluations=bad)
        health = gradient_health(self._gradient_norms())
        report = evaluator.report(
            held_out,
            step=step,
            health=health,
            tokens_per_second=self._speed.get("tokens_per_second"),
        )
        # Behind outputs that start at zero nothing arrives at first, and little soon after.
        waking = self.parts.config.zero_init_outputs and step < WAKE_STEPS
        if health.not_finite or not (health.healthy or waking):
            self.parts.emit(Notice(step, "warning", f"step {step}: {health.summary()}"))
        if self.parts.peers.leads:
            text = json.dumps(report, indent=1).encode()
            replace_file(self.parts.out / EVALUATION_FILE, text)
        values = {k: float(v) for k, v in report["held_out"].items() if v is not None}
        self.parts.emit(EvalFinished(step, values, best))
        self._evaluated_step = step
        self._reported = time.monotonic()  # evaluation is no training time
        if best:
            self._save()

    def _save(self) -> None:
        step = self.position.step
        if self._saved_step == step:
            return
        self._report()
        self.parts.store.wait()
        self.position = self.position._replace(seconds=self.seconds, trained_seconds=self._trained)
        snapshot = to_snapshot(
            self.state,
            self.knobs,
            self.position,
            self.parts.config,
            data={"fingerprint": self.parts.loader.fingerprint},
            tokenizer=self.parts.tokenizer,
            origin=self.parts.origin,
        )
        self.parts.store.save(snapshot, best=self.position.best_step == step)
        self._saved_step = step

    def _announce_saved(self) -> None:
        for saved in self.parts.store.poll():
            self.parts.emit(CheckpointSaved(saved.step, str(saved.path), saved.best))

    def _budget_is_spent(self) -> bool:
        return self.parts.budget.spent(step=self.position.step, seconds=self._turn.seconds)

    def _end(self) -> End | None:
        patience = self.parts.config.evaluation.patience
        if patience and self.position.bad_evaluations >= patience:
            return End(f"no better held-out loss in {patience} evaluations", complete=True)
        if self._evaluated_step == self.position.step and self._budget_is_spent():
            return End("the budget is spent", complete=True)
        signal = self._turn.signal
        return End(f"stopped by {signal}", complete=False) if signal else None


def metric_values(metrics: Metrics, config: AGIConfig) -> dict[str, float]:
    """One step's metrics under the names that logs carry; `loss` is the mean log-likelihood."""
    tokens = metrics.means.tokens
    values = {
        "loss": tokens.nll,
        "objective": metrics.means.objective,
        "top1": tokens.top1,
        "top5": tokens.top5,
        "entropy": tokens.entropy,
        "gradient_norm": metrics.grad_norm,
        "learning_rate": metrics.learning_rate,
        "weight": metrics.weight,
        "skipped": metrics.skipped,
        "loss_scale": metrics.loss_scale,
    }
    if metrics.means.depths is not None:
        values |= {f"depths_{k}": v for k, v in metrics.means.depths._asdict().items()}
    if metrics.means.graphs is not None:
        values |= {f"graph_{k}": v for k, v in metrics.means.graphs._asdict().items()}
    if metrics.means.compute is not None:
        compute = metrics.means.compute._asdict().items()
        values |= {f"compute_{k}": v for k, v in compute if v is not None}
    if metrics.means.spikes is not None:
        values |= {f"spikes_{k}": v for k, v in metrics.means.spikes._asdict().items()}
    if metrics.means.memory is not None:
        memory = metrics.means.memory._asdict().items()
        values |= {f"memory_{k}": v for k, v in memory if v is not None}
    told = {name: float(value) for name, value in values.items()}
    if metrics.means.experts is None:
        return told
    plans = enumerate(layer_plans(config), start=1)
    return told | expert_values(
        metrics.means.experts, [number for number, plan in plans if plan.experts]
    )
