"""Loops of layers: whatever the pattern, the layers come in order and rounds are found."""

from itertools import product

import pytest

from rtdlm.config import AGIConfig, UserError
from rtdlm.models.layers import LayerPlan, Segment, core_plans, layer_plans, segments

LOCAL, GLOBAL = LayerPlan("sliding", experts=False), LayerPlan("gqa", experts=False)
DENSE, SPARSE = GLOBAL, LayerPlan("gqa", experts=True)


def config(layers: int, **overrides: object) -> AGIConfig:
    return AGIConfig(num_layers=layers).replace(**overrides)


def local_to_global(layers: int, every: int) -> AGIConfig:
    return config(layers, attention_type="sliding", attention={"global_every": every})


def test_equal_layers_are_one_loop() -> None:
    assert segments(config(7)) == (Segment((GLOBAL,), 7),)


def test_five_local_layers_to_one_global() -> None:
    found = segments(local_to_global(26, 6))
    assert found == (Segment((LOCAL,) * 5 + (GLOBAL,), 4), Segment((LOCAL,) * 2, 1))


def test_a_sandwich_is_three_loops() -> None:
    found = segments(config(8, experts={"num_experts": 4, "layers": "sandwich"}))
    assert found == (Segment((DENSE,), 1), Segment((SPARSE,), 6), Segment((DENSE,), 1))


def test_every_second_layer_has_experts() -> None:
    found = segments(config(6, experts={"num_experts": 4, "every": 2}))
    assert found == (Segment((DENSE, SPARSE), 3),)


@pytest.mark.parametrize("kind", ["product_key", "ngram"])
def test_every_third_layer_has_a_memory(kind: str) -> None:
    found = segments(config(7, knowledge={"kind": kind, "every": 3}))
    knowing = GLOBAL._replace(knowledge=True)
    assert found == (Segment((GLOBAL, GLOBAL, knowing), 2), Segment((GLOBAL,), 1))


def test_every_second_layer_has_a_graph() -> None:
    found = segments(config(5, graph={"hops": 2}))
    assert found == (
        Segment((GLOBAL, GLOBAL._replace(graph=True)), 2), Segment((GLOBAL,), 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sparse", "every", "layers"),
    [
        (sparse, every, layers)
        for sparse, every, layers in product(("every", "sandwich"), (2, 3, 5), (1, 2, 3, 5, 8, 13))
        # The others are refused, see below.
        if every <= layers and (sparse == "every" or layers >= 3)
    ],
)
def test_loops_run_every_layer_in_order(layers: int, every: int, sparse: str) -> None:
    experts = {"num_experts": 2, "layers": sparse}
    if sparse == "every":
        experts["every"] = min(layers, 3)
    whole = local_to_global(layers, every).replace(experts=experts)
    run = tuple(plan for segment in segments(whole) for plan in segment.layers)
    assert run == layer_plans(whole)
    assert sum(plan.attention == "gqa" for plan in run) == layers // every


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"attention": {"global_every": 2}}, "attention.global_every=2 has no effect"),
        (
            {"attention_type": "sliding", "attention": {"global_every": 9}},
            "attention.global_every=9 exceeds num_layers=4",
        ),
        (
            {"attention_type": "sliding", "attention": {"global_every": 1}},
            "attention.global_every=1 must be at least 2",
        ),
        (
            {"knowledge": {"kind": "ngram", "every": 5}},
            "knowledge.every=5 exceeds num_layers=4: no layer would have a memory",
        ),
        ({"experts": {"every": 2}}, "experts.every=2 has no effect with experts.num_experts=0"),
        (
            {"experts": {"num_experts": 4, "every": 5}},
            "experts.every=5 exceeds num_layers=4",
        ),
        (
            {"experts": {"num_experts": 4, "every": 2, "layers": "sandwich"}},
            "experts.every=2 has no effect with experts.layers='sandwich'",
        ),
        (
            {"num_layers": 2, "experts": {"num_experts": 4, "layers": "sandwich"}},
            "experts.layers='sandwich' leaves no layer with experts at num_layers=2",
        ),
    ],
)
def test_patterns_that_say_nothing_are_refused(overrides: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        AGIConfig().replace(**overrides)


def test_a_controllers_core_is_no_part_of_the_loops() -> None:
    """What is set for every n-th or the last layers is of those before it."""
    found = config(
        5, use_compute_controller=True, controller={"core_layers": 2},
        graph={"hops": 1, "every": 3}, quantum_layers=1,
    )  # fmt: skip
    assert segments(found) == (
        Segment((GLOBAL,), 2), Segment((GLOBAL._replace(graph=True, quantum=True),), 1),
    )  # fmt: skip
    assert core_plans(found) == (GLOBAL._replace(core=True),) * 2
    assert core_plans(config(5)) == ()
