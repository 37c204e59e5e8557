"""Task: k hops along pointers in context, k from 1 to 8, with twice as many easy as hard ones.

A graph is a cycle of 12 nodes with random codes; its edges are given in random order, and it is
asked 16 questions: where does one get from a node in k hops? P(k) is in proportion to 0.7^k. The
core looks the edge up that begins where it stands, over a learned graph, and moves along it as far
as its copy gate opens, once a step. It knows k, and nobody tells it when to stop.

    a = select(tau cos(Q h, K source))       h <- h + z_s(k) (a target - h)
    scores after step s = 20 (1 - z_(s+1)(k)) cos(h, source)

A state that is going to be left is thus no answer yet, and one that is to stay is read sharply:
learning to answer and learning to stay are one. (With a sharpness of its own, the gate learned to
close too early on hard questions: that, too, blurs answers while they are wrong.)

Axes: G graphs, N rows (questions), M edges, C features of a code, K hop counts, E key features.
"""

from functools import partial
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.controller import CopyGate
from rtdlm.modules.graph import DynamicGraphBuilder
from rtdlm.modules.primitives import unit
from studies.controlled import Task

NODES = 12
HOPS = 8
CODE = 32
KEY = 64
QUESTIONS = 16
"""Of a graph."""
RARER = 0.7
"""Of one more hop."""
SHARPEST = 20.0
OPEN = 3.0
"""Added to the logit of the copy gate: walks begin by moving."""


class Examples(NamedTuple):
    """Graphs, and questions to them: as many in a row to each."""

    source_GMC: jax.Array
    """Code of the node that an edge begins at; edges are in random order."""
    target_GMC: jax.Array
    asked_NC: jax.Array
    hops_N: jax.Array
    answer: jax.Array
    """int32 `[N]`: number of the edge that begins at the answer."""


class Own(NamedTuple):
    """What belongs to rows."""

    key: jax.Array
    """`[G, M, 1, E]`, and of rows `[N, M, 1, E]`, like source and target."""
    source: jax.Array
    target: jax.Array
    graph_N: jax.Array
    asked_NC: jax.Array
    count_NK: jax.Array


class State(NamedTuple):
    """Of rows."""

    place_NC: jax.Array
    stays_N1: jax.Array
    """How far the gate is closed at the next step."""


@partial(jax.jit, static_argnames="rows")
def draw(key: jax.Array, rows: int) -> Examples:
    """`rows` fresh questions, a multiple of `QUESTIONS`."""
    graphs = rows // QUESTIONS
    assert graphs * QUESTIONS == rows, rows
    of_code, of_order, of_start, of_hops = jax.random.split(key, 4)
    code_GMC = unit(jax.random.normal(of_code, (graphs, NODES, CODE)))
    keys = jax.random.split(of_order, graphs)
    next_GM = jax.vmap(_cycle)(keys)
    start_N = jax.random.randint(of_start, (rows,), 0, NODES)
    chance_K = RARER ** jnp.arange(1.0, HOPS + 1)
    hops_N = 1 + jax.random.categorical(of_hops, jnp.log(chance_K), shape=(rows,))
    graph_N = jnp.arange(rows) // QUESTIONS
    place_N = start_N
    for hop in range(HOPS):
        place_N = jnp.where(hop < hops_N, next_GM[graph_N, place_N], place_N)
    return Examples(
        source_GMC=code_GMC,
        target_GMC=jnp.take_along_axis(code_GMC, next_GM[:, :, None], axis=1),
        asked_NC=code_GMC[graph_N, start_N],
        hops_N=hops_N,
        answer=place_N,
    )


def _cycle(key: jax.Array) -> jax.Array:
    """int32 `[M]`: what follows each node on one cycle through all of them."""
    order_M = jax.random.permutation(key, NODES)
    return jnp.zeros_like(order_M).at[order_M].set(jnp.roll(order_M, -1))


class HopCore(hk.Module):
    """One hop a step over a learned graph."""

    def __init__(self, name: str = "core") -> None:
        """`name` is part of the parameters' paths."""
        super().__init__(name=name)
        self._edges = DynamicGraphBuilder(neighbours=1, key_dim=KEY)
        self._gate = CopyGate(num_steps=HOPS + 1)

    def begin(self, examples: Examples) -> Own:
        """Keys of all edges, and what the number of hops says."""
        source_GMC = examples.source_GMC
        count_NK = jax.nn.one_hot(examples.hops_N - 1, HOPS)
        _, key_GM1E = self._edges.look(source_GMC)
        rows = examples.hops_N.shape[0]
        return Own(
            key_GM1E, source_GMC, examples.target_GMC, jnp.arange(rows) // QUESTIONS,
            examples.asked_NC, count_NK,
        )  # fmt: skip

    def start(self, own: Own) -> State:
        """At the code that was asked for."""
        return State(own.asked_NC, jnp.zeros_like(own.count_NK[:, :1]))

    def step(self, own: Own, state: State, number: jax.Array) -> tuple[State, jax.Array]:
        """One hop; the summary is k and whether the state is going to stay."""
        query_N11E, _ = self._edges.look(state.place_NC[:, None], own.source)
        everyone = jnp.ones((own.graph_N.shape[0], 1, NODES), bool)
        weight_N11M = self._edges.weigh(query_N11E, own.key, everyone).weight_BRNM
        walked_NC = jnp.einsum("NM,NMC->NC", weight_N11M[:, 0, 0], own.target)
        place_NC = self._gate(state.place_NC, walked_NC, self._opens(own, number), number)
        zeros_N1 = jnp.zeros_like(state.stays_N1)
        moves_N1 = self._gate(zeros_N1, zeros_N1 + 1, self._opens(own, number + 1), number + 1)
        summary_NF = jnp.concatenate([own.count_NK, moves_N1], axis=-1)
        return State(place_NC, 1 - moves_N1), summary_NF

    def read(self, own: Own, state: State) -> jax.Array:
        """`[N, M]`: scores of nodes by the likeness of their codes."""
        alike_NM = jnp.einsum("NC,NMC->NM", unit(state.place_NC), own.source)
        return SHARPEST * state.stays_N1 * alike_NM

    @hk.name_like("__call__")
    def _opens(self, own: Own, number: jax.Array) -> jax.Array:
        """`[N, 1]`: what the number of hops says of the step with this number."""
        steps = jnp.broadcast_to(number, own.graph_N.shape)
        both_NKS = own.count_NK[:, :, None] * jax.nn.one_hot(steps, HOPS + 1)[:, None]
        return OPEN + self._gate.opens(both_NKS.reshape(-1, HOPS * (HOPS + 1)))


def take(own: Own, place_M: jax.Array) -> Own:
    """What belongs to these rows."""
    graph_M = own.graph_N[place_M]
    return Own(
        own.key[graph_M], own.source[graph_M], own.target[graph_M], graph_M,
        own.asked_NC[place_M], own.count_NK[place_M],
    )  # fmt: skip


HOPS_TASK = Task(
    draw=draw, difficulty=lambda examples: examples.hops_N, core=HopCore, take=take,
    num_steps=HOPS, hidden=16,
)  # fmt: skip
