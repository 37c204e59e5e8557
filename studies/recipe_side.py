"""One variant of the recipe study: what its step costs, then what it learns for that.

The cost of a step is measured beside the base's, block by block, so that a slow moment of the
machine meets both; the variant is then trained, once a seed, for as many steps as the CPU time of
the base's run pays for, its decay planned for that many.

Axes: B batch, T time, N the text.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Timer
from benchmarks.text import CharacterText, Windows, read_characters, windows
from rtdlm.config import AGIConfig
from rtdlm.data import Batch
from rtdlm.evaluation import make_eval_step
from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters
from rtdlm.parallel import keep_compiled_programs, make_mesh
from rtdlm.training.allocator import keep_freed_memory
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.state import TrainState, init_state
from rtdlm.training.step import make_train_step
from studies.variants import Tree

EVALUATION_ROWS = 128
ROUNDS = 15
BLOCK_SECONDS = 0.05


class Answer(NamedTuple):
    """One variant over all seeds."""

    losses: list[float]
    """Over the whole held-out part [nats a character]."""
    cpu_seconds: list[float]
    """Of training alone."""
    steps: int
    relative_costs: list[float]
    """CPU time of a step over the base's, round by round."""
    parameters: int


class Bench:
    """Measures variants of one base on one text."""

    def __init__(self, path: Path, base: Tree, *, steps: int, seeds: Sequence[int]) -> None:
        """`steps` are those of the base."""
        keep_freed_memory()
        keep_compiled_programs()
        self._text = read_characters(path)
        self._base, self._steps, self._seeds = Run(self._text, base), steps, seeds
        # All are judged alike, whatever the length that they were trained at.
        self._held_out = windows(self._text.held_out_N, length=self._base.config.max_seq_len)

    def base(self) -> Answer:
        """The base itself."""
        self._base.advance(self._base.start(0), np.random.default_rng(0), count=1)  # compiles
        return self._answer(self._base, [1.0])

    def variant(self, tree: Tree) -> Answer:
        """A variant, for the CPU time of the base."""
        run = Run(self._text, tree)
        return self._answer(run, relative_costs(self._base, run))

    def _answer(self, run: "Run", costs: list[float]) -> Answer:
        steps = max(1, round(self._steps / median(costs)))
        found = [run.train(seed, steps=steps, held_out=self._held_out) for seed in self._seeds]
        losses, seconds = (list(column) for column in zip(*found, strict=True))
        return Answer(losses, seconds, steps, costs, count_parameters(run.config).total)


class Run:
    """A configuration with its compiled step."""

    def __init__(self, text: CharacterText, tree: Tree) -> None:
        self._train_N = text.train_N
        self.config = AGIConfig.from_dict({"vocab_size": text.vocab_size, **tree})
        self._mesh = make_mesh(self.config.mesh, jax.devices()[:1])
        self._optimizer = make_optimizer(self.config.optimizer)
        model = TMSModel(self.config)
        self._step = make_train_step(model, self._optimizer, self._mesh)
        self._judge = make_eval_step(model, self._mesh)
        self._knobs = Knobs.from_config(self.config)

    def start(self, seed: int) -> TrainState:
        """Fresh weights."""
        return init_state(TMSModel(self.config.replace(seed=seed)), self._optimizer, self._mesh)

    def advance(
        self, state: TrainState, random: np.random.Generator, *, count: int, of: int | None = None
    ) -> TrainState:
        """`count` steps at a middling rate, or a whole run `of` so many."""
        for number in range(count):
            fraction = jnp.float32(0.5 if of is None else number / of)
            batch = random_batch(self._train_N, random, self.config)
            state, _ = self._step(state, batch, self._knobs, fraction)
        return jax.block_until_ready(state)

    def train(self, seed: int, *, steps: int, held_out: Windows) -> tuple[float, float]:
        """Loss over the whole held-out part [nats a character] and CPU time of training [s]."""
        state, random = self.start(seed), np.random.default_rng(seed)
        timer = Timer()
        state = self.advance(state, random, count=steps, of=steps)
        seconds = timer.read().cpu
        return self.loss(state.params, held_out), seconds

    def loss(self, params: Any, held_out: Windows) -> float:
        """Mean over all windows [nats a character]."""
        total, (rows, length) = 0.0, held_out.ids_BT.shape
        for start in range(0, rows, EVALUATION_ROWS):
            # One compiled shape: the last part is filled with rows that do not count.
            place = np.arange(start, start + EVALUATION_ROWS)
            ids_BT, labels_BT = (array[place % rows] for array in held_out)
            total += float(self._judge(params, packed(ids_BT, labels_BT, place < rows)).nll)
        return total / (rows * length)


def relative_costs(base: Run, run: Run) -> list[float]:
    """CPU time of a step of `run` over one of the base, round by round."""
    random = np.random.default_rng(0)
    sides = (base, run)
    states = [side.advance(side.start(0), random, count=1) for side in sides]
    timer = Timer()
    states[0] = base.advance(states[0], random, count=2)
    count = max(1, round(BLOCK_SECONDS / max(timer.read().cpu / 2, 1e-6)))
    ratios = []
    for _ in range(ROUNDS):
        costs = []
        for place, side in enumerate(sides):
            timer = Timer()
            states[place] = side.advance(states[place], random, count=count)
            costs.append(timer.read().cpu)
        ratios.append(costs[1] / costs[0])
    return ratios


def random_batch(train_N: np.ndarray, random: np.random.Generator, config: AGIConfig) -> Batch:
    """Random windows of the text, as the loader would pack them."""
    rows, length = config.batch_size, config.max_seq_len
    starts_B = random.integers(len(train_N) - length, size=rows)
    place_BT = starts_B[:, None] + np.arange(length)
    return packed(train_N[place_BT], train_N[place_BT + 1], np.ones(rows))


def packed(ids_BT: np.ndarray, labels_BT: np.ndarray, weights_B: np.ndarray) -> Batch:
    """A document a row; a row of weight 0 does not count."""
    shape = ids_BT.shape
    return Batch(
        input_ids=ids_BT.astype(np.int32),
        labels=labels_BT.astype(np.int32),
        positions=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
        segment_ids=np.ones(shape, np.int32),
        weights=np.broadcast_to(weights_B[:, None], shape).astype(np.float32),
    )
