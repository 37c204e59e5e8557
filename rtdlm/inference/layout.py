"""The model and its arrays as decoding wants them: every layer apart.

Training keeps layers stacked along a leading axis and scans over them. A token's layer then starts
with a slice of every stack, which is a copy, and the whole cache is written anew. Decoding unrolls
the layers instead and keeps their arrays apart; inside a compiled function they are stacked for the
model, whose slices XLA cancels against that, so that neither copy happens.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from rtdlm.config import PrecisionConfig
from rtdlm.models import TMSModel
from rtdlm.models.cache import DecodeCache, LayerCache
from rtdlm.models.memory import InputCache, MemoryState, of_first_document
from rtdlm.models.tms import Params
from rtdlm.modules.attention import KVCache
from rtdlm.modules.memory import LayerMemory
from rtdlm.parallel import is_stacked, memory_spec, path_name

LayerParams = Mapping[str, Mapping[str, Any]]
"""`Params` in which a stacked parameter is a tuple, an array a layer."""

# What the model reads in float32 whatever the format of its activations.
_FLOAT32 = (
    "norm/scale",
    "norm/bias",
    "router/w",
    "experts/bias",
    "predictor_in/w",
    "predictor_out/w",
    "predictor_out/b",
    "_conv/kernel",
    "decay/w",
    "write/w",
    "decay_rate",
    "decay_shift",
    "decay_shifts",
    "_channels/w",
    "memory/scale",
    "memory/slope",
    "memory/nothing",
    "memory/episodic_scale",
    "memory/episodic_nothing",
    "memory/episodic_slope",
    "memory/summary_scale",
    "memory/summary_slope",
    "memory/summary_nothing",
    "memory/summary_probe_scale",
    "memory/summary_probe",
    "memory/probe_scale",
    "memory/probe",
    "memory/forget",
    "memory/put",
    "memory/place",
    "memory/question",
    "memory/bank",
    "memory/address/w",
    "drive/w",
    "threshold",
    "copy_gate/open/w",
    "copy_gate/open/b",
    "copy_gate/steps",
    "controller/confidence/w",
    "controller/confidence/b",
    "controller/summary/w",
    "controller/summary/b",
    "controller/told/w",
    "controller/decide/w",
    "controller/decide/b",
    "controller/steps",
    "core/log_prices",
)


class SplitCache(NamedTuple):
    """A `DecodeCache` with its layers apart."""

    loops: tuple[tuple[tuple[LayerCache, ...], ...], ...]
    """Of every layer of every round of every loop."""
    input: InputCache
    core: tuple[tuple[KVCache, ...], ...] | None = None
    """As `DecodeCache.core`."""


def decoding_model(model: TMSModel) -> TMSModel:
    """`model`, with the same parameters, unrolled, with room in every expert, in a fit format.

    A choice that an expert drops depends on the row's other tokens, and so on how much of the row
    is read at once; with room for all, a token's result depends on the tokens before it alone.

    On a processor it computes in float32, whatever the model was trained in: its units for bfloat16
    take matrices, and a token a row is too little for them.
    """
    config, precision = model.config, model.config.precision
    if jax.default_backend() == "cpu":
        precision = PrecisionConfig(compute="float32")
    experts = config.experts
    if experts.num_experts and experts.dispatch == "capacity":
        experts = replace(experts, capacity_factor=experts.num_experts / experts.choices)
    config = replace(
        config, layer_unroll=config.num_layers, remat="none", experts=experts, precision=precision
    )
    return TMSModel(config)


def split_params(params: Params, *, dtype: jnp.dtype) -> LayerParams:
    """Layers apart, and weights in the activations' format instead of cast for every token."""

    def split(module: str, name: str, array: jax.Array) -> Any:
        if not f"{module}/{name}".endswith(_FLOAT32):
            array = array.astype(dtype)
        return tuple(array) if is_stacked(f"{module}/") else array

    return {
        module: {name: split(module, name, array) for name, array in arrays.items()}
        for module, arrays in params.items()
    }


def join_params(params: LayerParams) -> Params:
    """The stacked parameters that the model's methods take; free inside a compiled function."""
    return {
        module: {
            name: jnp.stack(array) if isinstance(array, tuple) else array
            for name, array in arrays.items()
        }
        for module, arrays in params.items()
    }


def split_cache(cache: DecodeCache) -> SplitCache:
    """One cache a layer."""

    def rounds(loop: tuple[LayerCache, ...]) -> tuple[tuple[LayerCache, ...], ...]:
        count = jax.tree.leaves(loop)[0].shape[0]
        return tuple(jax.tree.map(lambda x, at=at: x[at], loop) for at in range(count))

    return SplitCache(tuple(rounds(loop) for loop in cache.loops), cache.input, cache.core)


def with_memory(cache: SplitCache, memory: MemoryState, rows: int) -> SplitCache:
    """`cache` of so many rows, each of which remembers what `memory`, of one row, does."""

    def given(layer: LayerCache, own: LayerMemory | None, at: int) -> LayerCache:
        every = jax.tree.map(lambda x: jnp.repeat(x[at], rows, axis=0), own)
        return layer._replace(memory=every)

    memory = of_first_document(memory)
    loops = tuple(
        tuple(
            tuple(given(layer, own, at) for layer, own in zip(one, layers, strict=True))
            for at, one in enumerate(rounds)
        )
        for rounds, layers in zip(cache.loops, memory.loops, strict=True)
    )
    if memory.input is None:
        return cache._replace(loops=loops)
    own = jax.tree.map(lambda x: jnp.repeat(x[0], rows, axis=0), memory.input.cache)
    return cache._replace(loops=loops, input=own)


def join_cache(cache: SplitCache) -> DecodeCache:
    """The stacked cache; free inside a compiled function."""
    loops = tuple(
        jax.tree.map(lambda *arrays: jnp.stack(arrays), *rounds) for rounds in cache.loops
    )
    return DecodeCache(loops, cache.input, cache.core)


def places(tree: Any, whole: Sharding) -> Any:
    """Where each array of `tree` lies: those of caches by the rule table, and all others `whole`.

    Raises:
        ValueError: no rule or more than one matches a cache's array.
    """
    if not isinstance(whole, NamedSharding):
        return jax.tree.map(lambda leaf: whole, tree)
    mesh = whole.mesh

    def of_cache(path: tuple[Any, ...], leaf: Any) -> Sharding:
        spec = memory_spec(path_name(path), leaf.shape, mesh)
        return NamedSharding(mesh, _as_returned(spec, mesh))

    def of_part(part: Any) -> Any:
        if isinstance(part, SplitCache):
            return jax.tree_util.tree_map_with_path(of_cache, part)
        return whole

    return jax.tree.map(of_part, tree, is_leaf=lambda part: isinstance(part, SplitCache))


def _as_returned(spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """`spec` in the words that JAX has for it in a program's results.

    In others a first cache, which no program has returned yet, would be compiled for by itself.
    """

    def named(axes: Any) -> Any:
        names = (axes,) if isinstance(axes, str) else axes or ()
        split = tuple(name for name in names if mesh.shape[name] > 1)
        return split[0] if len(split) == 1 else split or None

    found = [named(axes) for axes in spec]
    while found and found[-1] is None:
        found.pop()
    return PartitionSpec(*found)
