"""What one device of a mesh computes, as a run of its own: its rows, heads and hidden features.

Tensor parallelism splits heads, hidden features and the vocabulary; a number that its axis does not
divide stays whole, as in `rtdlm.parallel.rules`. Batch axes split rows. Parameters are whole where
they are used, also under FSDP.
"""

from math import lcm
from typing import Any

from jax.sharding import AbstractMesh, Mesh

from rtdlm.config import AGIConfig, UserError
from rtdlm.config.mesh import AXES
from rtdlm.parallel import BATCH_AXES, heads_split

WHOLE_FROM_THE_START: dict[str, Any] = {
    "warmup": dict.fromkeys(("batch_size", "batch_steps", "seq_len", "seq_len_steps"))
}
ONE_DEVICE: dict[str, Any] = {
    "mesh": {"strategy": None} | {name: (-1 if name == "data" else 1) for name in AXES},
    "distributed_training": False,
    "tensor_parallel": False,
}


def local_config(config: AGIConfig, mesh: Mesh | AbstractMesh) -> AGIConfig:
    """The run of one device of `mesh`, on a mesh of its own."""
    ways = 1
    for axis in BATCH_AXES:
        ways *= mesh.shape[axis]
    tensor = mesh.shape["tensor"]
    rows = max(1, config.batch_size // (ways * config.accumulate_steps))
    overrides: dict[str, Any] = {
        "batch_size": rows * config.accumulate_steps,
        "max_seq_len": config.max_seq_len // mesh.shape["context"],
        **ONE_DEVICE,
        **WHOLE_FROM_THE_START,
    }
    whole = dict(overrides)
    if tensor > 1:
        overrides |= {
            "d_ff": _share(config.d_ff, tensor),
            "vocab_size": _share(config.vocab_size, tensor),
            "attention": {"head_dim": config.head_dim},
        }
        # Attention is apart on its heads or whole on each device, see `on_own_heads`.
        native = config.attention_type == "sparse" and config.attention.sparse_form == "native"
        apart = not native and config.attention_type != "spiking"
        if heads_split(config.num_heads, config.kv_heads, ways=tensor, split_groups=apart):
            overrides["num_heads"] = config.num_heads // tensor
            if config.num_kv_heads is not None:
                overrides["num_kv_heads"] = lcm(config.kv_heads, tensor) // tensor
    try:
        return config.replace(**overrides)
    except UserError:
        # Some choices go together only at full width: then heads and features count whole.
        return config.replace(**whole)


def _share(count: int, ways: int) -> int:
    return count // ways if count % ways == 0 else count
