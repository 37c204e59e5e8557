"""One model of a study of memory: trained in this process on growing rows, then tested on others.

What is minimised is the mean loss of the tokens that count, over all sessions of a row together:
the memory goes from one session to the next, less the tiers that are cleared in between, and the
gradient goes back through it. Sides of a study differ in their memory alone; what a side has fewer
parameters than the largest, its feed-forward layers are wider.

Axes: B batch, T time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.child import Timer
from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import loss_terms
from rtdlm.training.optimizer import Progress, make_optimizer
from studies.first_weights import take_over
from studies.memory_tasks import Sessions, Task
from studies.variants import Tree, merged

WHOLE_ROW = -1
"""As `memory.episodic_slots` or `summary_slots`: enough for the row, however long."""
APART = 0.01
"""Parameters of two sides differ by at most this [fraction]."""

NONE: Tree = {
    "stm_window": 0, "recurrent": "none", "episodic_slots": 0, "summary_slots": 0,
    "task_tokens": 0,
}  # fmt: skip
STM: Tree = {"stm_window": 64}
RECURRENT: Tree = {"recurrent": "gated_delta"}
EPISODIC: Tree = {"episodic_slots": WHOLE_ROW, "episodic_top_k": 8}
SUMMARIES: Tree = {"summary_slots": WHOLE_ROW, "summary_chunk": 4}
TASK: Tree = {"task_tokens": 8}
"""Tiers, as fields of `memory`; each on top of `NONE`."""

BASE: Tree = {
    "d_model": 64, "num_layers": 1, "num_heads": 2, "d_ff": 128, "attention_type": "mha",
    "position_encoding": "none", "short_conv": 4, "feedforward": "relu2",
    "zero_init_outputs": True, "precision": {"compute": "float32"},
    "optimizer": {
        "name": "muon", "learning_rate": 0.03, "adam_learning_rate": 0.03, "schedule": "linear",
        "warmup_steps": 0, "weight_decay": 0.0,
    },
}  # fmt: skip
"""The model that all sides share."""
SMALL: Tree = {**BASE, "d_model": 32, "d_ff": 32}
"""For smoke runs; a feature of its feed-forward layer is below a hundredth of its parameters."""


class Stage(NamedTuple):
    """Part of a curriculum."""

    segments: int
    """Of a row, or of each of its sessions."""
    rows: int
    steps: int


def with_memory(base: Tree, *tiers: Tree) -> Tree:
    """`base` with these tiers and no others."""
    memory: Tree = NONE
    for tier in tiers:
        memory = merged(memory, tier)
    return merged(base, {"memory": memory})


def fitted(tree: Tree, task: Task, *, segments: int) -> AGIConfig:
    """The configuration for rows of so many segments; parameters do not depend on them."""
    length = segments * task.segment
    own: Tree = {"vocab_size": task.vocab_size, "max_seq_len": length}
    if "memory" in tree:
        memory: dict[str, Any] = {"segment": task.segment}
        given = tree["memory"]
        if given.get("episodic_slots") == WHOLE_ROW:
            memory["episodic_slots"] = length
        if given.get("summary_slots") == WHOLE_ROW:
            memory["summary_slots"] = length // given["summary_chunk"]
        own = {**own, "memory": memory}
    return AGIConfig.from_dict(merged(tree, own))


def matched(sides: Mapping[str, Tree], task: Task) -> dict[str, Tree]:
    """`sides` with feed-forward layers widened until all have the parameters of the largest."""

    def parameters(tree: Tree) -> int:
        return count_parameters(fitted(tree, task, segments=1)).total

    most = max(map(parameters, sides.values()))
    found: dict[str, Tree] = {}
    for name, tree in sides.items():
        one = parameters({**tree, "d_ff": tree["d_ff"] + 1}) - parameters(tree)
        wider = tree["d_ff"] + round((most - parameters(tree)) / one)
        found[name] = {**tree, "d_ff": wider}
        assert abs(parameters(found[name]) / most - 1) <= APART, name
    return found


class Trained(NamedTuple):
    """One side with one seed."""

    params: Any
    cpu: float
    """Of training alone [seconds]."""


class Run:
    """One side of a study with its compiled steps."""

    def __init__(
        self, tree: Tree, task: Task, *, cleared: Sequence[str] = (), plain: Tree | None = None
    ) -> None:
        """
        Args:
            tree: the side.
            task: what it is trained on.
            cleared: tiers of memory that a training row clears between its sessions.
            plain: the side whose first weights it begins with (`first_weights`); None is itself.
        """
        self._tree, self._task, self._cleared = tree, task, tuple(cleared)
        self._plain = None if plain in (None, tree) else Run(plain, task)
        self.config = fitted(tree, task, segments=1)
        self._optimizer = make_optimizer(self.config.optimizer)
        self._knobs = Knobs.from_config(self.config)
        self.model = cache(self._new_model)
        """The model for rows of so many segments."""
        self._steps = cache(self._new_step)
        self._scores = cache(lambda segments: jax.jit(self.model(segments).scores))

    @property
    def parameters(self) -> int:
        """Of the model."""
        return count_parameters(self.config).total

    def first(self, seed: int) -> Any:
        """Weights before training."""
        own = jax.jit(self.model(1).init)(jax.random.key(seed))
        plain = self._plain
        if plain is None:
            return own
        return jax.device_put(take_over(plain.first(seed), plain.config, own, self.config))

    def train(self, seed: int, stages: Iterable[Stage]) -> Trained:
        """Trains fresh weights through all stages."""
        stages = list(stages)
        random = np.random.default_rng(seed)
        params = self.first(seed)
        moved = jax.jit(self._optimizer.init)(params)
        whole, number = sum(stage.steps for stage in stages), 0
        timer = Timer()
        for segments, rows, steps in stages:
            step = self._steps(segments)
            for _ in range(steps):
                drawn = self._task.draw(random, rows=rows, segments=segments, training=True)
                progress = Progress(jnp.int32(number), jnp.float32(number / whole))
                params, moved, _ = step(params, moved, drawn, progress)
                number += 1
        jax.block_until_ready(params)
        return Trained(params, timer.read().cpu)

    def right(
        self,
        params: Any,
        *,
        segments: int,
        rows: int,
        task: Task | None = None,
        cleared: Sequence[str] | None = None,
        together: bool = False,
        batch_tokens: int = 65_536,
    ) -> float:
        """Share of right answers on rows that no seed of training draws, the same for all sides.

        Args:
            params: as trained.
            segments: of a row, or of each of its sessions.
            rows: at least so many are judged.
            task: None is the one trained on.
            cleared: tiers of memory cleared between sessions; None are those of training.
            together: a row is right if all its answers are.
            batch_tokens: of the rows judged at once; fewer need less memory.
        """
        task = self._task if task is None else task
        judge = self._judge(segments, self._cleared if cleared is None else cleared)
        random = np.random.default_rng(2**32 + segments)
        batch = min(rows, max(1, batch_tokens // (segments * task.segment)))
        found: list[np.ndarray] = []
        for _ in range(-(-rows // batch)):
            drawn = task.draw(random, rows=batch, segments=segments, training=False)
            for session, (right_BT, _) in zip(drawn, judge(params, drawn), strict=True):
                for right_T, asked_T in zip(np.asarray(right_BT), session.asked_BT, strict=True):
                    answers = right_T[asked_T]
                    found += [answers.min(keepdims=True) if together and answers.size else answers]
        return float(np.concatenate(found).mean())

    def losses(self, params: Any, batches: Iterable[Sessions], *, segments: int) -> np.ndarray:
        """Mean loss of each segment of a row, over all rows [nats a token]."""
        judge = self._judge(segments, self._cleared)
        found = []
        for drawn in batches:
            nll_BT = np.asarray(judge(params, drawn)[-1][1], np.float64)
            found.append(nll_BT.reshape(len(nll_BT), segments, -1).mean(-1))
        return np.concatenate(found).mean(0)

    def _new_model(self, segments: int) -> TMSModel:
        return TMSModel(fitted(self._tree, self._task, segments=segments))

    def _new_step(self, segments: int) -> Callable[..., tuple[Any, Any, jax.Array]]:
        model, optimizer, knobs = self.model(segments), self._optimizer, self._knobs

        def step(
            params: Any, moved: Any, drawn: Sessions, progress: Progress
        ) -> tuple[Any, Any, jax.Array]:
            def loss(params: Any) -> jax.Array:
                return training_loss(model, params, drawn, knobs, cleared=self._cleared)

            value, grads = jax.value_and_grad(loss)(params)
            params, moved = update(optimizer, knobs, progress, params, moved, grads)
            return params, moved, value

        return jax.jit(step, donate_argnums=(0, 1))

    def _judge(
        self, segments: int, cleared: Sequence[str]
    ) -> Callable[..., list[tuple[jax.Array, jax.Array]]]:
        # Session by session, so that whatever is cleared between them is the same program.
        scores_of = self._scores(segments)

        def judge(params: Any, drawn: Sessions) -> list[tuple[jax.Array, jax.Array]]:
            found = sessions_scores(scores_of, params, drawn, cleared=cleared)
            return [(scores.tokens.top1, scores.tokens.nll) for scores in found]

        return judge


def update(
    optimizer: optax.GradientTransformationExtraArgs,
    knobs: Knobs,
    progress: Progress,
    params: Any,
    moved: Any,
    grads: Any,
) -> tuple[Any, Any]:
    """Parameters and moments after one step along clipped gradients."""
    clip = jnp.minimum(1.0, knobs.clip_norm / (optax.tree.norm(grads) + 1e-12))
    grads = jax.tree.map(lambda grad: grad * clip, grads)
    updates, moved = optimizer.update(grads, moved, params, knobs=knobs, progress=progress)
    return optax.apply_updates(params, updates), moved


def training_loss(
    model: Any, params: Any, drawn: Sessions, knobs: Knobs, *, cleared: Sequence[str]
) -> jax.Array:
    """Mean loss of the tokens that count, over all sessions [nats]."""
    weight = sum(jnp.sum(session.weights_BT) for session in drawn)
    terms = [
        loss_terms(session.weights_BT, knobs, scale=1.0 / jnp.maximum(weight, 1.0))
        for session in drawn
    ]
    found = sessions_scores(model.scores, params, drawn, cleared=cleared, terms=terms)
    return sum(scores.objective for scores in found) / jnp.maximum(weight, 1.0)


def sessions_scores(
    scores_of: Callable[..., Any],
    params: Any,
    drawn: Sessions,
    *,
    cleared: Sequence[str],
    terms: Sequence[Any] | None = None,
) -> list[Any]:
    """Scores of each session, which begins with what memory the one before it left.

    `scores_of` is a model's `scores`.
    """
    found: list[Any] = []
    for number, session in enumerate(drawn):
        own: dict[str, Any] = {} if terms is None else {"terms": terms[number]}
        if found:
            memory = found[-1].memory
            assert memory is not None, "sessions need a memory"
            own["memory"] = without(memory, cleared)
        found.append(scores_of(params, session.ids_BT, session.labels_BT, **own))
    return found


def without(memory: Any, tiers: Sequence[str]) -> Any:
    """`memory` with these tiers cleared."""
    if not tiers:
        return memory
    from rtdlm.models.memory import reset

    return reset(memory, tiers=tuple(tiers))
