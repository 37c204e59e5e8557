"""One table: a parameter's path decides how it lies on the mesh.

A rule names the mesh axis of each of a parameter's own dimensions. Layers are stacked along one
more leading dimension, which is never split. A path that matches no rule, or two, raises: a new
parameter must say where it goes. The optimizer's moments lie beside their parameters. A second
table says the same of what rows remember, from step to step and while they are decoded.
"""

import re
from math import prod
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from rtdlm.parallel.mesh import BATCH_AXES

Axes = tuple[str | None, ...]
ROWS = "rows"
"""Stands for the axes over which the rows of a batch are split."""

RULES: dict[str, Axes] = {
    r"decoder/(embedding|output|value_embedding)": ("tensor", "fsdp"),
    r"decoder/position": (None, "fsdp"),
    r"ngram/table": ("tensor", "fsdp"),
    r"ngram/projection/w": (None, None, "fsdp"),
    # A search's heads, and features of rows, are apart on tensor: no row crosses devices whole.
    r"knowledge/query/w": ("fsdp", "tensor", None, None),
    r"knowledge/keys": ("tensor", None, "fsdp", None),
    r"knowledge/(values|table)": ("fsdp", "tensor"),
    r"knowledge/gate/w": ("fsdp", "tensor"),
    r"knowledge/output/w": ("tensor", "fsdp"),
    r"knowledge/(key|value)/w": (None, "tensor", "fsdp"),
    r"knowledge/(query|key)_norm/scale": (None,),
    r"attention/(query|key|value)/w": ("fsdp", "tensor", None),
    r"attention/output/w": ("tensor", None, "fsdp"),
    r"attention/(query|key|value)/b": ("tensor", None),
    r"(attention/output|feedforward/down)/b": ("fsdp",),
    r"attention/(query|key|read)_norm/scale": (None,),
    r"attention/(decay|write|drive)/w": ("fsdp", "tensor"),
    r"attention/(decay_(rate|shift)|threshold)": ("tensor",),
    r"attention/gates/w": ("fsdp", "tensor", None),
    r"feedforward/(gate|up)/w": ("fsdp", "tensor"),
    r"feedforward/(gate|up)/b": ("tensor",),
    r"feedforward/down/w": ("tensor", "fsdp"),
    r"experts/router/w": ("fsdp", None),
    r"experts/bias": (None,),
    r"experts/shared/(gate|up)/w": ("fsdp", "tensor"),
    r"experts/shared/down/w": ("tensor", "fsdp"),
    r"depths(_\d+)?/(router|predictor_in)/w": ("fsdp", None),
    r"depths(_\d+)?/predictor_out/w": (None, None),
    r"depths(_\d+)?/predictor_out/b": (None,),
    r"memory/(query|key|value)/w": ("fsdp", "tensor", None),
    r"memory/output/w": ("tensor", None, "fsdp"),
    r"memory/memory_(queries|keys|values)_conv/kernel": (None, "tensor", None),
    r"memory/gates/w": ("fsdp", "tensor", None),
    r"memory/gates/b": ("tensor", None),
    r"memory/across/w": ("tensor", None, None),
    r"memory/(episodic_|summary_)?(scale|slope|nothing)": ("tensor",),
    r"memory/(decay|write)/w": ("fsdp", "tensor"),
    r"memory/(decay|write|erase)_channels/w": ("fsdp", "tensor", None),
    r"memory/(decay_(rate|shift)|(summary_)?probe_scale|forget)": ("tensor",),
    r"memory/decay_shifts": ("tensor", None),
    r"memory/put": (None, "tensor"),
    r"memory/(summary_)?probe": (None, "tensor", None),
    r"memory/question": ("tensor", None),
    r"task_memory/(place|slope)": (None, "tensor"),
    r"task_memory/probe_scale": ("tensor",),
    r"task_memory/probe": (None, "tensor", None),
    r"memory/task_norm/scale": (None,),
    r"memory/address/w": ("fsdp", None),
    r"memory/bank": (None, None, "fsdp"),
    # A graph's features are few and its products are over pairs of tokens: only rows are apart.
    r"graph/edges/(query|key)/w": ("fsdp", None, None),
    r"graph/edges/sharpness": (None,),
    r"graph/input/w": ("fsdp", None),
    r"graph/output/w": (None, "fsdp"),
    r"graph/reasoner/neuron/message/w": (None, "fsdp", None),
    r"graph/reasoner/neuron/(gate|candidate)/w": ("fsdp", None),
    r"graph/reasoner/neuron/(gate|candidate)/b": (None,),
    r"graph_block/graph_attention/(reader|read)/w": ("fsdp", None, None),
    r"graph_block/graph_attention/output/w": (None, None, "fsdp"),
    r"graph_block/graph_attention/direction": (None, None),
    r"graph_block/graph_attention/kind": (None, None, None),
    r"graph_block/up/w": ("fsdp", None),
    r"graph_block/down/w": (None, "fsdp"),
    r"graph/reasoner/halt/logit/w": (None, None),
    r"graph/reasoner/halt/logit/b": (None,),
    # States of a circuit are small and tokens are many: only rows are apart.
    r"quantum/input/w": ("fsdp", None),
    r"quantum/output/w": (None, "fsdp"),
    r"(quantum/circuit|overlap)/angles": (None, None),
    r"overlap/(query|key|value)/w": ("fsdp", None, None),
    r"overlap/output/w": (None, None, "fsdp"),
    r"experts/(gate|up)/w": ("expert", "fsdp", "tensor"),
    r"experts/down/w": ("expert", "tensor", "fsdp"),
    r"(embedding|attention|memory|graph|quantum)_norm/(scale|bias)": ("fsdp",),
    r"(feedforward|core|final)_norm/(scale|bias)": ("fsdp",),
    r"core/knowledge_norm/(scale|bias)": ("fsdp",),
    r"(attention|memory|graph|quantum|feedforward)_output_norm/(scale|bias)": ("fsdp",),
    r"core/inject/w": ("fsdp", None),
    r"core/copy_gate/open/w": ("fsdp", None),
    r"core/copy_gate/open/b": (None,),
    r"core/(copy_gate|controller)/steps": (None, None),
    r"core/controller/(confidence|summary|told|decide)/w": (None, None),
    r"core/controller/(confidence|summary|decide)/b": (None,),
    r"core/log_prices": (None,),
    r"(residual|value)_mix/weights": (None,),
    r"(input|attention|feedforward)_conv/kernel": (None, "fsdp"),
    r"attention/(queries|keys|values)_conv/kernel": (None, "tensor", None),
}

MEMORY_RULES: dict[str, Axes] = {
    r"(stm|summaries|mtm)/(key|value)_BWHE": (ROWS, None, "tensor", None),
    r"(stm|summaries|mtm)/label_BW": (ROWS, None),
    r"episodic/(key|value)_BMHE": (ROWS, None, "tensor", None),
    r"episodic/(label|token|born|used|surprise)_BM": (ROWS, None),
    r"episodic/clock_B": (ROWS,),
    r"(recurrent|mtm|kv)/state_BHEF": (ROWS, "tensor", None, None),
    r"(recurrent|mtm)/label_B": (ROWS,),
    r"recent/heads/(query|key|value)": (ROWS, None, "tensor", None),
    r"(recent|input)/label_BJ": (ROWS, None),
    r"convs/(input|attention|feedforward)": (ROWS, None, None),
    r"convs/(queries|keys|values)": (ROWS, None, "tensor", None),
    r"input/(cache/)?recent_BJ": (ROWS, None),
    r"document_B": (ROWS,),
    r"(key_BKES|(key|value)_BK[SM]E)": (ROWS, "tensor", None, None),
    r"kv/sum_BKEF": (ROWS, "tensor", None, None),
    r"kv/total_BKE": (ROWS, "tensor", None),
    r"kv/count_BK": (ROWS, "tensor"),
    r"(kv/holds|taken)_BS": (ROWS, None),
    r"(pending|attended)/(key|value)_BSHE": (ROWS, None, "tensor", None),
    r"(pending|attended)/(label|id)_BS": (ROWS, None),
    # As their parameters, only rows are apart.
    r"graph/(key_BSRE|state_BSKG)": (ROWS, None, None, None),
    r"graph/logits_BSX": (ROWS, None, None),
    r"quantum/(state_BSHP|value_BSHE)": (ROWS, None, None, None),
}
"""What is remembered lies beside its row, and heads beside what they are made by."""


def partition_spec(
    path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, *, split: bool = True
) -> PartitionSpec:
    """Where the array at `path` lies; `path` joins Haiku's module and parameter names by `/`.

    Without `split` it is whole on every device of the axis `fsdp`.

    A dimension that its mesh axis does not divide is left whole: three key-value heads on two
    tensor devices are correct, only repeated.

    Raises:
        ValueError: no rule or more than one matches.
    """
    axes = _axes(RULES, path)
    axes = axes if split else tuple(None if axis == "fsdp" else axis for axis in axes)
    return _spec(axes, shape, mesh)


def memory_spec(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Where the array at `path` of a memory, or of a cache of decoding, lies; see `partition_spec`.

    Raises:
        ValueError: no rule or more than one matches.
    """
    return _spec(_axes(MEMORY_RULES, path), shape, mesh)


def _axes(rules: dict[str, Axes], path: str) -> Axes:
    matches = [axes for pattern, axes in rules.items() if re.search(rf"(^|/){pattern}$", path)]
    if len(matches) != 1:
        raise ValueError(f"{path} matches {len(matches)} partition rules, expected exactly one")
    return matches[0]


def _spec(axes: Axes, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """`axes` of the last dimensions; those before them are whole."""

    def place(axis: str | None, size: int) -> str | tuple[str, ...] | None:
        if axis is None:
            return None
        split = BATCH_AXES if axis == ROWS else (axis,)
        if size % prod(mesh.shape[name] for name in split):
            return None
        return split if axis == ROWS else axis

    axes = (None,) * (len(shape) - len(axes)) + axes
    return PartitionSpec(*(place(axis, size) for axis, size in zip(axes, shape, strict=True)))


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as one string, names joined by `/`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_stacked(path: str) -> bool:
    """Whether the parameter at `path` is one of a loop of layers, stacked along its first axis."""
    return re.search(r"/layers(_\d+)?/", path) is not None


def own_axes(path: str, ndim: int) -> tuple[int, ...]:
    """Axes of the parameter at `path`, less the leading one along which layers are stacked."""
    return tuple(range(1 if is_stacked(path) else 0, ndim))
