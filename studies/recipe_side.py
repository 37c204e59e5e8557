"""One variant of the recipe study: what its step costs, then what it learns for that.

The cost of a step is measured beside the base's, block by block, so that a slow moment of the
machine meets both; the variant is then trained, once a seed, for as many steps as the CPU time of
the base's run pays for, its decay planned for that many. Where steps grow, each of their sizes is
measured.

Axes: B batch, T time, N the text.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Timer
from benchmarks.ours.characters import held_out_loss, random_batch
from benchmarks.text import CharacterText, Windows, read_characters, windows
from rtdlm.config import AGIConfig
from rtdlm.data import Warmup, train_bpe
from rtdlm.evaluation import make_eval_step
from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters
from rtdlm.parallel import keep_compiled_programs, make_mesh
from rtdlm.training.allocator import keep_freed_memory
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.state import TrainState, init_state
from rtdlm.training.step import make_train_step
from studies.variants import Size, Tree

ROUNDS = 15
BLOCK_SECONDS = 0.05


class Answer(NamedTuple):
    """One variant over all seeds."""

    losses: list[float]
    """Over the whole held-out part [nats a token]."""
    cpu_seconds: list[float]
    """Of training alone."""
    steps: int
    relative_costs: list[float]
    """CPU time of a step over the base's, round by round."""
    parameters: int


class Bench:
    """Measures variants of one base on one text."""

    def __init__(self, path: Path, size: Size, *, seeds: Sequence[int]) -> None:
        keep_freed_memory()
        keep_compiled_programs()
        text = read_characters(path)
        self._text = read_words(path, size.config["vocab_size"]) if size.words else text
        self._base = Run(self._text, size.config)
        self._steps, self._seeds = size.steps, seeds
        # All are judged alike, whatever the length that they were trained at.
        self._held_out = windows(self._text.held_out_N, length=self._base.config.max_seq_len)

    def base(self) -> Answer:
        """The base itself."""
        self._base.advance(self._base.start(0), np.random.default_rng(0), [0])  # compiles
        return self._answer(self._base, {0: [1.0]})

    def variant(self, tree: Tree) -> Answer:
        """A variant, for the CPU time of the base."""
        run = Run(self._text, tree)
        costs = {start: relative_costs(self._base, run, at=start) for start in run.warmup.starts}
        return self._answer(run, costs)

    def _answer(self, run: "Run", costs: dict[int, list[float]]) -> Answer:
        """`costs` are those of a step from each step on, relative to the base's, by round."""
        middling = {start: median(rounds) for start, rounds in costs.items()}
        steps = affordable(middling, self._steps)
        found = [run.train(seed, steps=steps, held_out=self._held_out) for seed in self._seeds]
        losses, seconds = (list(column) for column in zip(*found, strict=True))
        rounds = zip(*costs.values(), strict=True)
        means = [mean_cost(dict(zip(costs, found, strict=True)), steps) for found in rounds]
        return Answer(losses, seconds, steps, means, count_parameters(run.config).total)


class Run:
    """A configuration with its compiled step."""

    def __init__(self, text: CharacterText, tree: Tree) -> None:
        self._train_N = text.train_N
        self.config = AGIConfig.from_dict({**tree, "vocab_size": text.vocab_size})
        self.warmup = Warmup(self.config)
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
        self,
        state: TrainState,
        random: np.random.Generator,
        steps: Sequence[int],
        *,
        of: int | None = None,
    ) -> TrainState:
        """The named steps at a middling rate, or as steps of a run `of` so many."""
        for step in steps:
            fraction = jnp.float32(0.5 if of is None else step / of)
            batch = random_batch(self._train_N, random, self.config, step=step)
            state, _ = self._step(state, batch, self._knobs, fraction)
        return jax.block_until_ready(state)

    def train(self, seed: int, *, steps: int, held_out: Windows) -> tuple[float, float]:
        """Loss over the whole held-out part [nats a token] and CPU time of training [s]."""
        state, random = self.start(seed), np.random.default_rng(seed)
        timer = Timer()
        state = self.advance(state, random, range(steps), of=steps)
        seconds = timer.read().cpu
        return held_out_loss(self._judge, state.params, held_out), seconds


def read_words(path: Path, vocab_size: int) -> CharacterText:
    """The text of `path` in byte-pair tokens, which its first nine tenths decide."""
    text = path.read_text(encoding="utf-8")
    split = int(0.9 * len(text))
    parts = text[:split], text[split:]
    tokenizer = train_bpe(parts[:1], vocab_size)
    train_N, held_out_N = (tokenizer.encode(part).astype(np.int64) for part in parts)
    return CharacterText(train_N, held_out_N, tokenizer.vocab_size)


def affordable(costs: Mapping[int, float], budget: float) -> int:
    """Steps that cost `budget` together, at least one.

    Args:
        costs: of a step, by the step from which on it is that.
        budget: in the same unit.
    """
    *growing, whole = sorted(costs)
    spent = 0.0
    for start, end in pairwise([*growing, whole]):
        taken = min(end - start, max(0, round((budget - spent) / costs[start])))
        spent += taken * costs[start]
        if taken < end - start:
            return max(1, start + taken)
    return max(1, whole + round((budget - spent) / costs[whole]))


def mean_cost(costs: Mapping[int, float], steps: int) -> float:
    """Of one of the first `steps` steps, where `costs` says what one costs from a step on."""
    spans = pairwise([*sorted(costs), max(steps, *costs)])
    return sum(costs[start] * max(0, min(end, steps) - start) for start, end in spans) / steps


def relative_costs(base: Run, run: Run, *, at: int = 0) -> list[float]:
    """CPU time of step `at` of `run` over one of the base, round by round."""
    random = np.random.default_rng(0)
    sides, places = (base, run), (base.warmup.starts[-1], at)
    states = [
        side.advance(side.start(0), random, [place])
        for side, place in zip(sides, places, strict=True)
    ]
    timer = Timer()
    states[0] = base.advance(states[0], random, [places[0]] * 2)
    count = max(1, round(BLOCK_SECONDS / max(timer.read().cpu / 2, 1e-6)))
    ratios = []
    for _ in range(ROUNDS):
        costs = []
        for number, (side, place) in enumerate(zip(sides, places, strict=True)):
            timer = Timer()
            states[number] = side.advance(states[number], random, [place] * count)
            costs.append(timer.read().cpu)
        ratios.append(costs[1] / costs[0])
    return ratios
