"""Attention heads silenced or taken out of a model that exists.

A silenced head writes nothing: its part of the output projection is zero. Taking silenced heads out
leaves the function as it is, and the parameters and the optimizer's moments of those that stay.

What can be taken out follows from layers that share one shape, which is one number of heads and one
of key-value heads: of every layer as many heads, and of a layer either as many of every group that
shares a key-value head, which stays, or whole groups with theirs. Which heads they are may differ
from layer to layer.

Axes: L layers, H heads, K key-value heads, G = H / K heads of a group.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import AGIConfig, UserError
from rtdlm.models.layers import layers_of
from rtdlm.models.tms import Params
from rtdlm.parallel import path_name

Heads = Sequence[Sequence[int]]
"""Numbers of query heads, layer by layer."""

_QUERY_AXIS = {
    r"query/(w|b)": -2,
    r"output/w": -3,
    r"gates/w": -2,
    r"queries_conv/kernel": -2,
}
"""Parameters with an axis of query heads, and which it is."""
_KEY_AXIS = {
    r"(key|value)/(w|b)": -2,
    r"(keys|values)_conv/kernel": -2,
    r"(decay|write|drive)/w": -1,
    r"decay_(rate|shift)|threshold": -1,
}
"""The same of key-value heads."""


class Pruned(NamedTuple):
    """A smaller model, and what belongs to its parameters."""

    config: AGIConfig
    params: Params
    optimizer: Any


class _Kept(NamedTuple):
    """Numbers of the heads that stay, `[L, heads]`."""

    query: np.ndarray
    key: np.ndarray


def scale_heads(config: AGIConfig, params: Params, gates_LH: jax.Array) -> Params:
    """`params` whose heads write `gates_LH` times what they did."""
    after = {module: dict(arrays) for module, arrays in params.items()}
    for module, layers in _turns(config).items():
        arrays = after[f"{module}/attention/output"]
        gates_RH = gates_LH[jnp.asarray(layers)]
        arrays["w"] = arrays["w"] * gates_RH[:, :, None, None]
    return after


def silence_heads(config: AGIConfig, params: Params, heads: Heads) -> Params:
    """`params` in which `heads` write nothing."""
    _check_numbers(config, heads)
    gates_LH = np.ones((config.num_layers, config.num_heads), np.float32)
    for layer, gone in enumerate(heads):
        gates_LH[layer, list(gone)] = 0.0
    return scale_heads(config, params, jnp.asarray(gates_LH))


def remove_heads(config: AGIConfig, params: Params, optimizer: Any, heads: Heads) -> Pruned:
    """The model without `heads`, which computes what it does with them silenced.

    Args:
        config: the model as it is.
        params: its parameters.
        optimizer: a tree whose leaves under a parameter's path have that parameter's shape, or one
            number; any tree without such leaves goes through.
        heads: query heads to take out of each layer; see above for what fits together.

    Raises:
        UserError: the heads of the layers do not leave one shape, or what depends on the number
            of a head would change.
    """
    _check_numbers(config, heads)
    kept = _kept(config, heads)
    num_heads, kv_heads = kept.query.shape[1], kept.key.shape[1]
    fewer_keys = kv_heads < config.kv_heads
    _check_kinds(config, fewer_keys=fewer_keys)
    if config.attention_type == "sparse" and not fewer_keys and num_heads < config.num_heads:
        raise UserError(
            "heads within groups cannot be removed with attention_type='sparse', where the heads "
            "of a group choose together what each reads; remove whole groups, or silence them"
        )
    cuts = _cuts(config, params, kept)

    def cut(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        owner = next((known for known in cuts if _is_below(name, known)), None)
        if owner is None or np.size(leaf) <= 1:
            return leaf
        axis, numbers, shape = cuts[owner]
        if np.shape(leaf) != shape:
            raise UserError(
                f"the optimizer's {name} has shape {np.shape(leaf)} and its parameter {shape}; "
                "only moments of the parameter's own shape can lose heads, so start a fresh "
                "optimizer"
            )
        rounds = [np.take(np.asarray(leaf[turn]), own, axis) for turn, own in enumerate(numbers)]
        return jnp.asarray(np.stack(rounds))

    named: dict[str, Any] = {"attention": {"head_dim": config.head_dim}, "num_heads": num_heads}
    if config.attention_type not in ("mha", "mqa", "delta"):
        named["num_kv_heads"] = kv_heads
    if config.memory.layer_tiers:  # which have as many heads as attention had, unless told
        named["memory"] = {"heads": config.memory_heads}
    return Pruned(
        config.replace(**named),
        jax.tree_util.tree_map_with_path(cut, params),
        jax.tree_util.tree_map_with_path(cut, optimizer),
    )


def _turns(config: AGIConfig) -> dict[str, list[int]]:
    """Module of a layer -> the layers that share its arrays, in their order there."""
    turns: dict[str, list[int]] = {}
    for layer in layers_of(config):
        turns.setdefault(layer.module, []).append(layer.number)
    return turns


def _kept(config: AGIConfig, heads: Heads) -> _Kept:
    groups, size = config.kv_heads, config.num_heads // config.kv_heads
    gone_LKG = np.zeros((config.num_layers, groups, size), bool)
    for layer, numbers in enumerate(heads):
        gone_LKG[layer].reshape(-1)[list(numbers)] = True
    count_LK = gone_LKG.sum(-1)
    whole_LK = count_LK == size
    if (count_LK == count_LK[0, 0]).all() and not whole_LK.any():
        key = np.tile(np.arange(groups), (config.num_layers, 1))
    elif (whole_LK | (count_LK == 0)).all() and len(set(whole_LK.sum(1))) == 1:
        key = np.stack([np.flatnonzero(~whole_K) for whole_K in whole_LK])
    else:
        raise UserError(
            f"{count_LK.tolist()} heads of each group of each layer cannot be removed: layers have "
            f"one shape, so remove as many of every group, or as many whole groups of {size} from "
            "every layer; to silence any heads use silence_heads"
        )
    if not key.size:
        raise UserError(
            f"all {config.num_heads} heads of a layer would be removed; leave at least one group"
        )
    rows = gone_LKG.reshape(config.num_layers, -1)
    return _Kept(np.stack([np.flatnonzero(~gone_H) for gone_H in rows]), key)


def _cuts(
    config: AGIConfig, params: Params, kept: _Kept
) -> dict[str, tuple[int, np.ndarray, tuple[int, ...]]]:
    """Path of each parameter that loses heads -> the axis, what stays in each turn, its shape."""
    cuts = {}
    for module, layers in _turns(config).items():
        for path, arrays in params.items():
            for name, array in arrays.items():
                own = f"{path}/{name}".removeprefix(f"{module}/attention/")
                for table, numbers in ((_QUERY_AXIS, kept.query), (_KEY_AXIS, kept.key)):
                    for pattern, axis in table.items():
                        if re.fullmatch(pattern, own):
                            cuts[f"{path}/{name}"] = axis, numbers[layers], np.shape(array)
    return cuts


def _is_below(name: str, parameter: str) -> bool:
    return name == parameter or name.endswith(f"/{parameter}")


def _check_numbers(config: AGIConfig, heads: Heads) -> None:
    if len(heads) != config.num_layers:
        raise UserError(
            f"heads are given for {len(heads)} layers and the model has num_layers="
            f"{config.num_layers}; give a list for each, empty where none goes"
        )
    for layer, numbers in enumerate(heads):
        if not set(numbers) <= set(range(config.num_heads)):
            raise UserError(
                f"heads {sorted(numbers)} of layer {layer} are not all among the "
                f"{config.num_heads} that it has; number them from 0"
            )


def _check_kinds(config: AGIConfig, *, fewer_keys: bool) -> None:
    if config.position_encoding == "alibi":
        raise UserError(
            "heads cannot be removed with position_encoding='alibi', where a head's number says "
            "its slope; silence them instead"
        )
    if config.memory.by_attention:
        raise UserError(
            "heads cannot be removed with memory.tier_form='attention', where tiers have a gate "
            "for each; silence them instead"
        )
    for name in ("value_residual", "value_embeddings"):
        if fewer_keys and getattr(config, name):
            raise UserError(
                f"key-value heads cannot be removed with {name}=True, which joins those of one "
                "number of all layers; remove heads within groups, or silence them instead"
            )
