"""What a new run refuses of its memory, since it would have no effect or never be trained.

Not a part of `MemoryConfig`: models that were saved with such settings are still read, evaluated
and trained on.
"""

from rtdlm.config import AGIConfig
from rtdlm.config.effect import require
from rtdlm.config.memory import MemoryConfig


def check_memory(config: AGIConfig, *, inherits: bool) -> None:
    """Raises UserError where a part of the memory would never be read, chosen or weighed.

    Args:
        config: of a run that begins.
        inherits: the run starts from a model, whose memory stays as it is.
    """
    memory = config.memory
    unread = [tier for tier in memory.tiers if tier != "recurrent"]
    ways = "longer rows or memory.across_steps=true"
    require(
        not unread or memory.segment != config.max_seq_len or memory.across_steps,
        f"memory.segment={memory.segment} is as long as rows, and each begins with an empty "
        f"memory, so that {' and '.join(unread)} would never be read in training; choose "
        f"{ways if inherits else f'a smaller segment, {ways}'}",
    )
    if not inherits:
        _check_choices(memory)


def _check_choices(memory: MemoryConfig) -> None:
    require(
        memory.task_slots != 1,
        "memory.task_slots=1 leaves nothing to choose; use at least 2, or remove it",
    )
    if memory.fusion != "hierarchical":
        return
    tiers = memory.layer_tiers
    require(
        len(tiers) > 1,
        f"memory.fusion='hierarchical' shares between tiers and there is only {' '.join(tiers)}; "
        "use 'gated' or another tier",
    )
    weights = {"stm": "stm_weight", "mtm": "mtm_weight"}
    opened = {weights.get(tier, "ltm_weight") for tier in tiers[:-1]}
    last = weights.get(tiers[-1], "ltm_weight")
    require(
        last in opened or getattr(memory, last) is None,
        f"memory.{last}={getattr(memory, last)} has no effect with memory.fusion='hierarchical', "
        f"whose last tier, {tiers[-1]}, takes what is left; remove it",
    )
