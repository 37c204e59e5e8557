"""Any pytree as flat names and host arrays, and back.

    {"block/attention": {"query": x}}  ->  {"block/attention/query": x}
    (ScaleByAdamState(count=c, ...),)  ->  {"0/count": c, ...}

Dictionary keys, attribute names and positions are joined by '/'. Typed PRNG keys become their
uint32 words. The arrays are copies: a step that donates the originals cannot reach them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.checkpoint.pieces import piece_name
from rtdlm.config.errors import UserError

NAMES_SHOWN = 3


def flatten_tree(tree: Any) -> dict[str, np.ndarray]:
    """Host copies of every leaf of `tree` by name, in the order of the tree.

    Raises:
        ValueError: two leaves have the same name.
    """
    # Without `copy_to_host_async`: on a CPU it keeps an alias that forbids the next donation.
    named = _named_leaves(tree)
    return {name: _host_copy(leaf) for name, leaf in named.items()}


def flatten_own(tree: Any) -> dict[str, np.ndarray]:
    """Host copies of what this process holds of every leaf, each number in one process alone.

    Parts of arrays have the names that `pieces` gives them.
    """
    own: dict[str, np.ndarray] = {}
    for name, leaf in _named_leaves(tree).items():
        if _is_key(leaf):
            leaf = jax.random.key_data(leaf)
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            if jax.process_index() == 0:
                own[name] = _host_copy(leaf)
            continue
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                part = piece_name(name, shard.index, leaf.shape)
                own[part] = np.array(shard.data, copy=True, order="C")
    return own


def unflatten_like(template: Any, flat: Mapping[str, np.ndarray]) -> Any:
    """A tree shaped as `template` with the values of `flat`.

    Args:
        template: a pytree whose leaves have a shape and a type: arrays, `jax.ShapeDtypeStruct`s
            from `jax.eval_shape`, or Python numbers. PRNG keys keep the template's generator.
        flat: what `flatten_tree` gave for a tree of the same structure.

    Returns:
        The leaves of `flat` themselves, not copied and not yet on a device; PRNG keys as typed
        arrays and Python numbers as Python numbers.

    Raises:
        UserError: a name is missing, unexpected, or has another shape or type.
    """
    named = _named_leaves(template)
    _require_fit({name: _stored_spec(leaf) for name, leaf in named.items()}, flat)
    leaves = [_restore(leaf, flat[name]) for name, leaf in named.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _named_leaves(tree: Any) -> dict[str, Any]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
    if len(named) != len(pairs):
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two leaves of the tree are both named {repeated!r}; rename one")
    return named


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _host_copy(leaf: Any) -> np.ndarray:
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    # np.asarray would alias the device's memory on CPU and so forbid its donation.
    return np.array(leaf, copy=True, order="C")


def _stored_spec(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and type that `_host_copy` gives for a leaf like this one."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    elif isinstance(leaf, bool | int | float | complex):
        leaf = np.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _restore(leaf: Any, value: np.ndarray) -> Any:
    if _is_key(leaf):
        generator = jax.random.key_impl(jnp.empty((), leaf.dtype))
        return jax.random.wrap_key_data(jnp.asarray(value), impl=generator)
    return value.item() if isinstance(leaf, bool | int | float | complex) else value


def _require_fit(
    expected: Mapping[str, jax.ShapeDtypeStruct], flat: Mapping[str, np.ndarray]
) -> None:
    reshaped = [
        f"{name} is {_describe(flat[name])}, expected {_describe(spec)}"
        for name, spec in expected.items()
        if name in flat and (flat[name].shape, flat[name].dtype) != (spec.shape, spec.dtype)
    ]
    missing = [f"{name} {_describe(spec)}" for name, spec in expected.items() if name not in flat]
    unexpected = [f"{name} {_describe(flat[name])}" for name in flat if name not in expected]
    findings = [
        f"{len(items)} {kind} ({_shorten(items)})"
        for kind, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape or type", reshaped),
        )
        if items
    ]
    if findings:
        raise UserError(
            f"the checkpoint's arrays do not fit this configuration: {'; '.join(findings)}; "
            "use the config.yaml saved beside them"
        )


def _describe(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _shorten(items: Iterable[str]) -> str:
    items = list(items)
    rest = len(items) - NAMES_SHOWN
    return ", ".join(items[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
