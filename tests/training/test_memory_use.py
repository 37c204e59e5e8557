"""What a new run refuses of its memory, and a saved model keeps."""

from typing import Any

import pytest

from rtdlm.config import AGIConfig, UserError
from rtdlm.training.memory_use import check_memory
from tests.models.small import small_config

PAIR = {"segment": 4, "stm_window": 4, "task_tokens": 2}


def of(length: int = 8, **memory: Any) -> AGIConfig:
    return small_config(max_seq_len=length, memory={**PAIR, **memory})


def test_a_memory_that_no_row_can_read_is_refused() -> None:
    for inherits, ways in ((False, "a smaller segment, longer rows or"), (True, "longer rows or")):
        with pytest.raises(UserError, match=f"stm and mtm would never be .*; choose {ways} mem"):
            check_memory(of(length=4), inherits=inherits)
    check_memory(of(length=4, across_steps=True), inherits=False)
    check_memory(of(), inherits=False)
    recurrent = small_config(max_seq_len=4, memory={"segment": 4, "recurrent": "gated_delta"})
    check_memory(recurrent, inherits=False)


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ({"task_slots": 1}, "memory.task_slots=1 leaves nothing to choose; use at least 2"),
        (
            {"fusion": "hierarchical", "mtm_weight": 0.2},
            "memory.mtm_weight=0.2 has no effect with memory.fusion='hierarchical', whose last "
            "tier, mtm, takes what is left; remove it",
        ),
        (
            {"fusion": "hierarchical", "task_tokens": 0},
            "memory.fusion='hierarchical' shares between tiers and there is only stm; use 'gated'",
        ),
    ],
)
def test_a_choice_without_effect_is_refused_unless_it_is_inherited(
    memory: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as refused:
        check_memory(of(**memory), inherits=False)
    assert words in str(refused.value)
    check_memory(of(**memory), inherits=True)
    AGIConfig.from_dict(of(**memory).to_dict())  # as a checkpoint brings it


def test_weights_of_a_hierarchy_that_are_read_are_taken() -> None:
    check_memory(of(fusion="hierarchical", stm_weight=0.2), inherits=False)
    long_term = {"recurrent": "gated_delta", "summary_slots": 2, "summary_chunk": 2}
    three = of(fusion="hierarchical", ltm_weight=0.2, task_tokens=0, **long_term)
    check_memory(three, inherits=False)
