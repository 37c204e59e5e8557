"""`python -m studies controller_calls`: does a language model call a table where it is needed?

Rows are triples of two sorts, half of each:

    a b F(a, b)         F drawn once: 4096 facts, which only a token of b's alphabet must look up
    k k+1 k+2           modulo 64, which is a rule

Sides have the same core of up to three steps and the same table of hashed pairs of tokens:

    called          the policy says for every token and step whether to read the table
    always          the layer before the core reads it for every token
    none            there is no table

Each is read with every strategy at the price of its budget, found on other rows. Operations are by
the formulas of `rtdlm.models.cost`, of what was run.

Axes: B batch, T time, M modules.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import STRATEGIES, AGIConfig, MeshConfig
from rtdlm.data.batch import Batch
from rtdlm.evaluation.pricing import Pricing, with_price
from rtdlm.evaluation.results import Bar, Result
from rtdlm.models import TMSModel
from rtdlm.models.contracts import call_costs, step_cost
from rtdlm.models.core import PRICED
from rtdlm.models.cost import forward_flops_per_token
from rtdlm.models.passing import Scores
from rtdlm.models.tms import Params, with_strategy
from rtdlm.parallel import make_mesh
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import loss_sums, loss_terms
from studies.sides import add_only, chosen, each, whole_name
from studies.small_nets import Side, Trainer, parameters

DESCRIPTION = "a table that a language model calls, on text of which a part needs it"
SEEDS = 3
CALLED, ALWAYS, NONE = "called", "always", "none"
NAMES = 64
"""Tokens of each alphabet: of a, of b, of F(a, b) and of k."""
FACTS = 7
"""Seed of F."""
LENGTH = 48
RATE = 0.003
"""Of learning, the same for all sides, and not searched for."""
NEEDED: Bar = (">=", 90.0)
ELSEWHERE: Bar = ("<=", 10.0)


class Size(NamedTuple):
    """How long sides are trained, and by how much they are judged."""

    steps: int
    batch: int
    rows: int


WHOLE = Size(steps=1500, batch=32, rows=512)
SMOKE = Size(steps=2, batch=4, rows=8)


class Rows(NamedTuple):
    """Tokens that follow one another, and where the table is needed."""

    ids_BT: jax.Array
    labels_BT: jax.Array
    needed_BT: jax.Array
    """bool; the next token is F of this one and the one before."""
    ruled_BT: jax.Array
    """bool; the next token follows from this one by the rule."""
    key: jax.Array
    """For prices."""


class Read(NamedTuple):
    """One side with one seed, read with one strategy."""

    needed: float
    """Tokens that call where the table is needed [fraction]; nan without calls, as the next."""
    elsewhere: float
    loss: float
    """Where the table is needed [nats]."""
    ruled: float
    """Where the rule holds [nats]."""
    steps: float
    operations: float
    """A token."""


class Ran(NamedTuple):
    """One side with one seed."""

    read: Mapping[str, Read]
    """By strategy."""
    parameters: int
    cpu: float
    """Of training [s]."""


def config_of(side: str) -> AGIConfig:
    """The model of a side."""
    table: dict[str, Any] = {"kind": "ngram", "orders": [2], "rows": 16384, "heads": 2, "dim": 32}
    controller: dict[str, Any] = {"max_steps": 3}
    if side == CALLED:
        controller["calls"] = ["knowledge"]
    if side == ALWAYS:
        table["every"] = 1
    return AGIConfig.from_dict({
        "vocab_size": 4 * NAMES, "max_seq_len": LENGTH, "d_model": 32, "num_layers": 2,
        "num_heads": 4, "num_kv_heads": 4, "d_ff": 64, "use_compute_controller": True,
        "controller": controller, "precision": {"compute": "float32"},
        "knowledge": {} if side == NONE else table,
    })  # fmt: skip


def facts() -> np.ndarray:
    """F as numbers of names, `[NAMES, NAMES]`."""
    return np.random.default_rng(FACTS).integers(NAMES, size=(NAMES, NAMES))


def draw(key: jax.Array, *, batch: int) -> Rows:
    """Fresh rows."""
    known, triples = jnp.asarray(facts(), jnp.int32), LENGTH // 3 + 1
    of_sort, of_names, own = jax.random.split(key, 3)
    is_fact_BN = jax.random.bernoulli(of_sort, 0.5, (batch, triples))
    a_BN, b_BN = jax.random.randint(of_names, (2, batch, triples), 0, NAMES)
    fact_BN3 = jnp.stack([a_BN, NAMES + b_BN, 2 * NAMES + known[a_BN, b_BN]], axis=-1)
    rule_BN3 = 3 * NAMES + (a_BN[..., None] + jnp.arange(3)[None, None]) % NAMES
    tokens = jnp.where(is_fact_BN[..., None], fact_BN3, rule_BN3).reshape(batch, -1)
    place_1T = (jnp.arange(tokens.shape[1]) % 3)[None]
    is_fact = jnp.repeat(is_fact_BN, 3, axis=1)
    needed, ruled = is_fact & (place_1T == 1), ~is_fact & (place_1T < 2)
    return Rows(
        tokens[:, :LENGTH], tokens[:, 1 : LENGTH + 1], needed[:, :LENGTH], ruled[:, :LENGTH], own
    )


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "controller_calls")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    size = SMOKE if flags.smoke else WHOLE
    sides = {name: Judge(name, size) for name in (CALLED, ALWAYS, NONE)}
    found = chosen(flags, sides, smoke=(CALLED,))
    for ran in each(found, judged, losses_told, flags=flags, usual=SEEDS):
        yield results(ran)


def judged(_: str, judge: "Judge", seed: int) -> Ran:
    """A side with a seed, for `each`."""
    return judge(seed)


def losses_told(ran: Ran) -> str:
    """What to print of it."""
    return ", ".join(f"{strategy}: {read.loss:.3f} nats" for strategy, read in ran.read.items())


class Judge:
    """Trains and reads one side."""

    def __init__(self, side: str, size: Size) -> None:
        self._size, self._model = size, TMSModel(config_of(side))
        model, knobs = self._model, Knobs.from_config(self._model.config)

        def loss(net: hk.Transformed, params: Params, rows: Rows) -> jax.Array:
            weights = jnp.full(rows.ids_BT.shape, 1 / rows.ids_BT.size, jnp.float32)
            terms = loss_terms(weights, knobs, scale=jnp.float32(1))
            scores = net.apply(params, rows.key, rows, terms)
            return loss_sums(scores, weights, knobs).objective

        net = hk.Transformed(
            lambda key, rows: model.init(key),
            lambda params, key, rows, terms: model.scores(
                params, rows.ids_BT, rows.labels_BT, terms=terms, key=key
            ),
        )
        side_of_trainer = Side(net, loss, partial(draw, batch=size.batch))
        self._trainer = Trainer(side_of_trainer, steps=size.steps)
        self._pricing = Pricing(model, mesh=make_mesh(MeshConfig(), jax.devices()[:1]))
        # One program for all prices, which are a parameter.
        self._some = jax.jit(partial(read, with_strategy(model, "fast")))
        self._every = jax.jit(partial(read, with_strategy(model, "thorough")))

    def __call__(self, seed: int) -> Ran:
        """One seed."""
        done = self._trainer.train(seed, rate=RATE)
        # Other rows than any seed's of training: prices on the first, results on the second.
        other, last = (draw(jax.random.key(2**31 + n), batch=self._size.rows) for n in range(2))
        params, found = done.params, {}
        for strategy, own in STRATEGIES.items():
            if strategy in PRICED:
                at = self._pricing.price_for(params, [batch_of(other)], budget=own.budget)
                scores = self._some(with_price(params, "fast", at.price), last)
            else:
                scores = self._every(params, last)
            found[strategy] = self._judged(scores, last)
        return Ran(found, parameters(params), done.cpu)

    def _judged(self, scores: Scores, rows: Rows) -> Read:
        assert scores.spent is not None
        steps, calls = np.asarray(scores.spent.steps_BT), scores.spent.calls_BTM
        needed, ruled = np.asarray(rows.needed_BT), np.asarray(rows.ruled_BT)
        nll = np.asarray(scores.tokens.nll)
        shares = (float("nan"),) * 2
        if calls is not None:
            calls_BT = np.asarray(calls)[..., 0] > 0
            shares = float(calls_BT[needed].mean()), float(calls_BT[~needed].mean())
        config = self._model.config
        most, one = config.controller.steps, step_cost(config)
        operations = forward_flops_per_token(config, length=LENGTH) - one * (most - steps.mean())
        for number, cost in enumerate(call_costs(config)):
            assert calls is not None
            operations -= one * cost * (most - 1 - np.asarray(calls)[..., number].mean())
        return Read(
            *shares,
            float(nll[needed].mean()),
            float(nll[ruled].mean()),
            float(steps.mean()),
            float(operations),
        )


def read(model: TMSModel, params: Params, rows: Rows) -> Scores:
    """What `model` makes of `rows`."""
    return model.scores(params, rows.ids_BT, rows.labels_BT)


def batch_of(rows: Rows) -> Batch:
    """As the loader makes them."""
    ids = np.asarray(rows.ids_BT)
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ids.shape)
    ones = np.ones_like(ids)
    return Batch(
        input_ids=ids,
        labels=np.asarray(rows.labels_BT),
        positions=positions,
        segment_ids=ones,
        weights=ones.astype(np.float32),
    )


def results(ran: Mapping[str, Sequence[Ran]]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for side, own in ran.items():
        for strategy in STRATEGIES:
            found += _of(f"{side}, {strategy}", [one.read[strategy] for one in own])
        found += [
            Result.mean(f"{side}/parameters", [one.parameters for one in own], ""),
            Result.mean(f"{side}/CPU of training", [one.cpu for one in own], "s"),
        ]
    return found


def _of(name: str, own: Sequence[Read]) -> list[Result]:
    found = []
    if not np.isnan(own[0].needed):
        # With the thorough strategy nobody chooses.
        bars = (NEEDED, ELSEWHERE) if name == f"{CALLED}, fast" else (None, None)
        for label, values, bar in (
            ("tokens that call where it is needed", [one.needed for one in own], bars[0]),
            ("elsewhere", [one.elsewhere for one in own], bars[1]),
        ):
            shares = [100 * value for value in values]
            found.append(Result.mean(f"{name}/{label}", shares, "%", bar=bar))
    return [
        *found,
        Result.mean(f"{name}/loss where it is needed", [one.loss for one in own], "nats"),
        Result.mean(f"{name}/where the rule holds", [one.ruled for one in own], "nats"),
        Result.mean(f"{name}/steps a token", [one.steps for one in own], ""),
        Result.mean(f"{name}/operations a token", [one.operations for one in own], ""),
    ]
