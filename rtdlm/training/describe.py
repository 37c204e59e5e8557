"""What a config amounts to before anything runs: `python -m rtdlm.train --dry-run`."""

from typing import Any, NamedTuple

import jax

from rtdlm.checkpoint.group import Alone
from rtdlm.config import AGIConfig, to_yaml
from rtdlm.models import TMSModel
from rtdlm.models.contracts import contract_table
from rtdlm.models.cost import count_parameters, train_flops_per_token
from rtdlm.parallel import mesh_of, slice_of
from rtdlm.training.optimizer import make_optimizer
from rtdlm.training.planning import compile_step, decide_mesh
from rtdlm.training.planning.remembered import remembered
from rtdlm.training.source import Source, told
from rtdlm.training.state import state_shapes


class Memory(NamedTuple):
    """Of one device during a step, by the compiler's own count [bytes]."""

    parameters: int
    """Over all devices."""
    optimizer: int
    """Over all devices."""
    arguments: int
    """State and batch on one device."""
    temporary: int
    """Activations, gradients and work space on one device."""


def step_memory(config: AGIConfig) -> Memory:
    """Compiles the step for the devices at hand, without making a single array."""
    model = TMSModel(config)
    state = state_shapes(model, make_optimizer(config.optimizer))
    compiled = compile_step(config, mesh_of(config))
    found = compiled.memory_analysis()
    return Memory(
        parameters=_bytes(state.params),
        optimizer=_bytes(state.optimizer),
        arguments=found.argument_size_in_bytes,
        temporary=found.temp_size_in_bytes,
    )


def describe(config: AGIConfig, *, source: Source | None = None) -> str:
    """The resolved config, parameter counts, cost and memory, for a person.

    Raises:
        UserError: the model `source` that the run would start from is damaged or does not fit.
    """
    config, reasons = decide_mesh(config, slice_of(jax.devices()))
    model = TMSModel(config)
    config = model.config
    origin = None if source is None else source.origin or source.read(model, Alone())[1]
    count, memory = count_parameters(config), step_memory(config)
    tokens = config.batch_size * config.max_seq_len
    rows = {} if origin is None else {"starts from": told(origin)}
    rows |= {
        "parameters": f"{count.total:,} total, {count.active:,} active a token, "
        f"{count.embedding:,} in embedding tables",
        "step": f"{tokens:,} tokens, {train_flops_per_token(config) * tokens / 1e9:,.1f} GFLOP",
        "parameter memory": _megabytes(memory.parameters),
        "optimizer memory": _megabytes(memory.optimizer),
        "peak memory": f"{_megabytes(memory.arguments + memory.temporary)} a device of "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}: {_megabytes(memory.arguments)} "
        f"state and batch, {_megabytes(memory.temporary)} activations, gradients and work space",
    }
    if config.memory.has_tiers:
        rows["memory state"] = remembered(model)
    lines = [f"{name + ':':18}{value}" for name, value in rows.items()]
    return "\n".join([to_yaml(config), *lines, *reasons, *contract_table(config)])


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
