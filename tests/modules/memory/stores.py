"""Stores and offers to test with, and slow versions of reading and writing, written anew."""

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.memory import Store

Array = np.ndarray
BATCH, SLOTS, HEADS, WIDTH = 2, 12, 2, 8


def unit(random: np.random.Generator, *shape: int) -> Array:
    x = random.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def filled(random: np.random.Generator, *, slots: int = SLOTS, batch: int = BATCH) -> Store:
    """A store of two documents with a fifth of its slots empty."""
    label = random.integers(1, 3, size=(batch, slots)) * (random.random((batch, slots)) > 0.2)
    born = np.stack([1 + random.permutation(2 * slots)[:slots] for _ in range(batch)])
    shape = (batch, slots, HEADS, WIDTH)
    return Store(
        key_BMHE=jnp.asarray(unit(random, *shape) * (label > 0)[..., None, None]),
        value_BMHE=jnp.asarray(
            random.normal(size=shape) * (label > 0)[..., None, None], jnp.float32
        ),
        label_BM=jnp.asarray(label, jnp.int32),
        token_BM=jnp.asarray(random.integers(99, size=(batch, slots)), jnp.int32),
        born_BM=jnp.asarray(born * (label > 0), jnp.int32),
        used_BM=jnp.asarray(random.random((batch, slots)) * 3 * (label > 0), jnp.float32),
        surprise_BM=jnp.asarray(random.random((batch, slots)) * (label > 0), jnp.float32),
        clock_B=jnp.full((batch,), 2 * slots, jnp.int32),
    )


def offer(random: np.random.Generator, tokens: int, *, batch: int = BATCH) -> list[jax.Array]:
    """Keys, values, labels, of which some are padding, and ids."""
    shape = (batch, tokens, HEADS, WIDTH)
    label = random.integers(0, 3, size=shape[:2])
    ids = random.integers(99, size=shape[:2])
    value = random.normal(size=shape).astype(np.float32)
    return [
        jnp.asarray(unit(random, *shape)),
        jnp.asarray(value),
        jnp.asarray(label, jnp.int32),
        jnp.asarray(ids, jnp.int32),
    ]


def read_slowly(
    query_BTHE: Array,
    store: Store,
    label_BT: Array,
    *,
    top_k: int,
    scale_H: Array,
    null_H: Array,
    any_label: bool,
    slope_H: Array | None = None,
    place_BT: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Query by query and head by head, sorting all that may be read."""
    query, key, value = (
        np.asarray(x, float) for x in (query_BTHE, store.key_BMHE, store.value_BMHE)
    )
    labels = np.asarray(store.label_BM)
    read, used, hit = np.zeros_like(query), np.zeros(labels.shape), np.zeros(query.shape[:3])
    for b, t, h in np.ndindex(*query.shape[:3]):
        own = label_BT[b, t]
        may = [
            m for m, label in enumerate(labels[b])
            if own > 0 and label > 0 and (any_label or label == own)
        ]  # fmt: skip
        score = {m: scale_H[h] * query[b, t, h] @ key[b, m, h] for m in may}
        if slope_H is not None and place_BT is not None:
            clock = int(store.clock_B[b]) + int(place_BT[b, t]) + 1
            for m in may:
                score[m] -= slope_H[h] * np.log((clock - int(store.born_BM[b, m])) / 64)
        best = sorted(may, key=lambda m: (-np.float32(score[m]), m))[:top_k]
        total = np.exp(null_H[h]) + sum(np.exp(score[m]) for m in best)
        for m in best:
            weight = np.exp(score[m]) / total
            read[b, t, h] += weight * value[b, m, h]
            used[b, m] += weight / query.shape[2]
            hit[b, t, h] += weight
    return read, used, hit


def write_slowly(
    store: Store, key: Array, value: Array, label: Array, token: Array, *,
    surprise: Array, rows: int | None, forget: str, half_life: float,
) -> dict[str, Array]:  # fmt: skip
    """Token by token; the slots give way in an order made before the first is written."""
    new = {name: np.array(field) for name, field in store._asdict().items()}
    for b in range(len(label)):
        old = {name: field[b].copy() for name, field in new.items()}
        slots = len(old["label_BM"])

        def worth(m: int, old: dict[str, Array] = old) -> float:
            age, used = old["clock_B"] - old["born_BM"][m], old["used_BM"][m]
            left = 0.5 ** (age / half_life)
            return {
                "age": 0.0,
                "use": used + left,
                "surprise": old["surprise_BM"][m],
                "adaptive": (2 * old["surprise_BM"][m] + used) / (0.1 + 1 - left),
            }[forget]

        def order(m: int, old: dict[str, Array] = old) -> tuple[float, ...]:
            if old["label_BM"][m] == 0:
                return (0, 0, 0, m)
            return (1, np.float32(worth(m)), old["born_BM"][m], m)

        way = sorted(range(slots), key=order)
        real = [s for s in range(len(label[b])) if label[b, s] > 0]
        born = {s: old["clock_B"] + 1 + place for place, s in enumerate(real)}
        if rows is None:
            taken = real[-slots:]
        else:
            ranked = sorted(real, key=lambda s: (-surprise[b, s], s))
            taken = sorted(ranked[: min(rows, slots)])
        new["used_BM"][b] *= 0.5 ** (len(real) / half_life)
        for m, s in zip(way, taken, strict=False):
            new["key_BMHE"][b, m], new["value_BMHE"][b, m] = key[b, s], value[b, s]
            new["label_BM"][b, m], new["token_BM"][b, m] = label[b, s], token[b, s]
            new["born_BM"][b, m], new["used_BM"][b, m] = born[s], 0
            new["surprise_BM"][b, m] = surprise[b, s]
        new["clock_B"][b] += len(real)
    return new
