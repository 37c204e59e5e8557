"""The objective of a batch, as sums that add up over micro-batches and devices.

    loss = sum_t w_t [ (1 - s) nll_t + s (logZ_t - mean logit_t) + z logZ_t^2 ] / sum_t w_t

with label smoothing s and z-loss weight z, plus the experts' balancing losses where there are
experts. All terms are float32; logits are made in chunks (`rtdlm.modules.head`).

Axes: B batch, T time, L layers with experts, E experts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rtdlm.evaluation import TokenSums, token_sums
from rtdlm.models.passing import Scores
from rtdlm.modules.head import LossTerms
from rtdlm.modules.memory import MemoryStatistics
from rtdlm.training.knobs import Knobs


class ExpertSums(NamedTuple):
    """Times the batch's weight so that they add up like the rest."""

    balance: jax.Array
    """Mean over layers, as is the next."""
    router_z: jax.Array
    dropped_L: jax.Array
    """Share of choices that found their expert full."""
    usage_LE: jax.Array
    """Share of choices that fell on each expert."""


class DepthSums(NamedTuple):
    """As `ExpertSums`, means over layers that work on a share of the tokens."""

    predictor: jax.Array
    agreement: jax.Array
    share: jax.Array


class SpikeSums(NamedTuple):
    """As `ExpertSums`, of layers with spiking attention."""

    rate: jax.Array
    computed: jax.Array


class GraphSums(NamedTuple):
    """Sums over tokens, by their weights; see `GraphStatistics`."""

    hops: jax.Array
    distance: jax.Array
    neighbours: jax.Array


class ComputeSums(NamedTuple):
    """Sums over tokens, by their weights; see `Pondered`."""

    spent: jax.Array
    ponder: jax.Array
    unsure: jax.Array
    steps: jax.Array
    gain: jax.Array
    calls: jax.Array | None = None
    """None where there is nothing to call."""
    called: jax.Array | None = None


class Sums(NamedTuple):
    """Sums over tokens, float32 scalars; divide by `tokens.weight` for means."""

    objective: jax.Array
    """What is minimised."""
    tokens: TokenSums
    experts: ExpertSums | None
    """None in the dense form."""
    depths: DepthSums | None
    """None where every layer works on all tokens."""
    spikes: SpikeSums | None = None
    """None where no attention spikes."""
    memory: MemoryStatistics | None = None
    """As `ExpertSums`, means over layers with memory. None where none has."""
    graphs: GraphSums | None = None
    """As `ExpertSums`, means over layers with a graph."""
    compute: ComputeSums | None = None
    """None without a compute controller."""


def loss_terms(weights_BT: ArrayLike, knobs: Knobs, *, scale: jax.Array) -> LossTerms:
    """What the head needs to know to make the objective and its gradient at once.

    `scale` is what the objective's sum will be multiplied by before it is differentiated.
    """
    return LossTerms(jnp.asarray(weights_BT), knobs.label_smoothing, knobs.z_loss, scale)


def loss_sums(scores: Scores, weights_BT: ArrayLike, knobs: Knobs) -> Sums:
    """Sums over the batch of scores with `loss_terms`; `objective` is what is minimised."""
    assert scores.objective is not None
    tokens, objective = token_sums(scores.tokens, weights_BT), scores.objective
    experts = None
    if scores.experts is not None:
        found, weight = scores.experts, tokens.weight
        experts = ExpertSums(
            balance=jnp.mean(found.balance) * weight,
            router_z=jnp.mean(found.z) * weight,
            dropped_L=found.dropped * weight,
            usage_LE=found.usage_E * weight,
        )
        objective += knobs.balance_weight * experts.balance
        objective += knobs.router_z_weight * experts.router_z
    depths = None
    if scores.depths is not None:
        depths = DepthSums(*(jnp.mean(value_L) * tokens.weight for value_L in scores.depths))
        objective += knobs.predictor_weight * depths.predictor
    spikes = None
    if scores.spikes is not None:
        spikes = SpikeSums(*(jnp.mean(value_L) * tokens.weight for value_L in scores.spikes))
    memory = jax.tree.map(lambda x_L: jnp.mean(x_L) * tokens.weight, scores.remembered)
    graphs = None
    if scores.graphs is not None:
        weight_1BT = jnp.asarray(weights_BT)[None]
        means = (jnp.sum(jnp.mean(x_LBT * weight_1BT, axis=0)) for x_LBT in scores.graphs)
        graphs = GraphSums(*means)
        objective += knobs.hop_price * graphs.hops
    compute = None
    if scores.pondered is not None:
        weights_BT = jnp.asarray(weights_BT)
        found = jax.tree.map(lambda x_BT: jnp.sum(x_BT * weights_BT), scores.pondered)
        compute = ComputeSums(*found)
        objective += compute.spent + knobs.ponder_weight * compute.ponder + compute.unsure
        if compute.called is not None:
            objective += compute.called
    return Sums(objective, tokens, experts, depths, spikes, memory, graphs, compute)
