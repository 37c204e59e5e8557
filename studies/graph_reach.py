"""`python -m studies graph_reach`: how far a node is from a source, on larger graphs than trained.

Random undirected graphs with two edges a node on average, so that some nodes cannot be reached and
others are far; one node is marked. Asked for every node: how many edges it is away, if it can be
reached at all. Trained is on 16 nodes, judged on 16, 32 and 64; right answers come from
`rtdlm.modules.graph.algorithms`, which tests hold to networkx.

    reasoner      one neuron, hop after hop; a node answers with the hop after which it halts, and
                  with the last one if it is never reached. More hops are run on larger graphs
    transformer   layers of their own weights over all pairs, whose scores know whether two nodes
                  share an edge; a class a distance. As many parameters, or ten times those

Told are the share of nodes with the right distance, the share with the right answer to whether they
can be reached, and the same of a guess: the most frequent answer.

Axes: B batch, N nodes.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from rtdlm.evaluation.results import Bar, Result
from rtdlm.modules.graph import FAR, Dense, MultiHopGraphReasoner, distances
from rtdlm.modules.primitives import Projection
from studies import graph_transformer, small_nets
from studies.sides import add_only, chosen, each, whole_name
from studies.small_nets import Side, Trainer

DESCRIPTION = "distance and reach on graphs up to four times as large as trained"
SEEDS = 3
FEATURES = 32
NODES = 16
"""Of graphs that are trained on."""
SIZES = (16, 32, 64)
HOPS = {16: 12, 32: 20, 64: 32}
"""Run on graphs of so many nodes; hardly any node is farther away."""
CLASSES = 34
"""Distances from 0 to 32, and none: what a transformer answers, whatever the size of the graph."""


class Size(NamedTuple):
    """How long sides are trained, and by how much they are judged."""

    steps: int
    batch: int
    rows: int
    nodes: Sequence[int]


WHOLE = Size(steps=1500, batch=32, rows=256, nodes=SIZES)
SMOKE = Size(steps=3, batch=4, rows=4, nodes=(16,))


class Examples(NamedTuple):
    """Graphs with a marked node each."""

    edge_BNN: jax.Array
    """bool."""
    source_BN: jax.Array
    """float32; 1 at the marked node."""
    distance_BN: jax.Array
    """int32; `FAR` for what cannot be reached."""


class Score(NamedTuple):
    """Over the nodes of all graphs of a size [fraction]."""

    distance: float
    reach: float
    beyond: float
    """Distances that no graph of training had."""


class Ran(NamedTuple):
    """One side with one seed."""

    scores: Mapping[int, Score]
    """By the number of nodes."""
    cpu: float
    """Of training alone [seconds]."""
    parameters: int


@partial(jax.jit, static_argnames=("batch", "nodes"))
def draw(key: jax.Array, *, batch: int, nodes: int) -> Examples:
    """Fresh graphs, each pair of nodes an edge with probability 2 / nodes."""
    of_edges, of_source = jax.random.split(key)
    above = jnp.triu(jnp.ones((nodes, nodes), bool), k=1)[None]
    half = (jax.random.uniform(of_edges, (batch, nodes, nodes)) < 2 / nodes) & above
    edge_BNN = half | jnp.swapaxes(half, 1, 2)
    source_B = jax.random.randint(of_source, (batch,), 0, nodes)
    far_BN = jnp.take_along_axis(distances(edge_BNN), source_B[:, None, None], axis=1)[:, 0]
    return Examples(edge_BNN, jax.nn.one_hot(source_B, nodes), far_BN)


def classes(distance_BN: jax.Array, most: int) -> jax.Array:
    """The right answer: the distance, or `most` for what is not to be reached before that."""
    return jnp.minimum(distance_BN, most)


def reasoner(hops: int) -> hk.Transformed:
    """Log-probability of every distance: that of halting after so many hops."""

    def build(examples: Examples) -> jax.Array:
        graph = Dense(examples.edge_BNN.astype(jnp.float32)[:, None])
        shape = (1, FEATURES)
        marked = examples.source_BN[:, :, None]
        x_BND = Projection("BNI,ID->BND", shape=shape, bias=True, name="input")(marked)
        thought = MultiHopGraphReasoner(num_kinds=1, halts=True)(x_BND, graph, hops=hops)
        assert thought.halt_BNK is not None
        return jnp.log(thought.halt_BNK + 1e-9)

    return hk.without_apply_rng(hk.transform(build))


def transformer(hops: int, *, width: int, d_ff: int, layers: int) -> hk.Transformed:
    """Log-probability of every distance and of none, which has an answer of its own.

    Of what lies between `hops`, the farthest that is asked for, and none, no question is.
    """

    def build(examples: Examples) -> jax.Array:
        edge_B1NN = examples.edge_BNN.astype(jnp.float32)[:, None]
        marked = examples.source_BN[:, :, None]
        x_BND = Projection("BNI,ID->BND", shape=(1, width), bias=True, name="input")(marked)
        x_BND = graph_transformer.transformer(
            x_BND, layers=layers, num_heads=4, d_ff=d_ff, pair_BRNM=edge_B1NN
        )
        answer = Projection("BND,DK->BNK", shape=(width, CLASSES), bias=True, name="answer")
        logits_BNK = answer(x_BND)
        asked_BNK = jnp.concatenate([logits_BNK[..., :hops], logits_BNK[..., -1:]], axis=-1)
        return jax.nn.log_softmax(asked_BNK)

    return hk.without_apply_rng(hk.transform(build))


Net = Callable[[int], hk.Transformed]
"""Of the largest distance that is told from none."""
NETS: Mapping[str, Net] = {
    "reasoner": reasoner,
    "transformer, 4 layers": partial(transformer, width=16, d_ff=32, layers=4),
    "transformer, 4 layers, ten times the parameters": partial(
        transformer, width=52, d_ff=104, layers=4
    ),
    "transformer, 12 layers": partial(transformer, width=8, d_ff=24, layers=12),
}


def loss(net: hk.Transformed, params: Any, examples: Examples) -> jax.Array:
    """Cross-entropy of the right distance."""
    log_BNK = net.apply(params, examples)
    right_BN = classes(examples.distance_BN, log_BNK.shape[-1] - 1)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(log_BNK, right_BN))


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "graph_reach")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    size = SMOKE if flags.smoke else WHOLE
    found = chosen(flags, NETS, smoke=("reasoner", "transformer, 4 layers"))
    judges = {name: Judge(name, net, size) for name, net in found.items()}

    def one(name: str, judge: Judge, seed: int) -> Ran:
        del name
        return judge(seed)

    for ran in each(judges, one, told, flags=flags, usual=SEEDS):
        yield results(size, ran)


def told(ran: Ran) -> str:
    """What is printed of a side with a seed."""
    return ", ".join(f"{nodes} nodes: {own.distance:.1%}" for nodes, own in ran.scores.items())


class Judge:
    """Trains and tests one side."""

    def __init__(self, name: str, net: Net, size: Size) -> None:
        self._size = size
        self._apply = cache(lambda most: jax.jit(net(most).apply))
        # A transformer learns, too, that distances it never saw are no answer.
        hops = HOPS[NODES] if name == "reasoner" else HOPS[SIZES[-1]]
        side = Side(net(hops), loss, partial(draw, batch=size.batch, nodes=NODES))
        self._trainer = Trainer(side, steps=size.steps)
        self._rate: float | None = None

    def __call__(self, seed: int) -> Ran:
        """One seed; the first chooses the learning rate."""
        if self._rate is None:
            self._rate = self._trainer.best_rate(0)
        done = self._trainer.train(seed, rate=self._rate)
        scores = {nodes: self._score(done.params, nodes) for nodes in self._size.nodes}
        return Ran(scores, done.cpu, small_nets.parameters(done.params))

    def _score(self, params: Any, nodes: int) -> Score:
        examples, most = test_graphs(nodes, self._size.rows), HOPS[nodes]
        log_BNK = self._apply(most)(params, examples)
        return score(jnp.argmax(log_BNK, axis=-1), examples, most=most)


def test_graphs(nodes: int, rows: int) -> Examples:
    """The same for every side and seed, which no seed of training draws."""
    return draw(jax.random.key(2**31 + nodes), batch=rows, nodes=nodes)


def score(answer_BN: jax.Array, examples: Examples, *, most: int) -> Score:
    """How many are right."""
    right_BN = classes(examples.distance_BN, most)
    is_right = answer_BN == right_BN
    beyond = (right_BN > HOPS[NODES]) & (right_BN < most)
    count = jnp.maximum(jnp.sum(beyond), 1)
    return Score(
        distance=float(jnp.mean(is_right)),
        reach=float(jnp.mean((answer_BN < most) == (examples.distance_BN < FAR))),
        beyond=float(jnp.sum(is_right & beyond) / count),
    )


def guess(nodes: int, rows: int) -> Score:
    """What the most frequent answers get right."""
    examples, most = test_graphs(nodes, rows), HOPS[nodes]
    counts = jnp.bincount(classes(examples.distance_BN, most).ravel(), length=most + 1)
    often = jnp.full(examples.distance_BN.shape, jnp.argmax(counts))
    reached = float(jnp.mean(examples.distance_BN < FAR))
    return score(often, examples, most=most)._replace(reach=max(reached, 1 - reached))


def results(size: Size, ran: Mapping[str, Sequence[Ran]]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        bar: Bar | None = (">=", 95.0) if name == "reasoner" else None
        for nodes in size.nodes:
            at = [one.scores[nodes] for one in own]
            distance, reach = ([100 * s.distance for s in at], [100 * s.reach for s in at])
            found.append(Result.mean(f"{name}/distance, {nodes} nodes", distance, "%", bar=bar))
            found.append(Result.mean(f"{name}/reach, {nodes} nodes", reach, "%"))
        last = [100 * one.scores[size.nodes[-1]].beyond for one in own]
        found += [
            Result.mean(f"{name}/distances beyond those of training", last, "%"),
            Result.mean(f"{name}/CPU of training", [one.cpu for one in own], "s"),
            Result(f"{name}/parameters", float(own[0].parameters), ""),
        ]
    for nodes in size.nodes:
        often = guess(nodes, size.rows)
        found.append(Result(f"guessing/distance, {nodes} nodes", 100 * often.distance, "%"))
        found.append(Result(f"guessing/reach, {nodes} nodes", 100 * often.reach, "%"))
    return [*found, *_margin(size, ran)]


def _margin(size: Size, ran: Mapping[str, Sequence[Ran]]) -> list[Result]:
    """By how much the reasoner's worst seed is above the best of any transformer."""
    others = [one for name, own in ran.items() if name != "reasoner" for one in own]
    if "reasoner" not in ran or not others:
        return []
    nodes = size.nodes[-1]
    worst = min(one.scores[nodes].distance for one in ran["reasoner"])
    best = max(one.scores[nodes].distance for one in others)
    what = f"reasoner beside transformers/distance, {nodes} nodes, worst seed less their best"
    return [Result(what, 100 * (worst - best), "%", bar=(">=", 5.0))]
