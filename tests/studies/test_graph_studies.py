"""The studies of graphs: their examples by hand, their arithmetic, and each once at a tiny size."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from rtdlm.evaluation.results import read_results
from rtdlm.modules.graph import FAR
from studies import graph_hops, graph_reach, graph_text
from studies.__main__ import main
from studies.graph_hops import CODE
from studies.kinds import SIZES


def test_pointers_lead_where_the_answer_says() -> None:
    examples = graph_hops.draw(jax.random.key(0), batch=6, nodes=9, hops=(1, 8))
    source, target = np.asarray(examples.source_BNC), np.asarray(examples.target_BNC)
    assert source.shape == (6, 9, CODE)
    for b in range(6):
        leads = {n: int(np.argmax(source[b] @ target[b, n])) for n in range(9)}
        np.testing.assert_allclose([source[b, leads[n]] for n in leads], target[b], atol=1e-6)
        place = start = int(np.argmax(source[b] @ np.asarray(examples.asked_BC)[b]))
        seen = [place]
        for _ in range(int(examples.hops_B[b])):
            place = leads[place]
            seen.append(place)
        assert place == int(examples.answer_B[b])
        assert len(set(seen)) == len(seen), "no other number of hops ends there"
        assert start in leads.values()


def test_the_control_weighs_what_scores_above_zero() -> None:
    score = jnp.array([[[[1.0, -1.0, 2.0, 3.0]]]])
    allowed = jnp.array([[[True, True, True, False]]])
    np.testing.assert_allclose(graph_hops.threshold(score, allowed, 1)[0, 0, 0], [0.5, 0, 0.5, 0])


def hops_ran(share: float, edges: float, name: str) -> graph_hops.Ran:
    right = dict.fromkeys(graph_hops.tests_of(name), share)
    return graph_hops.Ran(right, right, edges, 1.0, 7, 0.5, 0.01)


@pytest.mark.parametrize(
    ("name", "test", "share", "holds"),
    [
        ("tied", "8 hops", 0.995, True),
        ("tied", "8 hops", 0.98, False),
        ("control: tied, threshold", "2 hops", 0.1, True),
        ("control: tied, threshold", "2 hops", 0.3, False),
        ("control: tied, threshold", "1 hop", 0.3, None),
        ("independent", "8 hops", 0.3, False),
        ("independent, dense", "8 hops", 0.3, None),
        ("tied, hops allowed 3", "3 hops", 0.995, True),
        ("tied, hops allowed 2", "3 hops", 0.995, False),
        ("tied, hops allowed 2", "3 hops", 0.1, True),
    ],
)
def test_hops_have_to_be_walked(name: str, test: str, share: float, holds: bool | None) -> None:
    found = {r.name: r for r in graph_hops.results({name: [hops_ran(share, 0.0, name)]})}
    assert found[f"{name}/{test}"].holds is holds


def test_edges_must_learn_and_the_controls_must_not() -> None:
    def holds(name: str, edges: float) -> bool | None:
        found = graph_hops.results({name: [hops_ran(1.0, edges, name)]})
        verdict: bool | None = next(r.holds for r in found if "gradient" in r.name)
        return verdict

    assert (holds("tied", 0.1), holds("tied", 0.0)) == (True, False)
    control = graph_hops.CONTROL
    assert (holds(control, 0.0), holds(control, 0.1)) == (True, False)


def test_the_transformer_has_fifty_times_the_parameters() -> None:
    def parameters(name: str) -> int:
        net = graph_hops.nets(graph_hops.WHOLE)[name](3)
        examples = graph_hops.draw(jax.random.key(0), batch=2, nodes=12, hops=(1, 3))
        shapes = jax.eval_shape(net.init, jax.random.key(0), examples)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert 50 <= parameters("transformer") / parameters("tied") < 55


def test_distances_are_those_of_networkx() -> None:
    examples = graph_reach.draw(jax.random.key(3), batch=3, nodes=16)
    for edge, source, distance in zip(*map(np.asarray, examples), strict=True):
        graph = nx.from_numpy_array(edge.astype(int))
        assert (edge == edge.T).all() and not edge.diagonal().any()
        far = nx.single_source_shortest_path_length(graph, int(np.argmax(source)))
        assert [far.get(n, FAR) for n in range(16)] == distance.tolist()


def test_answers_are_counted() -> None:
    distance = jnp.array([[0, 1, 13, FAR]])
    examples = graph_reach.Examples(jnp.zeros((1, 4, 4), bool), jnp.zeros((1, 4)), distance)
    found = graph_reach.score(jnp.array([[0, 2, 13, 20]]), examples, most=20)
    assert found == graph_reach.Score(distance=0.75, reach=1.0, beyond=1.0)
    found = graph_reach.score(jnp.array([[0, 1, 20, 3]]), examples, most=20)
    assert found == graph_reach.Score(distance=0.5, reach=0.5, beyond=0.0)


def parameters_of(net: Any) -> int:
    examples = graph_reach.draw(jax.random.key(0), batch=2, nodes=16)
    shapes = jax.eval_shape(net(12).init, jax.random.key(0), examples)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_transformers_are_not_smaller() -> None:
    sizes = {name: parameters_of(net) for name, net in graph_reach.NETS.items()}
    ours = sizes.pop("reasoner")
    ten = sizes.pop("transformer, 4 layers, ten times the parameters")
    assert ten / ours > 9
    assert all(0.95 < size / ours < 1.3 for size in sizes.values()), (ours, sizes)


def test_the_wider_model_has_the_parameters_of_the_graph() -> None:
    base = {**SIZES["small"].config, "vocab_size": 65}
    found = {v.name: v.change for v in graph_text.variants(base)}
    wide = found["no graph: as many parameters"]
    assert graph_text.as_wide(base, {}) == base["d_ff"]
    assert wide["d_ff"] > base["d_ff"]


@pytest.mark.parametrize(
    ("study", "only"), [("graph_hops", ""), ("graph_reach", ""), ("graph_text", "1 hops")]
)
def test_a_study_runs(study: str, only: str, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    rest = ["--only", only] if only else []
    assert main([study, "--smoke", "--out", str(out), *rest]) == 0
    results = read_results(out).results
    assert len(results) > 5 and not (tmp_path / "found.partial").exists()


def test_none_is_as_likely_on_graphs_of_any_size_before_training() -> None:
    """A transformer that was never asked for a distance must not be judged by its score of it."""
    examples = graph_reach.draw(jax.random.key(0), batch=2, nodes=16)
    few, many = (graph_reach.NETS["transformer, 4 layers"](hops) for hops in (12, 32))
    params = jax.jit(few.init)(jax.random.key(1), examples)
    short, long = (jax.jit(net.apply)(params, examples) for net in (few, many))
    assert (short.shape[-1], long.shape[-1]) == (13, 33)
    # Of the answers that both have, none among them, the odds are the same.
    odds = [log[..., -1] - log[..., 3] for log in (short, long)]
    np.testing.assert_allclose(odds[0], odds[1], atol=1e-5)
