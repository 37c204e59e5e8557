"""Which layers a model has, and in which loops they are compiled.

Layers that are alike, or that repeat in rounds such as "five local, one global", share one loop
over their stacked parameters, so that compiling takes the time of one round however deep the model
is. What does not fit a round becomes a loop of its own:

    26 layers, every 6th global      [local x 5, global] x 4, [local x 2] x 1
    8 layers, experts as a sandwich  [dense] x 1, [experts] x 6, [dense] x 1

Parameters of the first loop are below `decoder/layers`, of the next below `decoder/layers_1`; the
layers of a round are `block`, `block_1` and so on.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from rtdlm.config import AGIConfig


class LayerPlan(NamedTuple):
    """What sets a layer apart from others of the same model."""

    attention: str
    """Key of `rtdlm.modules.attention.KINDS`."""
    experts: bool
    """Sparse experts in place of the dense feed-forward layer."""
    depth: bool = False
    """Works on a share of the tokens only."""
    memory: bool = False
    """Reads and writes memory of earlier segments."""
    window: bool = False
    """Its attention reads on in what stood before the segment."""
    knowledge: bool = False
    """A parametric memory beside the feed-forward layer."""
    graph: bool = False
    """Reasons over a graph of its tokens."""
    quantum: bool = False
    """Simulates a quantum circuit."""
    core: bool = False
    """Run again and again, as a controller says."""


class Segment(NamedTuple):
    """One loop."""

    round: tuple[LayerPlan, ...]
    repeats: int

    @property
    def layers(self) -> tuple[LayerPlan, ...]:
        """All of its layers, in order."""
        return self.round * self.repeats


class Layer(NamedTuple):
    """One layer, and where its parameters are."""

    number: int
    plan: LayerPlan
    module: str
    """Path of its modules."""
    turn: int
    """Its place along the first axis of their parameters."""


def layer_plans(config: AGIConfig) -> tuple[LayerPlan, ...]:
    """Every layer of the model, first to last; those of a controller's core are plain.

    Modules that the core calls are in none of them; see `rtdlm.models.called`.
    """
    return tuple(
        LayerPlan(
            _attention(config, layer),
            experts=_has_experts(config, layer),
            depth=_is_deep(config, layer),
            memory=_has_memory(config, layer),
            window=config.memory.attended_slots > 0 and layer < config.stacked_layers,
            knowledge=_has_knowledge(config, layer),
            graph=_has_graph(config, layer),
            quantum=_has_quantum(config, layer),
            core=layer >= config.stacked_layers,
        )
        for layer in range(config.num_layers)
    )


def segments(config: AGIConfig) -> tuple[Segment, ...]:
    """The loops that run `layer_plans` up to a controller's core.

    They compile as few different layers as a simple rule finds: either rounds from the first layer
    on, with what is left of a round at the end, or runs of equal layers.
    """
    plans = layer_plans(config)[: config.stacked_layers]
    rounds = [_in_rounds(plans, size) for size in range(1, len(plans) + 1)]
    fitting = [_in_runs(plans), *(found for found in rounds if found is not None)]
    return min(fitting, key=lambda found: sum(len(segment.round) for segment in found))


def core_plans(config: AGIConfig) -> tuple[LayerPlan, ...]:
    """The layers of a controller's core; none without one."""
    return layer_plans(config)[config.stacked_layers :]


def layers_of(config: AGIConfig) -> Iterator[Layer]:
    """All layers of loops, first to last, with the place of their parameters."""
    number = 0
    for loop, segment in enumerate(segments(config)):
        for turn in range(segment.repeats):
            for place, plan in enumerate(segment.round):
                module = f"decoder/layers{_numbered(loop)}/block{_numbered(place)}"
                yield Layer(number, plan, module, turn)
                number += 1


def _attention(config: AGIConfig, layer: int) -> str:
    every = config.attention.global_every
    return "gqa" if every is not None and (layer + 1) % every == 0 else config.attention_type


def _has_experts(config: AGIConfig, layer: int) -> bool:
    experts = config.experts
    if not experts.num_experts:
        return False
    if experts.layers == "sandwich":
        return 0 < layer < config.num_layers - 1
    return (layer + 1) % experts.stride == 0


def _is_deep(config: AGIConfig, layer: int) -> bool:
    return config.depths.capacity is not None and (layer + 1) % config.depths.stride == 0


def _has_memory(config: AGIConfig, layer: int) -> bool:
    return bool(config.memory.layer_tiers) and _is_turn(config, layer, config.memory.stride)


def _has_knowledge(config: AGIConfig, layer: int) -> bool:
    if config.knowledge.kind == "none" or "knowledge" in config.called:
        return False
    return _is_turn(config, layer, config.knowledge.stride)


def _has_graph(config: AGIConfig, layer: int) -> bool:
    return config.graph.hops > 0 and _is_turn(config, layer, config.graph.stride)


def _has_quantum(config: AGIConfig, layer: int) -> bool:
    if "quantum" in config.called:
        return False
    return config.stacked_layers - config.quantum_layers <= layer < config.stacked_layers


def _is_turn(config: AGIConfig, layer: int, stride: int) -> bool:
    return layer < config.stacked_layers and (layer + 1) % stride == 0


def _in_runs(plans: tuple[LayerPlan, ...]) -> tuple[Segment, ...]:
    return tuple(Segment((plan,), len(list(run))) for plan, run in groupby(plans))


def _in_rounds(plans: tuple[LayerPlan, ...], size: int) -> tuple[Segment, ...] | None:
    """Rounds of `size` layers; None if they are not all alike."""
    repeats, left = divmod(len(plans), size)
    first = plans[:size]
    if first * repeats + first[:left] != plans:
        return None
    rounds = Segment(first, repeats)
    return (rounds, Segment(first[:left], 1)) if left else (rounds,)


def _numbered(place: int) -> str:
    return f"_{place}" if place else ""
