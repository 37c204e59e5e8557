"""`python -m studies graph_hops`: pointers followed for k hops over a graph that has to be learned.

An example is a cycle of n nodes with codes of its own, random vectors; its edges are given in
random order, each as the codes of its two ends, and asked is where one gets from a node in k hops.
On one cycle no other number of hops ends at the same node. Trained is on 12 nodes and up to 3 hops;
tests go on to 8 hops, and to 32 nodes and 12 hops. An answer is right if its code is nearest to
that of the right node.

    tied          queries and keys of edges begin with equal weights: equal codes are neighbours
    independent   they begin apart, and that has to be learned
    dense         edges weigh all nodes by a softmax, where the others choose one, straight through
    threshold     the control: an edge wherever the score is above 0, which has no gradient
    transformer   four layers over edges and question, with 51 times the parameters; as tied, its
                  queries and keys begin equal too
    allowed h     tied, trained and tested on 3 hops of which at most h are gone

Axes: B batch, N nodes, C features of a code.
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
from rtdlm.modules.graph import (
    SELECTIONS,
    Dense,
    DynamicGraphBuilder,
    after,
    walk,
)
from rtdlm.modules.graph.select import Select
from rtdlm.modules.primitives import Projection, unit
from studies import graph_transformer, small_nets
from studies.sides import add_only, chosen, each, shares_told, whole_name
from studies.small_nets import Side, Trainer

DESCRIPTION = "k hops along pointers in context, over a learned graph, and with fewer hops allowed"
SEEDS = 5
CODE = 32
KEY = 64


Net = Callable[[int], hk.Transformed]
"""Of the hops that it may have to go."""


class Size(NamedTuple):
    """How long sides are trained, and by how much they are judged."""

    steps: int
    batch: int
    rows: int
    """Of each test."""
    layers: int
    """Of the transformer."""
    allowed: Sequence[int]


WHOLE = Size(steps=800, batch=64, rows=1024, layers=4, allowed=(1, 2, 3, 4))
SMOKE = Size(steps=3, batch=4, rows=8, layers=1, allowed=(1,))
TESTS: Mapping[str, tuple[int, int]] = {
    "1 hop": (12, 1), "2 hops": (12, 2), "3 hops": (12, 3), "8 hops": (12, 8),
    "12 hops, 32 nodes": (32, 12),
}  # fmt: skip
"""Name -> nodes, hops."""
TRAINED = 3
ALLOWED = "tied, hops allowed "
CONTROL = "control: tied, threshold"


class Examples(NamedTuple):
    """Cycles, with one question each."""

    source_BNC: jax.Array
    """Code of the node that an edge begins at; edges are in random order."""
    target_BNC: jax.Array
    asked_BC: jax.Array
    hops_B: jax.Array
    answer_B: jax.Array
    """Number of the edge that begins at the answer."""


class Ran(NamedTuple):
    """One side with one seed."""

    right: Mapping[str, float]
    """By test [fraction]."""
    before: Mapping[str, float]
    """The same before the first step."""
    edges: float
    """Length of the edge predictor's gradient at the first step."""
    cpu: float
    """Of training alone [seconds]."""
    parameters: int
    loss: float
    """Of training, at the end [nats]."""
    rate: float
    """Of learning, as the first seed chose it."""


@partial(jax.jit, static_argnames=("batch", "nodes"))
def draw(key: jax.Array, *, batch: int, nodes: int, hops: tuple[int, int]) -> Examples:
    """Fresh examples; the number of hops is within `hops`, both included."""
    of_code, of_order, of_start, of_hops = jax.random.split(key, 4)
    code_BNC = unit(jax.random.normal(of_code, (batch, nodes, CODE)))
    keys = jax.random.split(of_order, batch)
    order_BN = jax.vmap(lambda key: jax.random.permutation(key, nodes))(keys)
    place_BN = jnp.argsort(order_BN, axis=1)
    hops_B = jax.random.randint(of_hops, (batch,), hops[0], hops[1] + 1)
    start_B = jax.random.randint(of_start, (batch,), 0, nodes)

    def node_after(place: jax.Array) -> jax.Array:
        return jnp.take_along_axis(order_BN, place % nodes, axis=1)

    begin_B1 = jnp.take_along_axis(place_BN, start_B[:, None], axis=1)
    return Examples(
        source_BNC=code_BNC,
        target_BNC=jnp.take_along_axis(code_BNC, node_after(place_BN + 1)[:, :, None], axis=1),
        asked_BC=jnp.take_along_axis(code_BNC, start_B[:, None, None], axis=1)[:, 0],
        hops_B=hops_B,
        answer_B=node_after(begin_B1 + hops_B[:, None])[:, 0],
    )


def threshold(score_BRNM: jax.Array, allowed_BNM: jax.Array, neighbours: int) -> jax.Array:
    """The control: an edge of equal weight to every node with a score above 0."""
    del neighbours
    edge = ((score_BRNM > 0) & allowed_BNM[:, None]).astype(jnp.float32)
    return edge / jnp.maximum(jnp.sum(edge, axis=-1, keepdims=True), 1.0)


def reasoner(
    most: int, *, select: Select, tied: bool, allowed: int | None = None
) -> hk.Transformed:
    """Follows edges from where the asked code begins one, up to `most` and `allowed` hops."""
    most = most if allowed is None else min(most, allowed)

    def build(examples: Examples) -> jax.Array:
        source, target, asked_BC, hops_B, _ = examples
        batch, nodes = source.shape[:2]
        # What is looked for is where an edge ends, and, once, the code that is asked for.
        looking = jnp.concatenate([target, asked_BC[:, None]], axis=1)
        builder = DynamicGraphBuilder(neighbours=1, key_dim=KEY, select=select, tied=tied)
        everyone = jnp.ones((batch, nodes + 1, nodes), bool)
        weight = builder(looking, read_BMD=source, allowed_BNM=everyone).weight_BRNM
        walked = walk(weight[:, 0, nodes:], Dense(weight[:, :, :nodes]), hops=most - 1)
        place_BN = after(walked, (jnp.minimum(hops_B, most) - 1)[:, None])[:, 0]
        return _nearest(jnp.einsum("BN,BNC->BC", place_BN, target), source)

    return hk.without_apply_rng(hk.transform(build))


def transformer(most: int, *, layers: int, tied: bool = False) -> hk.Transformed:
    """Reads the edges and the question as tokens, all of them from everywhere."""
    del most

    def build(examples: Examples) -> jax.Array:
        source, target, asked_BC, hops_B, _ = examples
        edge = jnp.concatenate([source, target], axis=-1)
        shape = (2 * CODE, WIDTH)
        x_BND = Projection("BNC,CD->BND", shape=shape, name="edge")(edge)
        count = jax.nn.one_hot(hops_B, CODE)
        asked = jnp.concatenate([asked_BC, count], axis=-1)[:, None]
        x_BND = jnp.concatenate(
            [x_BND, Projection("BNC,CD->BND", shape=shape, name="asked")(asked)], axis=1
        )
        x_BND = graph_transformer.transformer(
            x_BND, layers=layers, num_heads=4, d_ff=4 * WIDTH, tied=tied
        )
        shape = (WIDTH, CODE)
        found = Projection("BD,DC->BC", shape=shape, name="answer")(x_BND[:, -1])
        # What a fresh transformer finds is noise: sharp scores of it would be worse than a guess.
        return _nearest(found, source, sharpness=1.0)

    return hk.without_apply_rng(hk.transform(build))


WIDTH = 64
"""Of the transformer: four layers of it have fifty times the reasoner's parameters."""


def _nearest(found_BC: jax.Array, code_BNC: jax.Array, *, sharpness: float = 10.0) -> jax.Array:
    """Scores of all nodes by the likeness of their codes; the sharpness is learned from there."""
    start = hk.initializers.Constant(sharpness)
    factor = hk.get_parameter("sharpness", (1, 1), jnp.float32, start)
    return factor * jnp.einsum("BC,BNC->BN", unit(found_BC), code_BNC)


def loss(net: hk.Transformed, params: Any, examples: Examples) -> jax.Array:
    """Cross-entropy of the right node."""
    scores_BN = net.apply(params, examples)
    found = optax.softmax_cross_entropy_with_integer_labels(scores_BN, examples.answer_B)
    return jnp.mean(found)


def nets(size: Size) -> dict[str, Net]:
    """Every side's net; the hops allowed are in its name."""
    straight, soft = SELECTIONS["straight_through"], SELECTIONS["dense"]
    found: dict[str, Net] = {
        "tied": partial(reasoner, select=straight, tied=True),
        "independent": partial(reasoner, select=straight, tied=False),
        "tied, dense": partial(reasoner, select=soft, tied=True),
        "independent, dense": partial(reasoner, select=soft, tied=False),
        CONTROL: partial(reasoner, select=threshold, tied=True),
        "transformer": partial(transformer, layers=size.layers),
        "transformer, tied": partial(transformer, layers=size.layers, tied=True),
    }
    tied = partial(reasoner, select=straight, tied=True)
    return found | {f"{ALLOWED}{h}": partial(tied, allowed=h) for h in size.allowed}


def tests_of(name: str) -> Mapping[str, tuple[int, int]]:
    """Those of a side: with few hops allowed, the one that it was trained on."""
    return {"3 hops": (12, TRAINED)} if name.startswith(ALLOWED) else TESTS


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "graph_hops")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    size = SMOKE if flags.smoke else WHOLE
    smoke = ("tied", "transformer", f"{ALLOWED}1")
    found = chosen(flags, nets(size), smoke=smoke)
    judges = {name: Judge(name, net, size) for name, net in found.items()}
    one = lambda name, judge, seed: judge(seed)  # noqa: E731
    for ran in each(judges, one, lambda ran: shares_told(ran.right), flags=flags, usual=SEEDS):
        yield results(ran)


class Judge:
    """Trains and tests one side."""

    def __init__(self, name: str, net: Net, size: Size) -> None:
        self._size, self._tests = size, tests_of(name)
        self._apply = cache(lambda most: jax.jit(net(most).apply))
        least = TRAINED if name.startswith(ALLOWED) else 1
        drawn = partial(draw, batch=size.batch, nodes=12, hops=(least, TRAINED))
        self._side = Side(net(TRAINED), loss, drawn)
        self._trainer = Trainer(self._side, steps=size.steps)
        self._rate: float | None = None

    def __call__(self, seed: int) -> Ran:
        """One seed; the first chooses the learning rate."""
        if self._rate is None:
            self._rate = self._trainer.best_rate(0)
        done = self._trainer.train(seed, rate=self._rate)
        slopes = small_nets.slopes(self._side, done.start, seed)
        edges = {path: own for path, own in slopes.items() if path.startswith("edges/")}
        return Ran(
            right=self._judged(done.params),
            before=self._judged(done.start),
            edges=float(optax.tree.norm(edges)),
            cpu=done.cpu,
            parameters=small_nets.parameters(done.params),
            loss=done.loss,
            rate=self._rate,
        )

    def _judged(self, params: Any) -> dict[str, float]:
        return {name: self._right(params, *test) for name, test in self._tests.items()}

    def _right(self, params: Any, nodes: int, hops: int) -> float:
        # The same rows for every side and seed, which no seed of training draws.
        key = jax.random.key(2**31 + nodes + hops)
        examples = draw(key, batch=self._size.rows, nodes=nodes, hops=(hops, hops))
        scores_BN = self._apply(max(hops, TRAINED))(params, examples)
        return float(jnp.mean(jnp.argmax(scores_BN, axis=1) == examples.answer_B))


def bar(name: str, test: str) -> Bar | None:
    """What a side has to reach in a test."""
    if name in ("tied", "independent"):
        return (">=", 99.0)
    if name == CONTROL and test != "1 hop":
        return ("<=", 20.0)
    if name.startswith(ALLOWED):
        enough = int(name.removeprefix(ALLOWED)) >= TRAINED
        return (">=", 99.0) if enough else ("<=", 20.0)
    return None


def results(ran: Mapping[str, Sequence[Ran]]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        for test in own[0].right:
            shares = [100 * one.right[test] for one in own]
            found.append(Result.mean(f"{name}/{test}", shares, "%", bar=bar(name, test)))
        last = list(own[0].right)[-1]
        before = [100 * one.before[last] for one in own]
        found.append(Result.mean(f"{name}/{last}, before training", before, "%"))
        if not name.startswith("transformer"):
            found.append(_edges(name, own))
        found += [
            Result.mean(f"{name}/loss of training", [one.loss for one in own], "nats"),
            Result(f"{name}/learning rate", own[0].rate, ""),
            Result.mean(f"{name}/CPU of training", [one.cpu for one in own], "s"),
            Result(f"{name}/parameters", float(own[0].parameters), ""),
        ]
    return found


def _edges(name: str, own: Sequence[Ran]) -> Result:
    """The smallest gradient of an edge predictor, and the largest of one that must have none."""
    lengths = [one.edges for one in own]
    if name == CONTROL:
        return Result(f"{name}/largest gradient of edges", max(lengths), "", bar=("<=", 0.0))
    return Result(f"{name}/smallest gradient of edges", min(lengths), "", bar=(">=", 1e-6))
