"""What devices will send each other under a strategy, by formula; nothing is compiled.

With P bytes of a device's parameters if only `tensor` split them, in float32, Q in the format that
layers compute in, and n devices that split rows:

    data      all-reduce of gradients                                          2 (n-1)/n P
    zero1     the same, and all-gather of the new parameters                   3 (n-1)/n P
    zero2     reduce-scatter of gradients, all-gather of the new parameters    2 (n-1)/n P
    fsdp      all-gather of parameters forward and backward, reduce-scatter    (n-1)/n (2 Q + P)
    tensor    two all-reduces of activations a layer and pass

    muon      all-to-all of a device's own matrices, there and back            2 (n-1)/n M

ZeRO 2 and FSDP send no gradient of a table of which rows are looked up: its features are split, all
tokens go to all devices as integers, and a device's rows come in parts and their slopes go back,
2 (n-1)/n x for x bytes of activations. What a layer gathers to be computed again serves its
gradients, too; the output's table is gathered once, for the loss makes its gradients on the way.

(arXiv 1910.02054, section 7; arXiv 1909.08053, section 3.) Muon's comes on top, where matrices are
split; n are then the devices of `fsdp` and `tensor`, and M the bytes of the matrices that one of
them makes whole: an n-th of all, and at least one of each shape (see `rtdlm.parallel.matrices`).

With micro-batches, FSDP gathers, and scatters gradients, for each. Groups within groups: gradients
of a share are summed over `data` after they are over `fsdp`. A compiler may send more, as to add up
gradients whole.
"""

from collections.abc import Mapping
from math import prod

import jax
from jax.sharding import AbstractMesh, AxisType

from rtdlm.config import AGIConfig
from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters
from rtdlm.parallel import are_apart, partition_spec, path_name, stack_bytes
from rtdlm.parallel.collectives import Collective, ring_bytes
from rtdlm.training.optimizer import muon_axes

FLOAT = 4


def expected_collectives(config: AGIConfig, axes: Mapping[str, int]) -> list[Collective]:
    """The collectives of one step, on a mesh with these axis sizes.

    Args:
        config: the run, with `precision.compute` decided.
        axes: devices along each mesh axis; `fsdp` as the strategy of `config` uses it.
    """
    size = FLOAT * count_parameters(config).total / axes["tensor"]
    width = FLOAT if config.precision.compute == "float32" else 2
    computed = size * width / FLOAT
    micros, passes = config.accumulate_steps, 2 + (config.remat in ("full", "named"))
    found: list[Collective] = []

    def add(kind: str, over: str, count: int, result: float) -> None:
        wide = tuple(axis for axis in over.split() if axes[axis] > 1)
        if wide:
            group = prod(axes[axis] for axis in wide)
            sent = count * ring_bytes(kind, result, group)
            found.append(Collective(kind, wide, group, count, sent))

    split = axes["fsdp"]
    strategy = config.mesh_strategy
    rows = config.batch_size / (axes["data"] * split * axes["expert"])
    stream = rows * config.max_seq_len * config.d_model * width / axes["context"]
    table = FLOAT * config.vocab_size * config.d_model / axes["tensor"]
    looked_up = 0.0 if config.tie_embeddings else table
    # Of all devices along `fsdp`.
    ids = FLOAT * rows * split * config.max_seq_len / axes["context"]
    if strategy == "zero1":
        add("all-reduce", "fsdp", 1, size)
        add("all-gather", "fsdp", 1, size)
    elif strategy == "zero2":
        add("reduce-scatter", "fsdp", micros, (size - looked_up) / split)
        add("all-gather", "fsdp", 1, size + ids)
        add("all-to-all", "fsdp", 2, stream)
    else:
        layers = computed - (table + looked_up) * width / FLOAT
        add("all-gather", "fsdp", micros, 2 * layers + table * width / FLOAT + ids / micros)
        add("reduce-scatter", "fsdp", micros, (size - looked_up) / split)
        add("all-to-all", "fsdp", 2, stream)
    if config.optimizer.name == "muon":
        for over, whole in _muon_bytes(config, axes).items():
            add("all-to-all", " ".join(over), 2, whole)
    add("all-reduce", "data", 1, size / (1 if strategy == "zero1" else split))
    add("all-reduce", "expert", 1, size / split)
    add("all-reduce", "tensor", 2 * passes * config.num_layers, stream)
    if axes["expert"] > 1:
        # To the experts and back, in every pass.
        add("all-to-all", "expert", 2 * passes * config.num_layers, stream * config.experts.choices)
    return found


def _muon_bytes(config: AGIConfig, axes: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    """See `stack_bytes`; of all matrices that Muon has to bring together."""
    types = (AxisType.Auto,) * len(axes)
    mesh = AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=types)
    leaves = jax.tree_util.tree_leaves_with_path(TMSModel(config).shapes)
    arrays = [(path_name(path), shape) for path, shape in leaves]
    found = [
        (shape, partition_spec(path, shape.shape, mesh), own)
        for path, shape in arrays
        if (own := muon_axes(path)) is not None
    ]
    with jax.sharding.use_abstract_mesh(mesh):
        apart = [each for each in found if are_apart(*each[1:])]
    if not apart:
        return {}
    shapes, specs, sides = zip(*apart, strict=True)
    return stack_bytes(shapes, specs=specs, sides=sides, sizes=axes)
