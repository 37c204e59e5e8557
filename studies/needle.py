"""`python -m studies needle`: kinds of attention at recalling what stands far behind the window.

A row is noise in which pairs of a key and a value are planted; at its end the keys are asked for in
another order, and each must be answered with its value (associative recall, as in arXiv 2312.04927,
spread over a long row). All pairs stand farther back than any chain of windows reaches, so that a
window alone can only guess. Then all keys are asked for once more, which the answers just given,
within the window, tell: that teaches every kind what a question is. Every kind is trained by the
same steps on the same batches, and only answers count. Told is the share of right answers, far and
near, on rows that were never trained on.

Axes: B batch, T time, P pairs.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Timer
from benchmarks.runner import tell
from rtdlm.config import AGIConfig
from rtdlm.data.batch import Batch
from rtdlm.evaluation import evaluate, make_eval_step
from rtdlm.evaluation.results import Bar, Result
from rtdlm.models import TMSModel
from rtdlm.models.cost import forward_flops_per_token
from rtdlm.parallel import keep_compiled_programs, make_mesh
from rtdlm.training.allocator import keep_freed_memory
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.state import init_state
from rtdlm.training.step import make_train_step

DESCRIPTION = "recall from far behind the window: dense, sliding and sparse attention"
SEEDS = 3
HELD_OUT_BATCHES = 16


class Task(NamedTuple):
    """What a row holds."""

    length: int
    pairs: int
    planted: int
    """Tokens at the row's start among which the pairs stand."""
    keys: int
    values: int
    noise: int
    """Tokens that stand for nothing."""

    @property
    def vocab_size(self) -> int:
        """All tokens: keys, then values, then noise."""
        return self.keys + self.values + self.noise


class Size(NamedTuple):
    """A task, the model that all kinds share, and how long each is trained."""

    task: Task
    config: Mapping[str, Any]
    window: int
    block: int
    chosen: int
    steps: int


WHOLE = Size(
    Task(length=512, pairs=8, planted=384, keys=16, values=16, noise=64),
    {
        "d_model": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "d_ff": 128,
        "batch_size": 16, "feedforward": "relu2", "zero_init_outputs": True,
        "position_encoding": "none", "short_conv": 2, "qk_norm": False,
        "optimizer": {
            "name": "muon", "learning_rate": 0.03, "adam_learning_rate": 0.03,
            "schedule": "linear", "warmup_steps": 0, "weight_decay": 0.0,
        },
    },
    window=32, block=4, chosen=8, steps=300,
)  # fmt: skip
SMOKE = Size(
    Task(length=48, pairs=2, planted=24, keys=4, values=4, noise=4),
    {**WHOLE.config, "d_model": 16, "num_layers": 1, "d_ff": 16, "batch_size": 2},
    window=8, block=4, chosen=2, steps=2,
)  # fmt: skip


class Ran(NamedTuple):
    """One kind with one seed."""

    far: float
    """Share of right answers to questions about what is out of the window's reach [fraction]."""
    near: float
    """The same about what is within the window."""
    cpu: float
    """Of training alone [seconds]."""


def add_flags(parser: ArgumentParser) -> None:
    """This study takes none of its own."""


def file_name(flags: Namespace) -> str | None:
    """Name of the result file."""
    return None if flags.smoke else "needle"


def kinds(size: Size) -> dict[str, Mapping[str, Any]]:
    """Each kind's own fields of the configuration."""
    window = {"window": size.window}
    blocks = {**window, "block": size.block, "chosen": size.chosen}
    keys = {**window, "sparse_form": "topk", "chosen": size.chosen}
    return {
        "sparse": {"attention_type": "sparse", "attention": blocks},
        "sparse, topk": {"attention_type": "sparse", "attention": keys},
        "sliding": {"attention_type": "sliding", "attention": window},
        "gqa": {"attention_type": "gqa"},
    }


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every seed."""
    keep_freed_memory()
    keep_compiled_programs()
    size = SMOKE if flags.smoke else WHOLE
    seeds = flags.seeds or (1 if flags.smoke else SEEDS)
    runs = {name: Run(size, own) for name, own in kinds(size).items()}
    ran: dict[str, list[Ran]] = {name: [] for name in runs}
    for seed in range(seeds):
        for name, run in runs.items():
            ran[name].append(run.train(seed))
            last = ran[name][-1]
            tell(f"{name}, seed {seed}: {last.far:.1%} right, {last.near:.1%} of what is near")
        yield results(size, ran)


def results(size: Size, ran: Mapping[str, list[Ran]]) -> list[Result]:
    """Everything that is told of all kinds, and by what they pass."""
    chance = 100 / size.task.values
    bars: dict[str, Bar] = {"sliding": ("<=", 2 * chance)}
    found = []
    for name, runs in ran.items():
        config = _config(size, kinds(size)[name])
        flops = forward_flops_per_token(config, length=size.task.length)
        bar = bars.get(name, (">=", 90.0))
        found += [
            Result.mean(f"{name}/right, far", [100 * run.far for run in runs], "%", bar=bar),
            Result.mean(f"{name}/right, near", [100 * run.near for run in runs], "%"),
            Result.mean(f"{name}/CPU of training", [run.cpu for run in runs], "s"),
            Result(f"{name}/forward operations a token", float(flops), ""),
        ]
    return [*found, Result("guessing/right, far", chance, "%")]


def draw(task: Task, random: np.random.Generator, rows: int, *, asked: str = "both") -> Batch:
    """Rows with pairs anywhere among the first `planted` tokens, asked for twice at the end.

    What counts are the answers to the first questions (`far`), to the second (`near`), or `both`.
    """
    first_noise, pairs = task.keys + task.values, task.pairs
    ids_BT = random.integers(first_noise, task.vocab_size, size=(rows, task.length + 1))
    weights_BT = np.zeros((rows, task.length), np.float32)
    questions = task.length - 2 * np.arange(2 * pairs, 0, -1)
    for row in range(rows):
        # Places are drawn two tokens at a time, so that no pair covers another.
        place_P = 2 * random.choice(task.planted // 2, size=pairs, replace=False)
        key_P = random.choice(task.keys, size=pairs, replace=False)
        value_P = task.keys + random.integers(task.values, size=pairs)
        order = np.concatenate([random.permutation(pairs) for _ in range(2)])
        ids_BT[row, place_P], ids_BT[row, place_P + 1] = key_P, value_P
        ids_BT[row, questions], ids_BT[row, questions + 1] = key_P[order], value_P[order]
    counted = {"far": questions[:pairs], "near": questions[pairs:], "both": questions}
    weights_BT[:, counted[asked]] = 1.0
    shape = weights_BT.shape
    return Batch(
        input_ids=ids_BT[:, :-1].astype(np.int32),
        labels=ids_BT[:, 1:].astype(np.int32),
        positions=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
        segment_ids=np.ones(shape, np.int32),
        weights=weights_BT,
    )


def _config(size: Size, own: Mapping[str, Any]) -> AGIConfig:
    shared = {"vocab_size": size.task.vocab_size, "max_seq_len": size.task.length}
    return AGIConfig.from_dict({**size.config, **shared, **own})


class Run:
    """One kind of attention with its compiled step."""

    def __init__(self, size: Size, own: Mapping[str, Any]) -> None:
        self._size, self._config = size, _config(size, own)
        self._mesh = make_mesh(self._config.mesh, jax.devices()[:1])
        self._optimizer = make_optimizer(self._config.optimizer)
        model = TMSModel(self._config)
        self._step = make_train_step(model, self._optimizer, self._mesh)
        self._judge = make_eval_step(model, self._mesh)
        self._knobs = Knobs.from_config(self._config)

    def train(self, seed: int) -> Ran:
        """Trains from fresh weights and judges by rows of its own."""
        model = TMSModel(self._config.replace(seed=seed))
        state = init_state(model, self._optimizer, self._mesh)
        random = np.random.default_rng(seed)
        task, rows, steps = self._size.task, self._config.batch_size, self._size.steps
        timer = Timer()
        for number in range(steps):
            batch = draw(task, random, rows)
            state, _ = self._step(state, batch, self._knobs, jnp.float32(number / steps))
        jax.block_until_ready(state)
        cpu = timer.read().cpu
        return Ran(self._right(state.params, "far"), self._right(state.params, "near"), cpu)

    def _right(self, params: Any, asked: str) -> float:
        # The same rows for every kind and seed, which no seed of training draws.
        random = np.random.default_rng(2**32)
        task, rows = self._size.task, self._config.batch_size
        batches = [draw(task, random, rows, asked=asked) for _ in range(HELD_OUT_BATCHES)]
        return evaluate(self._judge, params, batches).top1
