"""What devices will send each other under a strategy, by formula; nothing is compiled.

With P bytes of a device's parameters if only `tensor` split them, in float32, Q in the format that
layers compute in, and n devices that split rows:

    data      all-reduce of gradients                                          2 (n-1)/n P
    zero1     the same, and all-gather of the new parameters                   3 (n-1)/n P
    zero2     reduce-scatter of gradients, all-gather of the new parameters    2 (n-1)/n P
    fsdp      all-gather of parameters in each pass, reduce-scatter   (n-1)/n (passes Q + P)
    tensor    two all-reduces of activations a layer and pass

    muon      all-to-all of a device's part of the matrices, there and back   2 (n-1)/n P/n

ZeRO 2 and FSDP send no gradient of a table of which rows are looked up: its features are split, and
the rows of a device's tokens come in parts and their slopes go back, 2 (n-1)/n x for x bytes of
activations. FSDP gathers the output's table once, for the loss makes its gradients on the way.

(arXiv 1910.02054, section 7; arXiv 1909.08053, section 3.) Muon's comes on top, where matrices are
split; n are then the devices of `fsdp` and `tensor`. It is more where stacks are filled up and less
by the tables that P has too (see `rtdlm.parallel.matrices`).

With micro-batches, FSDP gathers, and scatters gradients, for each. Groups within groups: gradients
of a share are summed over `data` after they are over `fsdp`. A compiler may send more, as to add up
gradients whole.
"""

from collections.abc import Mapping
from math import prod

from rtdlm.config import AGIConfig
from rtdlm.models.cost import count_parameters
from rtdlm.parallel.collectives import Collective, ring_bytes

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
    if strategy == "zero1":
        add("all-reduce", "fsdp", 1, size)
        add("all-gather", "fsdp", 1, size)
    elif strategy == "zero2":
        add("reduce-scatter", "fsdp", micros, (size - looked_up) / split)
        add("all-gather", "fsdp", 1, size)
        add("all-to-all", "fsdp", 2, stream)
    else:
        layers = computed - (table + looked_up) * width / FLOAT
        add("all-gather", "fsdp", micros, passes * layers + table * width / FLOAT)
        add("reduce-scatter", "fsdp", micros, (size - looked_up) / split)
        add("all-to-all", "fsdp", 2, stream)
    if config.optimizer.name == "muon":
        add("all-to-all", "fsdp tensor", 2, size / split)
    add("all-reduce", "data", 1, size / (1 if strategy == "zero1" else split))
    add("all-reduce", "expert", 1, size / split)
    add("all-reduce", "tensor", 2 * passes * config.num_layers, stream)
    if axes["expert"] > 1:
        # To the experts and back, in every pass.
        add("all-to-all", "expert", 2 * passes * config.num_layers, stream * config.experts.choices)
    return found
