"""How much is remembered across segments, in a line."""

import jax

from rtdlm.models import TMSModel


def remembered(model: TMSModel) -> str:
    """Bytes of memory that a row has, however long it is, and of which tiers."""
    config = model.config
    state = jax.eval_shape(lambda: model.empty_memory(1))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    told = f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
    return (
        f"{told} a row, in segments of {config.memory.segment} tokens: "
        f"{', '.join(config.memory.tiers)}"
    )
