"""What modules declare: costs as the compiler counts them, and a line for each that is there."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel
from rtdlm.models.contracts import CONTRACTS, contract_table
from tests.models.small import small_config

WIDE: dict[str, Any] = {
    "vocab_size": 512, "d_model": 64, "num_heads": 4, "num_layers": 3, "d_ff": 256,
    "max_seq_len": 64,
}  # fmt: skip
CORE: dict[str, Any] = {"use_compute_controller": True, "controller_strategy": "thorough"}
FORMS: dict[str, dict[str, Any]] = {
    "memory": {"memory": {"segment": 64, "stm_window": 32, "every": 1}},
    "window": {"memory": {"segment": 64, "stm_window": 32, "stm_form": "attention"}},
    "knowledge": {"knowledge": {"kind": "product_key", "every": 1, "rows": 40, "top_k": 6}},
    "graph": {"graph": {"hops": 2, "every": 1}},
    "quantum": {"quantum_layers": 3, "quantum": {"num_rounds": 1, "num_qubits": 8}},
}


def counted(config: AGIConfig) -> float:
    """Operations a token, by the compiler."""
    model = TMSModel(config)
    ids = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    memory = jax.eval_shape(lambda: model.empty_memory(2))
    compiled = jax.jit(model.read).lower(model.shapes, ids, memory=memory).compile()
    counts = compiled.cost_analysis()
    assert counts is not None
    return float(counts["flops"]) / (2 * 64)


@pytest.mark.parametrize("name", FORMS)
def test_a_module_costs_what_it_declares(name: str) -> None:
    """Norms and the like, which the compiler counts too, are a few percent of a module."""
    config = AGIConfig.from_dict(WIDE | FORMS[name])
    added = counted(config) - counted(AGIConfig.from_dict(WIDE))
    assert CONTRACTS[name].cost(config) == pytest.approx(added / 3, rel=0.08)


def test_a_step_costs_what_it_declares() -> None:
    few, more = (
        AGIConfig.from_dict(WIDE | CORE | {"controller": {"max_steps": n}}) for n in (2, 3)
    )
    declared = CONTRACTS["depth"].cost(few)
    assert declared == CONTRACTS["depth"].cost(more)
    assert declared == pytest.approx(counted(more) - counted(few), rel=0.05)


def test_the_plan_lists_what_is_there() -> None:
    assert contract_table(small_config()) == []
    config = AGIConfig.from_dict(WIDE | CORE | FORMS["graph"] | FORMS["knowledge"])
    assert [line.split(":")[0] for line in contract_table(config)] == [
        "depth", "knowledge", "graph",
    ]  # fmt: skip
    both = {**FORMS["window"]["memory"], "task_tokens": 2, "every": 3}
    lines = contract_table(AGIConfig.from_dict(WIDE | {"memory": both}))
    assert [line.split(":")[0] for line in lines] == ["memory", "window"]
    assert set(FORMS) | {"depth"} == set(CONTRACTS)
