"""`python -m studies memory_facts`: facts learned by heart with and without a parametric memory.

A fact is (subject, relation) -> object: a subject of two letters, one token each of relation and
object, all drawn at random, so that nothing but the fact itself tells the object. Every fact is a
document of its own, shown as often as every other, and only objects count. A dense model and the
same with a memory are trained by the same steps on the same batches; all have the same number of
operations a token, which the width of the feed-forward layers is chosen for. Every kind gets those
learning rates of a grid which hold most facts of a set of its own.

What a model holds is told without what guessing gets: of N facts with M objects, of which it
answers a share a, N (a - 1/M) / (1 - 1/M).
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from operator import itemgetter
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
from rtdlm.models.cost import count_parameters, forward_flops_per_token
from rtdlm.parallel import keep_compiled_programs, make_mesh
from rtdlm.training.allocator import keep_freed_memory
from rtdlm.training.knobs import Knobs
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.state import init_state
from rtdlm.training.step import make_train_step

DESCRIPTION = "facts learned by heart: dense, product keys and hashed n-grams at equal operations"
SEEDS = 3
TOKENS_A_FACT = 3
TUNING_SEED = 1000
"""Of the facts that rates are chosen by, which no other seed draws."""
BAR: Bar = (">=", 2.0)


class Size(NamedTuple):
    """The facts, the model that all kinds share, and how long each is trained."""

    facts: int
    letters: int
    relations: int
    objects: int
    facts_a_row: int
    config: Mapping[str, Any]
    knowledge: Mapping[str, Mapping[str, Any]]
    rates: tuple[float, ...]
    rules: Mapping[str, Sequence[Mapping[str, float]]]
    """Kind -> `optimizer.learning_rate_rules` to be tried with each of the rates."""
    epochs: int
    """Times that every fact is shown."""

    @property
    def vocab_size(self) -> int:
        """All tokens: letters, then relations, then objects."""
        return self.letters + self.relations + self.objects

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.facts // (self.facts_a_row * int(self.config["batch_size"]))


OPTIMIZER: Mapping[str, Any] = {
    "name": "muon", "schedule": "linear", "warmup_steps": 0, "weight_decay": 0.0,
}  # fmt: skip
WHOLE = Size(
    facts=32768, letters=64, relations=16, objects=64, facts_a_row=16,
    config={
        "d_model": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "d_ff": 128,
        "batch_size": 32, "feedforward": "relu2", "zero_init_outputs": True,
        "position_encoding": "learned", "optimizer": OPTIMIZER,
    },
    knowledge={
        "product_key": {
            "kind": "product_key", "rows": 64, "heads": 2, "top_k": 8, "key_dim": 32, "dim": 32,
        },
        "ngram": {"kind": "ngram", "rows": 4096, "heads": 2, "orders": [3], "dim": 16},
    },
    rates=(0.005, 0.01, 0.02),
    rules={
        "dense": ({}, {"decoder/(embedding|output)": 3.0}),
        "product_key": (
            {"knowledge/values": 3.0, "knowledge/keys": 0.1},
            {"knowledge/values": 10.0, "knowledge/keys": 0.1, "knowledge/query/w": 0.3},
        ),
        "ngram": ({}, {"knowledge/table": 3.0}),
    },
    epochs=30,
)  # fmt: skip
SMOKE = WHOLE._replace(
    facts=64, facts_a_row=8, epochs=2, rates=(0.01,), config={**WHOLE.config, "batch_size": 4}
)


class Facts(NamedTuple):
    """Token ids."""

    told_NT: np.ndarray
    """Two letters and a relation; no two facts are told alike."""
    object_N: np.ndarray


class Rates(NamedTuple):
    """One point of the grid."""

    rate: float
    rules: Mapping[str, float]
    """Path -> what the rate is multiplied by."""

    def __str__(self) -> str:
        # Without what would be a pattern's, which a table in a document reads as its own.
        own = [f"{path.split('/', 1)[1]} {factor:g} times" for path, factor in self.rules.items()]
        told = ", ".join([f"rate {self.rate:g}", *own])
        return told.replace("(", "").replace("|", " and ").replace(")", "")


class Ran(NamedTuple):
    """One model with one seed."""

    held: float
    """[facts]."""
    cpu: float
    """Of training alone [seconds]."""


def add_flags(parser: ArgumentParser) -> None:
    """This study takes none of its own."""


def file_name(flags: Namespace) -> str | None:
    """Name of the result file."""
    return None if flags.smoke else "memory_facts"


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every seed."""
    keep_freed_memory()
    keep_compiled_programs()
    size = SMOKE if flags.smoke else WHOLE
    seeds = flags.seeds or (1 if flags.smoke else SEEDS)
    configs = kinds(size)
    best, found = {}, []
    for name, config in configs.items():
        tried = []
        for point in product(size.rates, size.rules[name]):
            run = Run(size, config, Rates(*point))
            tried.append((run.train(TUNING_SEED).held, run))
            tell(f"{name}, {run.rates}: {tried[-1][0]:.0f} facts")
            found.append(Result(f"{name}, {run.rates}/facts when tuning", tried[-1][0], "facts"))
        best[name] = max(tried, key=itemgetter(0))[1]
    ran: dict[str, list[Ran]] = {name: [] for name in configs}
    for seed in range(seeds):
        for name, run in best.items():
            ran[name].append(run.train(seed))
            tell(f"{name}, seed {seed}: {ran[name][-1].held:.0f} facts")
        yield [*results(size, configs, ran), *found]


def results(
    size: Size, configs: Mapping[str, AGIConfig], ran: Mapping[str, list[Ran]]
) -> list[Result]:
    """Everything that is told of all kinds, and by what they pass."""
    found, dense = [], [run.held for run in ran["dense"]]
    for name, runs in ran.items():
        config, held = configs[name], [run.held for run in runs]
        count = count_parameters(config)
        flops = forward_flops_per_token(config, length=config.max_seq_len)
        found.append(Result.mean(f"{name}/facts", held, "facts"))
        if name != "dense":
            over = [own / max(1.0, other) for own, other in zip(held, dense, strict=True)]
            found.append(Result.mean(f"{name}/facts over dense", over, "x", bar=BAR))
        found += [
            Result(f"{name}/parameters", float(count.total), ""),
            Result(f"{name}/parameters a token uses", float(count.active), ""),
            Result(f"{name}/forward operations a token", float(flops), ""),
            Result(f"{name}/width of the feed-forward layer", float(config.d_ff), ""),
            Result.mean(f"{name}/CPU of training", [run.cpu for run in runs], "s"),
        ]
    return [*found, Result("facts that were shown/facts", float(size.facts), "facts")]


def kinds(size: Size) -> dict[str, AGIConfig]:
    """Every kind of memory, its feed-forward layers as wide as the dense model's budget leaves."""
    length = size.facts_a_row * TOKENS_A_FACT
    shared = {**size.config, "vocab_size": size.vocab_size, "max_seq_len": length}
    dense = AGIConfig.from_dict(shared)
    budget = forward_flops_per_token(dense, length=length)
    found = {"dense": dense}
    for name, knowledge in size.knowledge.items():
        as_wide = dense.replace(knowledge=knowledge)
        narrower = as_wide.replace(d_ff=dense.d_ff - 1)
        most, less = (forward_flops_per_token(own, length=length) for own in (as_wide, narrower))
        # One more feature between two products always costs the same.
        too_wide = round((most - budget) / (most - less))
        found[name] = as_wide.replace(d_ff=max(1, dense.d_ff - too_wide))
    return found


def draw(size: Size, random: np.random.Generator) -> Facts:
    """Different pairs of subject and relation, each with any object."""
    letters, relations = size.letters, size.relations
    number_N = random.choice(letters * letters * relations, size=size.facts, replace=False)
    pair_N, relation_N = np.divmod(number_N, relations)
    told = [*np.divmod(pair_N, letters), letters + relation_N]
    first_object = letters + relations
    return Facts(
        np.stack(told, axis=1).astype(np.int32),
        (first_object + random.integers(size.objects, size=size.facts)).astype(np.int32),
    )


def batches(size: Size, facts: Facts, order_N: np.ndarray) -> Iterator[Batch]:
    """All facts once, in this order; a fact is a document, whose last label is the object."""
    rows, length = int(size.config["batch_size"]), size.facts_a_row * TOKENS_A_FACT
    place_T = np.arange(length, dtype=np.int32)
    positions, segments = place_T % TOKENS_A_FACT, place_T // TOKENS_A_FACT + 1
    is_last = (positions == TOKENS_A_FACT - 1).astype(np.float32)
    for chosen in order_N.reshape(-1, rows, size.facts_a_row):
        yield Batch(
            input_ids=facts.told_NT[chosen].reshape(rows, length),
            labels=np.repeat(facts.object_N[chosen], TOKENS_A_FACT, axis=1),
            segment_ids=np.broadcast_to(segments, (rows, length)),
            positions=np.broadcast_to(positions, (rows, length)),
            weights=np.broadcast_to(is_last, (rows, length)),
        )


class Run:
    """One kind of memory at one point of the grid with its compiled step."""

    def __init__(self, size: Size, config: AGIConfig, rates: Rates) -> None:
        self.rates = rates
        told = {
            "learning_rate": rates.rate,
            "adam_learning_rate": rates.rate,
            "learning_rate_rules": rates.rules,
        }
        self._size, self._config = size, config.replace(optimizer=told)
        self._mesh = make_mesh(config.mesh, jax.devices()[:1])
        self._optimizer = make_optimizer(self._config.optimizer)
        model = TMSModel(self._config)
        self._step = make_train_step(model, self._optimizer, self._mesh)
        self._judge = make_eval_step(model, self._mesh)
        self._knobs = Knobs.from_config(self._config)

    def train(self, seed: int) -> Ran:
        """Trains from fresh weights and asks for every fact."""
        size, random = self._size, np.random.default_rng(seed)
        facts = draw(size, random)
        model = TMSModel(self._config.replace(seed=seed))
        state = init_state(model, self._optimizer, self._mesh)
        steps, number = size.steps * size.epochs, 0
        timer = Timer()
        for _ in range(size.epochs):
            for batch in batches(size, facts, random.permutation(size.facts)):
                state, _ = self._step(state, batch, self._knobs, jnp.float32(number / steps))
                number += 1
        jax.block_until_ready(state)
        cpu = timer.read().cpu
        asked = list(batches(size, facts, np.arange(size.facts)))
        return Ran(held(size, evaluate(self._judge, state.params, asked).top1), cpu)


def held(size: Size, right: float) -> float:
    """Facts that a share `right` of right answers shows to be known, not guessed."""
    chance = 1.0 / size.objects
    return size.facts * max(0.0, (right - chance) / (1.0 - chance))
