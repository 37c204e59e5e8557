"""What a whole model remembers of earlier segments: one explicit argument and result.

Zeros are the empty memory. Tiers have a life of their own: short-term memory belongs to a document,
long-term memory to a document or a stream of them, meta-task memory may outlive both, and each can
be emptied or kept in a file apart from the others.

Axes: B batch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.checkpoint.tensors import read_tensors, write_tensors
from rtdlm.config import AGIConfig, UserError
from rtdlm.disk import replace_with
from rtdlm.models.convs import States, conv_features
from rtdlm.models.layers import LayerPlan, segments
from rtdlm.modules.memory import LayerMemory, Pending, ShortTerm, Store

Holder = TypeVar("Holder", LayerMemory, "MemoryState")
TIERS = {
    "stm": ("stm", "recent", "convs", "input"),
    "ltm": ("episodic", "recurrent", "summaries", "recent"),
    "mtm": ("mtm",),
}
"""Name of a tier -> the fields of `LayerMemory` and `MemoryState` that it is made of; either of the
first two goes on only with the tokens that were read last."""


class MemoryState(NamedTuple):
    """Memory of a batch of rows."""

    loops: tuple[tuple[LayerMemory | None, ...], ...]
    """Of every layer of a round, in every loop (see `rtdlm.models.layers`), with a leading axis of
    rounds; None for a layer that has none."""
    input: "InputMemory | None" = None
    """Of what stands before the layers, with a leading axis of one; None where nothing goes on from
    segment to segment there."""


class InputCache(NamedTuple):
    """What stands before the layers reads again."""

    recent_BJ: jax.Array | None
    """int32; the last tokens, oldest first, as id + 1, and 0 before the document. None without
    n-grams."""
    convs: States


class InputMemory(NamedTuple):
    """What goes on before the layers where attention goes on in them."""

    label_BJ: jax.Array
    """int32; document of the tokens that stood last, 0 where there is none."""
    cache: InputCache


def empty_memory(config: AGIConfig, batch_size: int, *, dtype: jnp.dtype) -> MemoryState:
    """What is remembered before the first segment."""
    loops = tuple(
        tuple(
            layer_memory(config, plan, segment.repeats, batch_size, dtype=dtype)
            for plan in segment.round
        )
        for segment in segments(config)
    )
    if not (config.memory.is_attended and config.reach):
        return MemoryState(loops)
    label_BJ = jnp.zeros((batch_size, config.reach), jnp.int32)
    own = InputMemory(label_BJ, empty_input(config, batch_size, dtype=dtype))
    return MemoryState(loops, jax.tree.map(lambda x: x[None], own))


def empty_input(config: AGIConfig, batch_size: int, *, dtype: jnp.dtype) -> InputCache:
    """What stands before the layers reads again, before the first token."""
    recent_BJ = None
    if config.ngram_reach:
        recent_BJ = jnp.zeros((batch_size, config.ngram_reach), jnp.int32)
    return InputCache(recent_BJ, _empty_convs(config, batch_size, dtype=dtype, of_input=True))


def layer_convs(config: AGIConfig, *rows: int, dtype: jnp.dtype) -> States:
    """What a layer's convolutions read again, before the first token; `rows`: (layers,) batch."""
    return _empty_convs(config, *rows, dtype=dtype, of_input=False)


def of_first_document(memory: MemoryState) -> MemoryState:
    """`memory` without what convolutions and n-grams know of any document but 1.

    Decoding goes on with document 1 and, unlike tiers, these do not look whose tokens they are.
    """
    if memory.input is None:
        return memory
    own_1BJ = memory.input.label_BJ == 1

    def kept(x_RBJ: jax.Array) -> jax.Array:
        back = x_RBJ.shape[2]
        own = own_1BJ[:, :, own_1BJ.shape[2] - back :]
        return jnp.where(own.reshape(*own.shape, *(1,) * (x_RBJ.ndim - 3)), x_RBJ, 0)

    loops = tuple(
        tuple(
            layer if layer is None else layer._replace(convs=jax.tree.map(kept, layer.convs))
            for layer in loop
        )
        for loop in memory.loops
    )
    cache = jax.tree.map(kept, memory.input.cache)
    return MemoryState(loops, memory.input._replace(cache=cache))


def _empty_convs(config: AGIConfig, *rows: int, dtype: jnp.dtype, of_input: bool) -> States:
    return {
        place: jnp.zeros((*rows, config.short_conv - 1, *shape), dtype)
        for place, shape in conv_features(config).items()
        if (place == "input") == of_input
    }


def empty_pending(
    config: AGIConfig, heads: int, repeats: int, batch_size: int, *, dtype: jnp.dtype
) -> Pending:
    """What waits for the end of a segment in decoding, before its first token."""
    assert config.memory.segment is not None
    shape = (config.memory.segment, heads, config.head_dim)
    return Pending.empty(repeats, batch_size, *shape, dtype=dtype)


def layer_memory(
    config: AGIConfig, plan: LayerPlan, repeats: int, batch_size: int, *, dtype: jnp.dtype
) -> LayerMemory | None:
    """What the layers of one place in a round remember before the first segment, or None."""
    memory, features = LayerMemory(*(None,) * len(LayerMemory._fields)), config.head_dim
    if plan.memory:
        memory = LayerMemory.empty(
            config.memory, repeats, batch_size,
            heads=config.memory_heads, features=features, dtype=dtype,
        )  # fmt: skip
    if plan.window:
        attended, heads = config.memory, (config.kv_heads, features)
        if attended.is_attended:
            slots = attended.stm_window
            memory = memory._replace(
                stm=ShortTerm.empty(repeats, batch_size, slots, *heads, dtype=dtype),
                convs=layer_convs(config, repeats, batch_size, dtype=dtype),
            )
        if attended.attends_tasks:
            slots = attended.task_tokens
            tasks = ShortTerm.empty(repeats, batch_size, slots, *heads, dtype=dtype)
            memory = memory._replace(mtm=tasks)
    return memory if plan.memory or plan.window else None


def reset(memory: MemoryState, tiers: Sequence[str]) -> MemoryState:
    """`memory` with some of the tiers `stm`, `ltm` and `mtm` emptied.

    Raises:
        UserError: there is no such tier.
    """
    fields = _fields(tiers)

    def empty(layer: LayerMemory | None) -> LayerMemory | None:
        if layer is None:
            return None
        return _zeroed(layer, fields)

    loops = tuple(tuple(empty(layer) for layer in loop) for loop in memory.loops)
    return _zeroed(memory._replace(loops=loops), fields)


def stores(memory: MemoryState) -> list[Store]:
    """The episodic store of each layer that has one, first layer first."""
    found = []
    for loop in memory.loops:
        for at in range(_rounds(loop)):
            kept = [layer.episodic for layer in loop if layer is not None]
            found += [
                jax.tree.map(lambda x, at=at: x[at], store) for store in kept if store is not None
            ]
    return found


def with_stores(memory: MemoryState, found: Sequence[Store]) -> MemoryState:
    """`memory` with other stores, in the order of `stores`."""
    rest = iter(found)

    def put(loop: tuple[LayerMemory | None, ...]) -> tuple[LayerMemory | None, ...]:
        own: list[list[Store]] = [[] for _ in loop]
        for _ in range(_rounds(loop)):
            for layer, rounds in zip(loop, own, strict=True):
                if layer is not None and layer.episodic is not None:
                    rounds.append(next(rest))
        return tuple(joined(layer, rounds) for layer, rounds in zip(loop, own, strict=True))

    def joined(layer: LayerMemory | None, rounds: list[Store]) -> LayerMemory | None:
        if layer is None or not rounds:
            return layer
        return layer._replace(episodic=jax.tree.map(lambda *arrays: jnp.stack(arrays), *rounds))

    return memory._replace(loops=tuple(put(loop) for loop in memory.loops))


def _rounds(loop: tuple[LayerMemory | None, ...]) -> int:
    leaves = jax.tree.leaves(loop)
    return leaves[0].shape[0] if leaves else 0


def save_memory(memory: MemoryState, file: str | Path, tiers: Sequence[str] = tuple(TIERS)) -> None:
    """Writes `tiers` of `memory` to one safetensors file, whole or not at all."""
    arrays = {name: np.asarray(leaf) for name, leaf in _named(memory, tiers).items()}
    replace_with(Path(file), lambda temporary: write_tensors(temporary, arrays))


def load_memory(
    memory: MemoryState, file: str | Path, tiers: Sequence[str] = tuple(TIERS)
) -> MemoryState:
    """`memory` with `tiers` as `save_memory` wrote them, bitwise.

    Args:
        memory: of the same model and as many rows, for instance the empty one.
        file: holds these tiers, and perhaps others.
        tiers: which to take.

    Raises:
        UserError: the file cannot be read, or holds memory of another model or number of rows.
    """
    fields = _fields(tiers)
    if not Path(file).is_file():
        raise UserError(f"there is no memory file {file}; check the path, or save one there first")
    found = read_tensors(Path(file))

    def read(path: tuple[Any, ...], like: jax.Array) -> jax.Array:
        name = _name(path)
        if name not in found:
            raise UserError(
                f"{file} holds no {name}; it is memory of another model or of less, or an earlier "
                "version wrote it"
            )
        got = found[name]
        if (got.shape, got.dtype) != (like.shape, like.dtype):
            raise UserError(
                f"{name} in {file} is {got.dtype}{list(got.shape)} where this model and batch "
                f"have {like.dtype}{list(like.shape)}; use the model and the number of rows that "
                "wrote it"
            )
        return jnp.asarray(got)

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: read(path, leaf) if _field(path) in fields else leaf, memory
    )


def _fields(tiers: Sequence[str]) -> list[str]:
    for tier in tiers:
        if tier not in TIERS:
            raise UserError(f"memory has no tier {tier!r}; tiers are {', '.join(TIERS)}")
    return [field for tier in tiers for field in TIERS[tier]]


def _named(memory: MemoryState, tiers: Sequence[str]) -> dict[str, jax.Array]:
    """Leaves of `tiers` by a name that says which they are."""
    fields, leaves = _fields(tiers), jax.tree_util.tree_leaves_with_path(memory)
    return {_name(path): leaf for path, leaf in leaves if _field(path) in fields}


def _zeroed(memory: Holder, fields: Sequence[str]) -> Holder:
    """With those of the fields that it has emptied."""
    own = {name: getattr(memory, name) for name in fields if name in memory._fields}
    return memory._replace(**jax.tree.map(jnp.zeros_like, own))


def _field(path: tuple[Any, ...]) -> str:
    """Of `LayerMemory`, or `input`."""
    return str(path[0].name if path[0].name == "input" else path[3].name)


def _name(path: tuple[Any, ...]) -> str:
    if path[0].name == "input":
        return jax.tree_util.keystr(path, simple=True, separator=".")
    loop, place = path[1].idx, path[2].idx
    rest = jax.tree_util.keystr(path[3:], simple=True, separator=".")
    return f"loop{loop}.layer{place}.{rest}"
