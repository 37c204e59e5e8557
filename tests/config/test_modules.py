"""Graphs and quantum circuits in a config: what does not go together is refused in one sentence."""

import re
from typing import Any

import pytest

from rtdlm.config import (
    BALANCED_CONFIG,
    FAST_CONFIG,
    THOROUGH_CONFIG,
    AGIConfig,
    UserError,
)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"graph": {"hops": -1}},
            "graph.hops=-1 must be 0 (no graph) or more",
        ),
        (
            {"graph": {"neighbours": 4}},
            "graph.neighbours=4 has no effect with graph.hops=0; set graph.hops, for instance to "
            "2, or remove it",
        ),
        (
            {"graph": {"hops": 2, "halting": False, "hop_price": 0.1}},
            "graph.hop_price=0.1 has no effect with graph.halting=False: all hops are taken; "
            "remove one",
        ),
        (
            {"graph": {"hops": 2, "messages": "attention", "dim": 12, "heads": 5}},
            "graph.heads=5 does not divide the 12 features of a token in the graph (graph.dim, or "
            "half of d_model); change one",
        ),
        (
            {"graph": {"hops": 2, "heads": 2}},
            "graph.heads=2 has no effect with graph.messages='sum', which has no heads; remove it "
            "or set graph.messages to 'attention'",
        ),
        (
            {"graph": {"hops": 2, "neighbours": 4, "selection": "dense"}},
            "graph.neighbours=4 has no effect with graph.selection='dense', which reads all; "
            "remove one",
        ),
        (
            {"graph": {"hops": 2, "neighbours": 1, "selection": "top_k"}},
            "graph.neighbours=1 with graph.selection='top_k' would teach no edge: the share of a "
            "single neighbour is one whatever its score; use 'straight_through' or more neighbours",
        ),
        (
            {"graph": {"hops": 2, "every": 9}},
            "graph.every=9 exceeds num_layers=4: no layer would have a graph; choose less",
        ),
        (
            {"graph": {"hops": 2}, "depths": {"capacity": 0.5}},
            "graph.hops=2 cannot be combined with depths.capacity=0.5 yet: a graph is over all "
            "tokens of a row; remove one",
        ),
        (
            {"graph": {"hops": 2}, "attention_type": "ring", "mesh": {"context": 2}},
            "graph.hops=2 cannot be combined with mesh.context=2 yet: a token may read any earlier "
            "one of its row; use mesh.data",
        ),
        (
            {
                "graph": {"hops": 2, "route_experts": True},
                "experts": {"num_experts": 4, "every": 3},
            },
            "graph.route_experts=True has no effect with experts.num_experts=4, "
            "experts.layers='every', experts.every=3 and graph.every=2: no layer has both experts "
            "and a graph; change one or remove it",
        ),
        ({"quantum_layers": 5}, "quantum_layers=5 is outside 0 to num_layers=4"),
        (
            {"quantum": {"num_qubits": 4}},
            "quantum.num_qubits=4 has no effect with quantum_layers=0; set quantum_layers, for "
            "instance to 1, or remove it",
        ),
        (
            {"quantum_layers": 1, "quantum": {"num_qubits": 30}},
            "quantum.num_qubits=30 is outside 1 to 16: every token has 2**num_qubits amplitudes",
        ),
        (
            {"quantum_layers": 1, "quantum": {"num_qubits": 1, "ansatz": "brick_wall"}},
            "quantum.ansatz='brick_wall' acts on pairs, and quantum.num_qubits=1 has none; use 2 "
            "qubits or more",
        ),
        (
            {"quantum_layers": 1, "quantum": {"num_rounds": 0}},
            "quantum.num_rounds=0 must be at least 1",
        ),
        (
            {"quantum_layers": 1, "quantum": {"kind": "attention"}, "depths": {"capacity": 0.5}},
            "quantum.kind='attention' cannot be combined with depths.capacity=0.5 yet: it reads "
            "all tokens of a row; remove one",
        ),
        (
            {
                "quantum_layers": 1,
                "quantum": {"kind": "attention"},
                "attention_type": "ring",
                "mesh": {"context": 2},
            },
            "quantum.kind='attention' cannot be combined with mesh.context=2 yet: a token may read "
            "any earlier one of its row; use mesh.data",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        AGIConfig.from_dict(overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"controller": {"max_steps": 3}},
            "controller.max_steps=3 has no effect with use_compute_controller=False; set it to "
            "true or remove the option",
        ),
        (
            {"controller_strategy": "fast"},
            "controller_strategy='fast' has no effect with use_compute_controller=False; set it "
            "to true or remove the option",
        ),
        (
            {"use_compute_controller": True, "controller": {"core_layers": 4}},
            "controller.core_layers=4 leaves no layer before the core at num_layers=4; choose "
            "fewer core layers or more layers",
        ),
        (
            {
                "use_compute_controller": True,
                "controller_strategy": "thorough",
                "controller": {"price": 0.1},
            },
            "controller.price=0.1 has no effect with controller_strategy='thorough', which takes "
            "every step; remove one",
        ),
        (
            {"use_compute_controller": True, "attention_type": "linear"},
            "attention_type='linear' cannot be combined with use_compute_controller=True yet: "
            "tokens that have stopped are read by 'mha', 'gqa' or 'mqa' only",
        ),
        (
            {"use_compute_controller": True, "depths": {"capacity": 0.5}},
            "depths.capacity=0.5 cannot be combined with use_compute_controller=True: both choose "
            "the tokens of a layer; remove one",
        ),
        (
            {"use_compute_controller": True, "experts": {"num_experts": 4}},
            "experts.num_experts=4 cannot be combined with use_compute_controller=True yet: "
            "capacity is of whole rows; remove one",
        ),
        (
            {"controller": {"calls": ["quantum"]}},
            "controller.calls=('quantum',) has no effect with use_compute_controller=False; set it "
            "to true or remove the option",
        ),
        (
            {"use_compute_controller": True, "controller": {"calls": ["quantum", "quantum"]}},
            "controller.calls=['quantum', 'quantum'] must be different ones of ['knowledge', "
            "'quantum'], at least one; remove it for none",
        ),
        (
            {"use_compute_controller": True, "controller": {"calls": []}},
            "controller.calls=[] must be different ones of ['knowledge', 'quantum'], at least one; "
            "remove it for none",
        ),
        (
            {"use_compute_controller": True, "controller": {"calls": ["knowledge"]}},
            "controller.calls=['knowledge'] calls a memory that is not there with "
            "knowledge.kind='none'; choose a kind",
        ),
        (
            {
                "use_compute_controller": True,
                "controller": {"calls": ["knowledge"]},
                "knowledge": {"kind": "ngram", "every": 1},
            },
            "knowledge.every=1 has no effect with controller.calls=['knowledge']: the memory "
            "stands in the controller's core; remove one",
        ),
        (
            {"use_compute_controller": True, "controller": {"calls": ["quantum"]}},
            "controller.calls=['quantum'] needs quantum_layers=1, the one in the controller's "
            "core, not 0",
        ),
        (
            {
                "use_compute_controller": True,
                "controller": {"calls": ["quantum"]},
                "quantum_layers": 1,
                "quantum": {"kind": "attention"},
            },
            "controller.calls=['quantum'] cannot be combined with quantum.kind='attention': it "
            "reads all tokens of a row, and is not called for some; use quantum.kind='circuit'",
        ),
        (
            {"use_compute_controller": True, "controller": {"max_steps": 1}},
            "controller.max_steps=1 must be at least 2",
        ),
        (
            {"use_compute_controller": True, "controller": {"price": 0.0}},
            "controller.price=0.0 must be positive [nats]",
        ),
        (
            {"use_compute_controller": True, "controller": {"lowest_price": 2.0}},
            "controller.lowest_price=2.0 must be below controller.highest_price=1.0",
        ),
        (
            {"use_compute_controller": True, "controller": {"even_share": 0.0}},
            "controller.even_share=0.0 is outside (0, 1]: exits without any share of the loss "
            "would not be trained",
        ),
        (
            {"use_compute_controller": True, "graph": {"hops": 2, "every": 4}},
            "graph.every=4 exceeds the 3 layers before the controller's core (num_layers=4 less "
            "controller.core_layers=1): no layer would have a graph; choose less",
        ),
        (
            {"use_compute_controller": True, "quantum_layers": 4},
            "quantum_layers=4 is outside 0 to the 3 layers before the controller's core "
            "(num_layers=4 less controller.core_layers=1)",
        ),
    ],
)
def test_a_controller_that_cannot_be_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        AGIConfig.from_dict(overrides)


def test_strategies_are_budgets_in_order() -> None:
    assert FAST_CONFIG.budget < BALANCED_CONFIG.budget < THOROUGH_CONFIG.budget == 1.0
    config = AGIConfig(use_compute_controller=True, controller_strategy="balanced")
    assert (config.core_layers, config.stacked_layers, config.strategy) == (1, 3, "balanced")
    assert AGIConfig().core_layers == 0
