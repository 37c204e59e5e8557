"""Graphs in both forms against NumPy loops and networkx; modules over them against one another."""

from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from rtdlm.config import ExpertsConfig
from rtdlm.modules.experts import SparseExperts
from rtdlm.modules.graph import (
    FAR,
    SELECTIONS,
    Dense,
    DynamicGraphBuilder,
    EdgeList,
    GraphAttentionUnit,
    GraphMoE,
    GraphNeuron,
    GraphTransformerBlock,
    MultiHopGraphReasoner,
    after,
    components,
    distances,
    reachable,
    to_dense,
    to_edges,
    walk,
)
from rtdlm.modules.graph.attention import PAIRS
from rtdlm.modules.primitives import halting

B, R, N, D = 2, 2, 7, 6
HEADS, FEATURES = 2, 3


def random_graph(seed: int = 0, *, share: float = 0.3) -> Dense:
    random = np.random.default_rng(seed)
    there = random.random((B, R, N, N)) < share
    there[:, :, 0] = False  # a node that reads nobody
    return Dense(jnp.asarray(there * random.random((B, R, N, N)), jnp.float32))


def nodes(seed: int = 1, *, features: int = D) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (B, N, features))


def both(graph: Dense) -> list[Dense | EdgeList]:
    most = int((graph.weight_BRNM > 0).sum(axis=(1, 2, 3)).max())
    return [graph, to_edges(graph, num_edges=most + 3)]


def made(build: Any, *given: Any, spread: float = 0.3) -> tuple[Any, Any]:
    """Parameters, none of them as plain as a fresh one, and the function of them."""
    pure = hk.without_apply_rng(hk.transform(build))

    @jax.jit
    def start(*given: Any) -> Any:
        leaves, tree = jax.tree.flatten(pure.init(jax.random.key(2), *given))
        keys = jax.random.split(jax.random.key(3), len(leaves))
        noise = [spread * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])

    return start(*given), jax.jit(pure.apply)


def test_lists_of_edges_are_the_dense_graph() -> None:
    graph = random_graph()
    edges = both(graph)[1]
    assert isinstance(edges, EdgeList)
    np.testing.assert_array_equal(to_dense(edges).weight_BRNM, graph.weight_BRNM)
    x, p = nodes(), jnp.abs(nodes(4, features=N))
    expected = np.zeros((B, R, N, D), np.float32)
    weight = np.asarray(graph.weight_BRNM)
    for b, r, n, m in np.ndindex(B, R, N, N):
        expected[b, r, n] += weight[b, r, n, m] * np.asarray(x)[b, m]
    moved = np.einsum("bqn,brnm->bqm", np.asarray(p), weight)
    for form in both(graph):
        np.testing.assert_allclose(form.read(x), expected, atol=1e-5)
        np.testing.assert_allclose(form.step(p), moved, atol=1e-5)


def test_a_list_that_is_too_short_holds_the_heaviest_edges() -> None:
    graph = random_graph()
    weight_BE = np.sort(to_edges(graph, num_edges=3).weight_BE, axis=1)
    heaviest = np.sort(np.asarray(graph.weight_BRNM).reshape(B, -1), axis=1)[:, -3:]
    np.testing.assert_array_equal(weight_BE, heaviest)


def gatv2(params: Any, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Equations 7 and 8 of arXiv 2105.14491, an edge at a time; weights multiply exponentials."""
    w = {name.split("/")[-1]: np.asarray(next(iter(p.values()))) for name, p in params.items()}
    own = params["graph_attention"]
    direction, kind = np.asarray(own["direction"]), np.asarray(own["kind"])
    out = np.zeros((B, N, D))
    for b, n, h in np.ndindex(B, N, HEADS):
        shares, sent = [], []
        for r, m in np.ndindex(R, N):
            if weight[b, r, n, m] > 0:
                read = x[b, m] @ w["read"][:, h]
                seen = x[b, n] @ w["reader"][:, h] + read + kind[r, h]
                seen = np.where(seen > 0, seen, 0.2 * seen)
                shares.append(weight[b, r, n, m] * np.exp(direction[h] @ seen))
                sent.append(read)
        if shares:
            mixed = np.array(shares) @ np.array(sent) / sum(shares)
            out[b, n] += mixed @ w["output"][h]
    return out


@pytest.mark.parametrize("pairs", [PAIRS, 3 * N])
@pytest.mark.parametrize("weights", ["zeros and ones", "weights"])
def test_attention_over_a_graph_is_gatv2(
    weights: str, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where three readers are scored at a time, then three, then the last."""
    monkeypatch.setattr("rtdlm.modules.graph.attention.PAIRS", pairs)
    graph, x = random_graph(), nodes()
    if weights == "zeros and ones":
        graph = Dense((graph.weight_BRNM > 0).astype(jnp.float32))

    def build(x: jax.Array, graph: Dense | EdgeList) -> jax.Array:
        return GraphAttentionUnit(num_heads=HEADS, head_dim=FEATURES, num_kinds=R)(x, graph)

    params, apply = made(build, x, graph)
    expected = gatv2(params, np.asarray(x, np.float64), np.asarray(graph.weight_BRNM))
    for form in both(graph):
        np.testing.assert_allclose(apply(params, x, form), expected, atol=1e-5)
    assert not expected[:, 0].any() and expected[:, 1:].any()


def test_weights_of_a_graph_get_gradient_through_attention() -> None:
    graph, x = random_graph(), nodes()

    def build(x: jax.Array, graph: Dense) -> jax.Array:
        return GraphAttentionUnit(num_heads=HEADS, head_dim=FEATURES, num_kinds=R)(x, graph)

    params, apply = made(build, x, graph)
    slope = jax.grad(lambda g: jnp.sum(apply(params, x, g) ** 2))(graph).weight_BRNM
    # A single neighbour has all the attention, whatever its weight.
    several = (graph.weight_BRNM > 0).sum((1, 3)) > 1
    assert (jnp.abs(slope).sum((1, 3)) > 1e-6)[several].all()
    assert jnp.isfinite(slope).all()


def test_a_block_over_all_pairs_is_a_transformer_and_over_edges_is_not() -> None:
    x, graph = nodes(), random_graph()
    every = Dense(jnp.ones((B, 1, N, N)))

    def build(x: jax.Array, graph: Dense | EdgeList) -> jax.Array:
        return GraphTransformerBlock(num_heads=HEADS, head_dim=FEATURES, d_ff=8)(x, graph)

    params, apply = made(build, x, every)
    # A change at any node is seen by all of them, over edges by those alone that read it.
    moved = x.at[:, 2].add(1.0)
    assert (jnp.abs(apply(params, moved, every) - apply(params, x, every)) > 1e-6).any(-1).all()
    one = Dense(graph.weight_BRNM[:, :1])
    seen = (jnp.abs(apply(params, moved, one) - apply(params, x, one)) > 0).any(-1)
    reads = (one.weight_BRNM[:, 0, :, 2] > 0) | (jnp.arange(N) == 2)[None]
    np.testing.assert_array_equal(seen & ~reads, False)
    assert seen[:, 2].all() and (seen & reads).sum() > B


class Told(NamedTuple):
    usage: jax.Array


def test_neighbours_move_the_routers_logits() -> None:
    graph, x = random_graph(), nodes()
    weights_BN = jnp.ones((B, N))

    def experts(x_BND: jax.Array, *, weights_BT: jax.Array, spread: Any) -> tuple[jax.Array, Any]:
        return spread(x_BND), Told(weights_BT)

    expected = x + jnp.mean(graph.read(x), axis=1)
    for form in both(graph):
        y, told = GraphMoE(experts)(x, form, weights_BN=weights_BN)
        np.testing.assert_allclose(y, expected, atol=1e-5)
        np.testing.assert_array_equal(told.usage, weights_BN)


def test_experts_over_a_graph_without_edges_are_the_plain_ones() -> None:
    graph, x = random_graph(), nodes()
    none = Dense(jnp.zeros_like(graph.weight_BRNM))
    form = ExpertsConfig(num_experts=4, top_k=1, dispatch="dropless")

    def build(x: jax.Array, graph: Dense | None) -> Any:
        experts, weights = SparseExperts(form, d_ff=8, out_scale=1.0), jnp.ones((B, N))
        if graph is None:
            return experts(x, weights_BT=weights)
        return GraphMoE(experts)(x, graph, weights_BN=weights)

    params, _ = made(build, x, none)
    apply = jax.jit(hk.without_apply_rng(hk.transform(build)).apply)
    plain, alone, together = (apply(params, x, graph) for graph in (None, none, graph))
    np.testing.assert_allclose(alone[0], plain[0], atol=1e-6)
    assert np.abs(together[1].usage_E - plain[1].usage_E).max() > 0.05


def test_edges_that_were_not_chosen_learn_through_attention() -> None:
    """The derivative by a weight of 0 is that of a small one, and a single neighbour teaches."""
    graph, x = random_graph(), nodes()

    def build(x: jax.Array, graph: Dense) -> jax.Array:
        return GraphAttentionUnit(num_heads=HEADS, head_dim=FEATURES, num_kinds=R)(x, graph)

    params, apply = made(build, x, graph)

    def loss(weight: jax.Array) -> jax.Array:
        return jnp.sum(apply(params, x, Dense(weight)) ** 2)

    slope = jax.grad(loss)(graph.weight_BRNM)
    has_neighbours = np.asarray(graph.weight_BRNM).any(axis=(1, 3), keepdims=True)
    absent = np.argwhere((np.asarray(graph.weight_BRNM) == 0) & has_neighbours)[::17]
    loss, step = jax.jit(loss), 2e-4
    for place in map(tuple, absent):
        one, two = (
            (loss(graph.weight_BRNM.at[place].set(h)) - loss(graph.weight_BRNM)) / h
            for h in (step, 2 * step)
        )
        np.testing.assert_allclose(slope[place], 2 * one - two, rtol=0.05, atol=0.1)

    def learned(x: jax.Array) -> jax.Array:
        everyone = jnp.ones((B, N, N), bool)
        own = DynamicGraphBuilder(neighbours=1, num_kinds=R)(x, allowed_BNM=everyone)
        return GraphAttentionUnit(num_heads=HEADS, head_dim=FEATURES, num_kinds=R)(x, own)

    params, apply = made(learned, x)
    slopes = jax.grad(lambda p: jnp.sum(apply(p, x) ** 2))(params)
    assert jnp.abs(slopes["edges/query"]["w"]).max() > 1e-3


def test_a_neuron_is_the_formula_in_both_forms() -> None:
    graph, x, h = random_graph(), nodes(), nodes(5)

    def build(h: jax.Array, x: jax.Array, graph: Dense | EdgeList) -> jax.Array:
        return GraphNeuron(num_kinds=R)(h, x, graph)

    params, apply = made(build, h, x, graph)
    w = {name.split("/")[-1]: jax.tree.map(np.asarray, p) for name, p in params.items()}
    message = np.zeros((B, N, D))
    for b, r, n, m in np.ndindex(B, R, N, N):
        message[b, n] += graph.weight_BRNM[b, r, n, m] * np.asarray(h)[b, m] @ w["message"]["w"][r]
    seen = np.concatenate([h, message, x], axis=-1)
    z = 1 / (1 + np.exp(-(seen @ w["gate"]["w"] + w["gate"]["b"])))
    candidate = np.tanh(seen @ w["candidate"]["w"] + w["candidate"]["b"])
    for form in both(graph):
        got = apply(params, h, x, form)
        np.testing.assert_allclose(got, (1 - z) * h + z * candidate, atol=1e-5)


def reasoner(hops: int, *, halts: bool) -> Any:
    def build(x: jax.Array, graph: Dense | EdgeList) -> Any:
        return MultiHopGraphReasoner(num_kinds=R, halts=halts)(x, graph, hops=hops)

    return build


def test_more_hops_have_no_more_parameters() -> None:
    graph, x = random_graph(), nodes()
    (params, few), (same, many) = (made(reasoner(n, halts=True), x, graph) for n in (2, 5))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, same)
    assert few(params, x, graph).halt_BNK.shape == (B, N, 3)
    assert many(params, x, graph).halt_BNK.shape == (B, N, 6)


def test_a_reasoner_is_its_neuron_again_and_again() -> None:
    graph, x = random_graph(), nodes()
    params, apply = made(reasoner(3, halts=False), x, graph)

    def build(h: jax.Array, x: jax.Array, graph: Dense) -> jax.Array:
        return GraphNeuron(num_kinds=R)(h, x, graph)

    own = {name.removeprefix("reasoner/"): value for name, value in params.items()}
    neuron = hk.without_apply_rng(hk.transform(build)).apply
    h = x
    for _ in range(3):
        h = neuron(own, h, x, graph)
    np.testing.assert_allclose(apply(params, x, graph).state_BND, h, atol=1e-6)
    edges = both(graph)[1]
    np.testing.assert_allclose(apply(params, x, edges).state_BND, h, atol=1e-5)


def test_a_reasoner_may_be_a_block_again_and_again() -> None:
    graph, x = random_graph(), nodes()
    form = {"num_heads": HEADS, "head_dim": FEATURES, "d_ff": 8}

    def many(x: jax.Array, graph: Dense | EdgeList) -> Any:
        block = partial(GraphTransformerBlock, **form)
        return MultiHopGraphReasoner(num_kinds=R, halts=False, block=block)(x, graph, hops=3)

    def once(x: jax.Array, graph: Dense) -> jax.Array:
        return GraphTransformerBlock(**form, num_kinds=R)(x, graph)

    params, apply = made(many, x, graph)
    own = {name.removeprefix("reasoner/"): value for name, value in params.items()}
    block, h = hk.without_apply_rng(hk.transform(once)).apply, x
    for _ in range(3):
        h = block(own, h, graph)
    for form_of_graph in both(graph):
        np.testing.assert_allclose(apply(params, x, form_of_graph).state_BND, h, atol=1e-5)


def test_nodes_may_read_others_than_themselves() -> None:
    """As in decoding: the last node alone, over states of all."""
    graph, x = random_graph(), nodes()
    last = Dense(graph.weight_BRNM[:, :, -1:])

    def build(x: jax.Array, graph: Dense, read: jax.Array | None) -> jax.Array:
        block = GraphTransformerBlock(num_heads=HEADS, head_dim=FEATURES, d_ff=8, num_kinds=R)
        return block(x, graph, read_BMD=read)

    # States of 6, as others have here, are rounded by more than the bound on some processors.
    params, apply = made(build, x, graph, None, spread=0.05)
    expected = apply(params, x, graph, None)[:, -1:]
    np.testing.assert_allclose(apply(params, x[:, -1:], last, x), expected, atol=1e-6)
    other = apply(params, x[:, -1:], last, jnp.roll(x, 1, axis=1))
    assert np.abs(other - expected).max() > 0.01, "what is read shows"


def test_halting_is_a_distribution_over_hops() -> None:
    logit = jax.random.normal(jax.random.key(0), (1, 5, 3)) * 3
    share = np.asarray(halting(logit))
    np.testing.assert_allclose(share.sum(-1), 1.0, atol=1e-6)
    stop = 1 / (1 + np.exp(-np.asarray(logit)))
    np.testing.assert_allclose(share[..., 0], stop[..., 0], atol=1e-6)
    np.testing.assert_allclose(share[..., 1], (1 - stop[..., 0]) * stop[..., 1], atol=1e-6)
    np.testing.assert_allclose(share[..., 3], np.prod(1 - stop, axis=-1), atol=1e-6)


def test_halting_at_once_hands_on_what_was_given() -> None:
    graph, x = random_graph(), nodes()
    params, apply = made(reasoner(3, halts=True), x, graph)
    shut = dict(params)
    shut["reasoner/halt/logit"] = {
        "w": jnp.zeros((2 * D, 1)), "b": jnp.full((1,), 1e9)
    }  # fmt: skip
    thought = apply(shut, x, graph)
    stop = 1 / (1 + np.exp(-6.0))
    np.testing.assert_allclose(thought.halt_BNK[..., 0], stop, atol=1e-6)
    expected = (1 - stop) + (1 - stop) ** 2 + (1 - stop) ** 3
    np.testing.assert_allclose(thought.hops_BN, expected, atol=1e-5)


def permuted(graph: Dense, order: np.ndarray) -> Dense:
    return Dense(graph.weight_BRNM[:, :, order][:, :, :, order])


def test_the_order_of_nodes_means_nothing() -> None:
    graph, x = random_graph(), nodes()
    order = np.random.default_rng(0).permutation(N)

    def build(x: jax.Array, graph: Dense) -> jax.Array:
        allowed = jnp.ones((B, N, N), bool)
        learned = DynamicGraphBuilder(neighbours=3, num_kinds=R)(x, allowed_BNM=allowed)
        y = GraphAttentionUnit(num_heads=HEADS, head_dim=FEATURES, num_kinds=R)(x, learned)
        return MultiHopGraphReasoner(num_kinds=R, halts=True)(y, graph, hops=3).state_BND

    params, apply = made(build, x, graph)
    straight = apply(params, x, graph)
    turned = apply(params, x[:, order], permuted(graph, order))
    np.testing.assert_allclose(turned, straight[:, order], atol=1e-5)
    assert np.abs(turned - straight).max() > 1e-2


@pytest.mark.parametrize("select", SELECTIONS)
def test_a_learned_graph_is_sparse_causal_and_adds_up(select: str) -> None:
    allowed = jnp.broadcast_to(jnp.tril(jnp.ones((N, N), bool), k=-1)[None], (B, N, N))

    def build(x: jax.Array) -> jax.Array:
        builder = DynamicGraphBuilder(neighbours=2, num_kinds=R, select=SELECTIONS[select])
        return builder(x, allowed_BNM=allowed).weight_BRNM

    params, apply = made(build, nodes())
    weight = np.asarray(apply(params, nodes()))
    assert not weight[:, :, ~np.tril(np.ones((N, N), bool), k=-1)].any()
    np.testing.assert_allclose(weight[:, :, 1:].sum(-1), 1.0, atol=1e-6)
    chosen = (weight > 0).sum(-1)
    most = np.arange(N) if select == "dense" else np.minimum(np.arange(N), 2)
    np.testing.assert_array_equal(chosen, np.broadcast_to(most, chosen.shape))


def scores(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    score = jax.random.normal(jax.random.key(seed), (1, 1, 1, 5))
    return score, jnp.array([[[True, True, True, True, False]]])


def test_edges_that_were_not_chosen_learn_straight_through() -> None:
    score, allowed = scores()
    goal = jnp.arange(5.0)[None, None, None]

    def slope(select: str) -> np.ndarray:
        def loss(score: jax.Array) -> jax.Array:
            return jnp.sum(SELECTIONS[select](score, allowed, 2) * goal)

        return np.asarray(jax.grad(loss)(score))[0, 0, 0]

    def value(select: str) -> np.ndarray:
        return np.asarray(SELECTIONS[select](score, allowed, 2))[0, 0, 0]

    np.testing.assert_array_equal(value("straight_through"), value("top_k"))
    np.testing.assert_array_equal(slope("straight_through"), slope("dense"))
    assert (slope("straight_through")[:4] != 0).all() and slope("straight_through")[4] == 0
    chosen = value("top_k") > 0
    assert (slope("top_k")[chosen] != 0).all() and (slope("top_k")[~chosen] == 0).all()


def test_queries_and_keys_begin_equal_and_are_two() -> None:
    def build(x: jax.Array, tied: bool) -> jax.Array:
        allowed = jnp.ones((B, N, N), bool)
        return DynamicGraphBuilder(neighbours=2, tied=tied)(x, allowed_BNM=allowed).weight_BRNM

    pure = hk.without_apply_rng(hk.transform(build))
    init = jax.jit(pure.init, static_argnums=2)
    tied, free = (init(jax.random.key(0), nodes(), tied) for tied in (True, False))
    np.testing.assert_array_equal(tied["edges/query"]["w"], tied["edges/key"]["w"])
    assert (tied["edges/query"]["w"] != free["edges/key"]["w"]).any()

    def loss(params: Any) -> jax.Array:
        return jnp.sum(pure.apply(params, nodes(), True)[..., 0] ** 2)

    grads = jax.jit(jax.grad(loss))(tied)
    assert (grads["edges/query"]["w"] != grads["edges/key"]["w"]).any()


def test_a_walk_follows_pointers() -> None:
    random = np.random.default_rng(0)
    to = np.stack([random.permutation(N) for _ in range(B)])
    graph = Dense(jax.nn.one_hot(to, N)[:, None])
    start = jax.nn.one_hot(jnp.tile(jnp.arange(N)[None], (B, 1)), N)
    walked = walk(start, graph, hops=4)
    place = np.tile(np.arange(N), (B, 1))
    for hop in range(5):
        np.testing.assert_array_equal(np.argmax(walked[:, hop], axis=-1), place)
        place = np.take_along_axis(to, place, axis=1)
    np.testing.assert_allclose(walk(start, both(graph)[1], hops=4), walked, atol=1e-6)
    hops_BQ = jnp.asarray(random.integers(0, 5, size=(B, N)))
    picked = after(walked, hops_BQ)
    for b, q in np.ndindex(B, N):
        np.testing.assert_array_equal(picked[b, q], walked[b, hops_BQ[b, q], q])


@pytest.mark.parametrize("edges", [6, 12, 25])
def test_reach_distance_and_components_are_those_of_networkx(edges: int) -> None:
    graphs = [nx.gnm_random_graph(12, edges, seed=seed, directed=True) for seed in range(4)]
    edge = jnp.asarray(np.stack([nx.to_numpy_array(graph) > 0 for graph in graphs]))
    found, label = np.asarray(distances(edge)), np.asarray(components(edge))
    reached = {hops: np.asarray(reachable(edge, hops=hops)) for hops in (1, 3, 11)}
    for b, graph in enumerate(graphs):
        lengths = dict(nx.all_pairs_shortest_path_length(graph))
        for n, m in np.ndindex(12, 12):
            assert found[b, n, m] == lengths[n].get(m, FAR)
            for hops, table in reached.items():
                assert table[b, n, m] == (lengths[n].get(m, FAR) <= hops)
        for hang in nx.weakly_connected_components(graph):
            assert {int(label[b, n]) for n in hang} == {max(hang)}
