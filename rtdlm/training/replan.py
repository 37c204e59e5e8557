"""One expert more or one less in every layer that has experts, between two steps of a run.

Both are functions from (config, parameters, optimizer state) to the same three, leave the model's
function as it is, and carry moments along.

`add_expert` splits an expert: its copy has the same weights and the same router column, and the
balancing bias, which only choices see, sets it back so far that nobody chooses it yet. So the pair
has the weight of the original, for every input. As the crowded original's bias falls and the idle
copy's rises, tokens go over. Two equal scores without that bias would instead take two of a token's
`top_k` places, and push another expert out.

A run without biases gets them: zeros, by which nothing is chosen otherwise, beside the balancing
loss that it had. In a softmax the copy lowers all scores by one factor, which shares of two or more
chosen experts do not show. A softmax that would show it is refused: `top_k=1`, whose gate is the
score itself, and one with `bias_rate`, whose biases do not shrink with the scores. So a softmax can
be split once, and pruned until then.

`prune_expert` removes one. Nothing changes for tokens that do not choose it: sigmoids do not know
of each other, and gates are shares of the chosen. Only a softmax with `top_k=1` gives others the
probability that the pruned expert had; and a softmax with a bias may choose otherwise, so that is
refused.

Axes: L layers with experts, R rounds of a loop of layers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import AGIConfig, ExpertsConfig, UserError
from rtdlm.models.layers import layers_of
from rtdlm.modules.experts import is_bias
from rtdlm.parallel import path_name

# Axis of the experts, from the end, of what each expert has one of.
EXPERT_AXES = {"gate/w": -3, "up/w": -3, "down/w": -3, "router/w": -1, "bias": -1}

USUAL_RATE = 0.001
"""The `experts.bias_rate` of arXiv 2408.15664, for a run that had no biases."""


class Replanned(NamedTuple):
    """What goes on in place of what was."""

    config: AGIConfig
    params: Any
    optimizer: Any


def add_expert(
    config: AGIConfig, params: Any, optimizer: Any, *, experts: Sequence[int]
) -> Replanned:
    """Splits one expert of every layer; the copy is the last one.

    Args:
        config: the run's.
        params: its parameters, as a tree or by flat name.
        optimizer: its optimizer state, likewise; names of moments end like their parameters'.
        experts: which to split, for each layer that has experts, usually the most used.

    Raises:
        UserError: routing by which no split is exact, or a number that is no expert's.
    """
    form = config.experts
    _check(config, experts)
    if form.scores == "softmax":
        _refuse_seen_split(form)
    changes: dict[str, Any] = {"num_experts": form.num_experts + 1}
    if form.bias_rate is None:
        params, optimizer = _with_biases(config, params, optimizer)
        changes |= {"bias_rate": USUAL_RATE, "balance_weight": form.balance}
    kept = [[*range(form.num_experts), expert] for expert in experts]
    return _replanned(config, params, optimizer, kept, changes)


def prune_expert(
    config: AGIConfig, params: Any, optimizer: Any, *, experts: Sequence[int]
) -> Replanned:
    """Removes one expert of every layer; later ones move up by one. Arguments as above.

    Raises:
        UserError: too few would be left, or the rest would be chosen otherwise.
    """
    form = config.experts
    _check(config, experts)
    if form.scores == "softmax" and form.bias_rate is not None:
        raise UserError(
            "experts.scores='softmax' with experts.bias_rate chooses otherwise when an expert is "
            "pruned, as all other scores grow and the biases do not; only 'sigmoid' can be pruned "
            "with a bias"
        )
    if form.num_experts - 1 < max(2, form.choices):
        raise UserError(
            f"experts.num_experts={form.num_experts} leaves no expert to prune with "
            f"experts.top_k={form.choices}; at least {max(2, form.choices)} stay"
        )
    kept = [[e for e in range(form.num_experts) if e != expert] for expert in experts]
    return _replanned(config, params, optimizer, kept, {"num_experts": form.num_experts - 1})


def _refuse_seen_split(form: ExpertsConfig) -> None:
    if form.choices == 1:
        raise UserError(
            "experts.scores='softmax' with experts.top_k=1 weighs an expert by its score, which a "
            "copy lowers; an expert can be split with experts.scores='sigmoid' or a larger "
            "experts.top_k"
        )
    if form.bias_rate is not None:
        raise UserError(
            "experts.scores='softmax' with experts.bias_rate chooses otherwise when an expert is "
            "split, as all scores fall and the biases do not; only 'sigmoid' can be split with a "
            "bias"
        )


def _check(config: AGIConfig, experts: Sequence[int]) -> None:
    form, layers = config.experts, [layer for layer in layers_of(config) if layer.plan.experts]
    if len(experts) != len(layers):
        raise UserError(
            f"{len(experts)} experts are given for {len(layers)} layers that have experts; name "
            "one for each"
        )
    for expert in experts:
        if not 0 <= expert < form.num_experts:
            raise UserError(f"expert {expert} is outside 0 to {form.num_experts - 1}")
    if config.optimizer.name == "adafactor":
        raise UserError(
            "optimizer.name='adafactor' keeps sums over the experts' features instead of moments, "
            "which cannot be split or pruned; use another optimizer"
        )


def _replanned(
    config: AGIConfig,
    params: Any,
    optimizer: Any,
    kept: Sequence[Sequence[int]],
    changes: dict[str, Any],
) -> Replanned:
    """Experts `kept[layer]` of every layer, in that order, and `changes` of `experts`."""
    form = config.experts
    count = changes["num_experts"]
    grows = count > form.num_experts
    layers = [layer for layer in layers_of(config) if layer.plan.experts]
    by_module: dict[str, list[Sequence[int]]] = {}
    for layer, own in zip(layers, kept, strict=True):  # turns of a module come in order
        by_module.setdefault(f"{layer.module}/experts", []).append(own)
    choose = _chooser(by_module, grows=grows)
    if form.dispatch == "capacity":  # as many places as before
        factor = 1.25 if form.capacity_factor is None else form.capacity_factor
        changes["capacity_factor"] = factor * count / form.num_experts
    # A resumed run may choose its mesh anew.
    mesh = {"expert": 1} if count % config.mesh.expert else {}
    return Replanned(
        config.replace(experts=changes, mesh=mesh),
        jax.tree_util.tree_map_with_path(choose, params),
        jax.tree_util.tree_map_with_path(choose, optimizer),
    )


def _with_biases(config: AGIConfig, params: Any, optimizer: Any) -> tuple[Any, Any]:
    """Both as if every router had had a bias that stayed zero."""
    modules = {f"{layer.module}/experts" for layer in layers_of(config) if layer.plan.experts}

    def named(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        routers = {module: f"{prefix}{module}/router/w" for module in modules}
        return dict(arrays) | {
            f"{prefix}{module}/bias": _no_bias(arrays[router])
            for module, router in routers.items()
            if router in arrays
        }

    def is_tree(node: Any) -> bool:
        return isinstance(node, Mapping) and any(f"{module}/router" in node for module in modules)

    def without_moments(node: Any) -> Any:
        none = {module: {"bias": None} for module in modules}
        return {**node, **none} if is_tree(node) else node

    if not is_tree(params):
        # Only what schedule-free trains beside its average is there as a parameter is.
        return named(params, ""), named(optimizer, "trained_params/")
    biases = {module: {"bias": _no_bias(params[f"{module}/router"]["w"])} for module in modules}
    return {**params, **biases}, jax.tree.map(without_moments, optimizer, is_leaf=is_tree)


def _no_bias(w_RDE: Any) -> Any:
    """Zeros `[R, E]`, float32."""
    xp = jnp if isinstance(w_RDE, jax.Array) else np
    return xp.zeros((w_RDE.shape[0], w_RDE.shape[-1]), xp.float32)


def _chooser(
    by_module: dict[str, list[Sequence[int]]], *, grows: bool
) -> Callable[[Any, Any], Any]:
    def choose(path: Any, leaf: Any) -> Any:
        name = path_name(path)
        for module, kept in by_module.items():
            for own, axis in EXPERT_AXES.items():
                if name == f"{module}/{own}" or name.endswith(f"/{module}/{own}"):
                    taken = _take(leaf, kept, axis)
                    return _asleep(taken) if grows and is_bias(name) else taken
        return leaf

    return choose


def _take(leaf: Any, kept: Sequence[Sequence[int]], axis: int) -> Any:
    """Of every round its own experts."""
    xp = jnp if isinstance(leaf, jax.Array) else np
    return xp.stack(
        [xp.take(own, xp.asarray(e), axis=axis) for own, e in zip(leaf, kept, strict=True)]
    )


def _asleep(bias_RE: Any) -> Any:
    """The last expert's bias so low that no score, being below one, lifts it above another."""
    xp = jnp if isinstance(bias_RE, jax.Array) else np
    lowest = xp.min(bias_RE, axis=-1, keepdims=True) - 1.0
    return xp.concatenate([bias_RE[:, :-1], lowest], axis=-1)
