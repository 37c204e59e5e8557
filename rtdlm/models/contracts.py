"""The modules that compute may be spent on: what each costs, needs and offers.

    print(contract_table(config))

One line of `CONTRACTS` a module; the plan of a run (`python -m rtdlm.train --dry-run`) prints those
that its configuration has. Costs are operations of one layer and one token, by the formulas of
`rtdlm.models.cost`, which tests hold to the compiler's count.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rtdlm.config import AGIConfig, GraphConfig, KnowledgeConfig
from rtdlm.config.memory import MemoryConfig
from rtdlm.config.quantum import QuantumConfig
from rtdlm.models.called_cost import products_of_calls
from rtdlm.models.cost import forward_flops_per_token
from rtdlm.models.layers import layer_plans
from rtdlm.modules.controller import Contract, Unit


def _off(config: AGIConfig) -> dict[str, dict[str, Any]]:
    """The fields that a configuration without the module has."""
    memory = config.memory
    of_layers, windowless = MemoryConfig(), memory
    attended: dict[str, Any] = {}
    if memory.is_attended:
        attended |= {"stm_window": memory.stm_window, "stm_form": memory.stm_form}
    if memory.attends_tasks:
        attended |= {"task_tokens": memory.task_tokens, "task_form": memory.task_form}
    if attended:
        of_layers = MemoryConfig(memory.segment, **attended)
        windowless = replace(
            memory, backprop_segments=None, across_steps=False, mtm_scope=None,
            **{name: getattr(MemoryConfig(), name) for name in attended},
        )  # fmt: skip
    return {
        "memory": {"memory": of_layers},
        "window": {"memory": windowless},
        "knowledge": {"knowledge": KnowledgeConfig()},
        "graph": {"graph": GraphConfig()},
        "quantum": {"quantum": QuantumConfig(), "quantum_layers": 0},
    }


def _beside(name: str) -> Callable[[AGIConfig], float]:
    """What one layer's module adds to a token."""

    def cost(config: AGIConfig) -> float:
        if name in config.called:
            return float(2 * products_of_calls(config)[name])
        layers = sum(getattr(plan, name) for plan in layer_plans(config))
        if not layers:
            return 0.0
        length = config.max_seq_len
        without = replace(config, **_off(config)[name])
        added = forward_flops_per_token(config, length=length)
        return (added - forward_flops_per_token(without, length=length)) / layers

    return cost


def step_cost(config: AGIConfig) -> float:
    """Operations of one step of a controller's core for one token, without what it calls."""
    if not config.core_layers:
        return 0.0
    steps, length = config.controller.steps, config.max_seq_len
    more = replace(config, controller=replace(config.controller, max_steps=steps + 1))
    whole = forward_flops_per_token(config, length=length)
    calls = 2 * sum(products_of_calls(config).values())
    return float(forward_flops_per_token(more, length=length) - whole - calls)


def call_costs(config: AGIConfig) -> tuple[float, ...]:
    """What a call of each of `config.called` costs [steps of the core]."""
    if not config.called:
        return ()
    step = step_cost(config)
    return tuple(2 * products / step for products in products_of_calls(config).values())


CONTRACTS: dict[str, Contract] = {
    contract.name: contract
    for contract in (
        Contract(
            "depth",
            needs=("use_compute_controller",),
            offers="another step of the core",
            skipped="the token as it is, read by others as it was when it stopped",
            unit="token",
            cost=step_cost,
        ),
        Contract(
            "memory",
            needs=("memory.segment", "a tier"),
            offers="what was read in earlier segments",
            skipped="zeros; what the segment leaves behind is written all the same",
            unit="batch",
            cost=_beside("memory"),
        ),
        Contract(
            "window",
            needs=("memory.stm_form=attention or memory.task_form=attention",),
            offers="attention to what stood before its segment",
            skipped="attention within the segment; keys and values are kept all the same",
            unit="batch",
            cost=_beside("window"),
        ),
        Contract(
            "knowledge",
            needs=("knowledge.kind",),
            offers="rows of a trained table",
            skipped="zeros",
            unit="batch",
            cost=_beside("knowledge"),
        ),
        Contract(
            "graph",
            needs=("graph.hops",),
            offers="hops over learned edges between tokens",
            skipped="zeros",
            unit="batch",
            cost=_beside("graph"),
        ),
        Contract(
            "quantum",
            needs=("quantum_layers",),
            offers="expectation values of a circuit, or overlaps of states",
            skipped="zeros",
            unit="batch",
            cost=_beside("quantum"),
        ),
    )
}
"""Name -> contract. `experts` and `depths` exchange a layer's work and add none; see docs."""


def unit_of(contract: Contract, config: AGIConfig) -> Unit:
    """The smallest part of a batch that may skip it on its own, in a model of `config`."""
    return "token" if contract.name in config.called else contract.unit


def contract_table(config: AGIConfig) -> list[str]:
    """A line for each module that `config` has; none without any."""
    found = [(contract, contract.cost(config)) for contract in CONTRACTS.values()]
    return [
        f"{contract.name}: {cost:,.0f} operations a token, by the {unit_of(contract, config)}; "
        f"offers {contract.offers}; left out: {contract.skipped}"
        for contract, cost in found
        if cost
    ]
