"""Tiers of memory and their fusion against NumPy loops written from their formulas."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.modules.memory import Matrix, ShortTerm, TaskMemory, Tokens
from rtdlm.modules.memory.fusion import fuse
from rtdlm.modules.memory.meta import modulation, read_meta, write_meta
from rtdlm.modules.memory.recurrent import read_recurrent
from rtdlm.modules.memory.short_term import read_window, write_window
from rtdlm.modules.memory.summaries import read_summaries, write_summaries
from rtdlm.modules.memory.tokens import last_label

ROWS, TIME, HEADS, FEATURES, SLOTS = 2, 5, 2, 4, 3


def unit(*shape: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tokens(label_BT: np.ndarray, place: int = 0) -> Tokens:
    label_BT = jnp.asarray(label_BT, jnp.int32)
    place_BT = jnp.broadcast_to(place + jnp.arange(label_BT.shape[1])[None], label_BT.shape)
    return Tokens(label_BT, label_BT > 0, jnp.zeros_like(label_BT), place_BT)


def with_random_params(function: Any, *given: Any) -> tuple[dict[str, np.ndarray], Any]:
    """The parameters that `function` makes, at random, and its result with them."""
    transformed = hk.transform(function)
    shapes = jax.eval_shape(transformed.init, jax.random.key(0), *given)
    rng = np.random.default_rng(7)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    result = jax.jit(transformed.apply)(params, None, *given)
    return {f"{m}/{n}": x for m, own in params.items() for n, x in own.items()}, result


@pytest.mark.parametrize("place", [0, 2])
def test_a_window_is_read_with_a_softmax_of_its_own(place: int) -> None:
    query, key = (
        unit(ROWS, TIME, HEADS, FEATURES, seed=0),
        unit(ROWS, SLOTS, HEADS, FEATURES, seed=1),
    )
    value = normal(ROWS, SLOTS, HEADS, FEATURES, seed=2)
    held, asking = np.array([[1, 1, 2], [0, 3, 3]]), np.array([[2, 2, 2, 3, 0], [3, 3, 4, 4, 4]])
    window = ShortTerm(jnp.asarray(key), jnp.asarray(value), jnp.asarray(held, jnp.int32))
    params, (read, share) = with_random_params(
        lambda query: read_window(query, tokens(asking, place), window), jnp.asarray(query)
    )
    scale, slope = np.exp(params["~/scale"]), np.exp(params["~/slope"])
    for b in range(ROWS):
        for t in range(TIME):
            for h in range(HEADS):
                total, expected = np.exp(params["~/nothing"][h]), np.zeros(FEATURES)
                for w in range(SLOTS):
                    if asking[b, t] == held[b, w] > 0:
                        away = (place + t + SLOTS - w) / SLOTS
                        score = scale[h] * (query[b, t, h] @ key[b, w, h]) - slope[h] * away
                        total += np.exp(score)
                        expected += np.exp(score) * value[b, w, h]
                np.testing.assert_allclose(read[b, t, h], expected / total, atol=1e-5)
                found = 1 - np.exp(params["~/nothing"][h]) / total
                np.testing.assert_allclose(share[b, t, h], found, atol=1e-5)
    assert not np.asarray(read[0, 3:]).any(), "nothing of its document is in the window"


def test_a_window_holds_the_last_tokens() -> None:
    window = ShortTerm.empty(1, SLOTS, 1, 1, dtype=jnp.float32)
    for start in (0, 2, 4):
        new = jnp.arange(start, start + 2, dtype=jnp.float32).reshape(1, 2, 1, 1)
        window = write_window(window, new, -new, jnp.full((1, 2), start // 2 + 1, jnp.int32))
    assert window.key_BWHE.ravel().tolist() == [3, 4, 5]
    assert window.value_BWHE.ravel().tolist() == [-3, -4, -5]
    assert window.label_BW.tolist() == [[2, 3, 3]]
    padding = jnp.zeros((1, 2, 1, 1))
    kept = write_window(window, padding, padding, jnp.zeros((1, 2), jnp.int32))
    assert kept.label_BW.tolist() == [[2, 3, 3]] and kept.key_BWHE.ravel().tolist() == [3, 4, 5]


def test_chunks_are_pooled_and_the_newest_kept() -> None:
    """Of each chunk the last document's tokens; the last chunk of a segment is a part of one."""
    labels, chunk = np.array([[1, 2, 2, 2, 0], [0, 0, 3, 3, 3]]), 2
    key = unit(ROWS, TIME, HEADS, FEATURES, seed=3)
    value = normal(ROWS, TIME, HEADS, FEATURES, seed=4)
    before = ShortTerm(
        jnp.asarray(unit(ROWS, 4, HEADS, FEATURES, seed=5)),
        jnp.asarray(normal(ROWS, 4, HEADS, FEATURES, seed=6)),
        jnp.full((ROWS, 4), 1, jnp.int32),
    )
    params, after = with_random_params(
        lambda key, value: write_summaries(
            before, key, value, jnp.asarray(labels, jnp.int32), chunk=chunk
        ),
        jnp.asarray(key), jnp.asarray(value),
    )  # fmt: skip
    assert after.label_BW.tolist() == [[1, 2, 2, 0], [1, 0, 3, 3]]
    np.testing.assert_array_equal(after.key_BWHE[:, 0], before.key_BWHE[:, 3])
    pooled = {(0, 1): [1], (0, 2): [2, 3], (1, 2): [2, 3], (1, 3): [4]}
    for (b, slot), own in pooled.items():
        for h in range(HEADS):
            scale = np.exp(params["~/summary_probe_scale"][h])
            weight = np.exp(scale * key[b, own, h] @ params["~/summary_probe"][0, h])
            weight /= weight.sum()
            k = weight @ key[b, own, h]
            expected = k / np.sqrt(k @ k + 1e-6)
            np.testing.assert_allclose(after.key_BWHE[b, slot, h], expected, atol=1e-5)
            np.testing.assert_allclose(
                after.value_BWHE[b, slot, h], weight @ value[b, own, h], atol=1e-5
            )


def test_summaries_are_read_by_this_table() -> None:
    """Three segments of four tokens, chunks of two, documents of five, two and five tokens."""
    labels = np.array([[1, 1, 1, 1], [1, 2, 2, 3], [3, 3, 3, 3]])
    slots, table = 4, []
    kept = ShortTerm.empty(1, slots, 1, slots, dtype=jnp.float32)
    key = jnp.asarray(unit(1, 4, 1, slots, seed=7))
    for own in labels:
        # A value that says which slot it is of, so that what is read are weights.
        marked = kept._replace(value_BWHE=jnp.eye(slots)[None, :, None])
        _, (read, _) = with_random_params(
            lambda key, marked=marked, own=own: read_summaries(
                key, tokens(own[None]), marked, chunk=2
            ),
            key,
        )
        table += (np.asarray(read)[0, :, 0] > 0).astype(int).tolist()
        _, kept = with_random_params(
            lambda key, kept=kept, own=own: write_summaries(
                kept, key, key, jnp.asarray(own[None], jnp.int32), chunk=2
            ),
            key,
        )
    assert table == [
        *[[0, 0, 0, 0]] * 4,  # nothing was read
        [0, 0, 1, 1],  # the first document's two chunks
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        *[[0, 0, 0, 1]] * 4,  # of the chunk that began with the second document, the third's
    ]


def test_a_segment_is_pooled_and_written_by_the_delta_rule() -> None:
    """The last document's tokens alone; the state of another document gives way to it."""
    probes, labels = 2, np.array([[1, 1, 2, 2, 0], [3, 3, 3, 3, 3]])
    key, value = (
        unit(ROWS, TIME, HEADS, FEATURES, seed=3),
        normal(ROWS, TIME, HEADS, FEATURES, seed=4),
    )
    state = normal(ROWS, HEADS, FEATURES, FEATURES, seed=5)
    memory = Matrix(jnp.asarray(state), jnp.array([1, 3], jnp.int32))
    params, after = with_random_params(
        lambda key, value: write_meta(
            memory, key, value, jnp.asarray(labels, jnp.int32), probes=probes
        ),
        jnp.asarray(key), jnp.asarray(value),
    )  # fmt: skip
    assert after.label_B.tolist() == [2, 3]
    for b, (own, start) in enumerate(((labels[0] == 2, 0.0), (labels[1] == 3, 1.0))):
        for h in range(HEADS):
            kept = np.exp(-np.log1p(np.exp(params["~/forget"][h])))
            expected = start * kept * state[b, h].astype(np.float64)
            for n in range(probes):
                score = (
                    np.exp(params["~/probe_scale"][h]) * key[b, own, h] @ params["~/probe"][n, h]
                )
                weight = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
                k, v = weight @ key[b, own, h], weight @ value[b, own, h]
                k = k / np.sqrt(k @ k + 1e-6)
                put = 1 / (1 + np.exp(-params["~/put"][n, h]))
                expected += put * np.outer(k, v - expected.T @ k)
            np.testing.assert_allclose(after.state_BHEF[b, h], expected, atol=1e-5)
    query = unit(ROWS, TIME, HEADS, FEATURES, seed=6)
    asking = np.array([[2, 1, 2, 0, 2], [3, 3, 4, 3, 3]])
    read = np.asarray(read_meta(jnp.asarray(query), tokens(asking), after))
    expected = np.einsum("BTHE,BHEF->BTHF", query, after.state_BHEF)
    is_own = asking == np.array([[2], [3]])
    np.testing.assert_allclose(read, expected * is_own[..., None, None], atol=1e-5)


def test_task_tokens_are_made_of_a_segment_and_the_last_ones() -> None:
    """Of the last document's; another's tokens are out of sight, and padding leaves all as is."""
    labels = np.array([[1, 1, 2, 2, 0], [3, 3, 3, 3, 3], [0] * TIME])
    rows, shape = len(labels), (HEADS, FEATURES)
    key, value = normal(rows, TIME, *shape, seed=3), normal(rows, TIME, *shape, seed=4)
    before = ShortTerm(
        *(jnp.asarray(normal(rows, SLOTS, *shape, seed=seed)) for seed in (5, 6)),
        jnp.array([[1] * SLOTS, [3] * SLOTS, [7] * SLOTS], jnp.int32),
    )
    params, after = with_random_params(
        lambda key, value: TaskMemory(tokens=SLOTS, heads=HEADS, features=FEATURES)()(
            before, key, value, jnp.asarray(labels, jnp.int32)
        ),
        jnp.asarray(key), jnp.asarray(value),
    )  # fmt: skip
    probe, scale, place, slope = (
        params[f"task_memory/{name}"] for name in ("probe", "probe_scale", "place", "slope")
    )
    for b, (last, own) in enumerate(((2, [5, 6]), (3, range(SLOTS + TIME)))):
        both = [
            np.concatenate(pair)[own] for pair in ((before[0][b], key[b]), (before[1][b], value[b]))
        ]
        far = np.log(np.arange(len(own), 0, -1))
        for n, h in np.ndindex(SLOTS, HEADS):
            unit_keys = both[0][:, h] / np.sqrt((both[0][:, h] ** 2).sum(-1, keepdims=True) + 1e-6)
            score = np.exp(scale[h]) * unit_keys @ probe[n, h]
            score -= np.exp(slope[n, h]) * np.abs(far - place[n, h])
            weight = np.exp(score - score.max())
            for found, rows_of in zip(after[:2], both, strict=True):
                wanted = weight @ rows_of[:, h] / weight.sum()
                np.testing.assert_allclose(found[b, n, h], wanted, atol=1e-5)
        assert after.label_BW[b].tolist() == [last] * SLOTS
    for found, kept in zip(after, before, strict=True):
        np.testing.assert_array_equal(found[2], kept[2])


def test_task_tokens_begin_as_the_last_tokens_of_a_segment() -> None:
    value = jnp.eye(TIME)[None, :, None]
    label = jnp.ones((1, TIME), jnp.int32)
    before = ShortTerm.empty(1, SLOTS, 1, TIME, dtype=jnp.float32)
    made = hk.transform(
        lambda: TaskMemory(tokens=SLOTS, heads=1, features=TIME)()(before, value, value, label)
    )
    share = made.apply(made.init(None), None).value_BWHE[0, :, 0]
    assert jnp.argmax(share, axis=1).tolist() == [TIME - 3, TIME - 2, TIME - 1]
    np.testing.assert_allclose(jnp.max(share, axis=1), [0.9, 0.96, 1.0], atol=0.04)


def test_a_bank_of_tasks_scales_and_shifts() -> None:
    """Tokens of another document take the mean entry."""
    memory = Matrix(jnp.asarray(normal(1, HEADS, FEATURES, FEATURES, seed=5)), jnp.array([1]))
    own = tokens(np.array([[1, 2]]))
    params, (scale, shift) = with_random_params(
        lambda: modulation(own, memory, slots=3, model=6, dtype=jnp.float32)
    )
    found = np.einsum("HE,BHEF->BHF", params["~/question"], memory.state_BHEF).reshape(-1)
    normed = found / np.sqrt((found**2).mean() + 1e-4) * params["task_norm/scale"]
    logits = normed @ params["address/w"]
    chosen = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    bank = params["~/bank"]
    for got, entry in ((scale, 0), (shift, 1)):
        np.testing.assert_allclose(got[0, 0], chosen @ bank[:, entry], atol=1e-5)
        np.testing.assert_allclose(got[0, 1], bank[:, entry].mean(0), atol=1e-5)


@pytest.mark.parametrize("how", ["gated", "hierarchical", "cross"])
def test_tiers_become_one(how: str) -> None:
    x, query = normal(ROWS, TIME, 6, seed=0), unit(ROWS, TIME, HEADS, FEATURES, seed=1)
    reads = [normal(ROWS, TIME, HEADS, FEATURES, seed=seed) for seed in (2, 3, 4)]
    priors = (0.2, 0.5, 0.7)
    params, (fused, share) = with_random_params(
        lambda x, query: fuse(x, query, [jnp.asarray(r) for r in reads], priors=priors, how=how),
        jnp.asarray(x), jnp.asarray(query),
    )  # fmt: skip
    if how == "cross":
        asked = np.einsum("BTHE,HEF->BTHF", query, params["across/w"])
        score = np.stack([(asked * read).sum(-1) for read in reads], -1) + np.log(priors)
        expected = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
    else:
        opened = np.einsum("BTD,DHN->BTHN", x, params["gates/w"]) + params["gates/b"]
        prior = np.array(priors)[: opened.shape[-1]]
        expected = 1 / (1 + np.exp(-(opened + np.log(prior / (1 - prior)))))
    if how == "hierarchical":
        first, second = expected[..., 0], expected[..., 1]
        expected = np.stack([first, (1 - first) * second, (1 - first) * (1 - second)], -1)
    np.testing.assert_allclose(share, expected, atol=1e-5)
    wanted = sum(expected[..., n, None] * read for n, read in enumerate(reads))
    np.testing.assert_allclose(fused, wanted, atol=1e-5)


def test_the_last_document_is_that_of_the_last_token_that_counts() -> None:
    label = jnp.array([[1, 2, 0], [5, 0, 0], [0, 0, 0]], jnp.int32)
    before = jnp.array([7, 8, 9], jnp.int32)
    assert last_label(label, label > 0, before).tolist() == [2, 5, 9]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("form", ["gated_delta", "channel_decay", "erase_write"])
def test_a_matrix_decays_erases_and_writes_by_what_the_gates_make_of_the_input(form: str) -> None:
    width, shape = 6, (ROWS, TIME, HEADS, FEATURES)
    x, query = normal(ROWS, TIME, width, seed=0), unit(*shape, seed=1)
    key, value = unit(*shape, seed=2), normal(*shape, seed=3)
    label = np.array([[4, 4, 4, 5, 5], [6, 6, 6, 0, 0]])
    before = normal(ROWS, HEADS, FEATURES, FEATURES, seed=4)
    memory = Matrix(jnp.asarray(before), jnp.array([4, 3], jnp.int32))
    params, (read, after) = with_random_params(
        lambda *given: read_recurrent(*given, tokens(label), memory, form=form),
        *map(jnp.asarray, (x, query, key, value)),
    )
    rate = np.exp(params["~/decay_rate"])[:, None]
    a_head = form == "gated_delta"
    name, shift = ("decay", "decay_shift") if a_head else ("decay_channels", "decay_shifts")
    for b in range(ROWS):
        state, own = before[b], int(memory.label_B[b])
        for t in range(TIME):
            if label[b, t] == 0:
                continue
            if label[b, t] != own:
                state, own = np.zeros_like(state), label[b, t]
            along = np.tensordot(x[b, t], params[f"{name}/w"], 1) + params[f"~/{shift}"]
            decay = np.exp(-rate * np.log1p(np.exp(along.reshape(HEADS, -1))))
            suffix = "_channels" if form == "erase_write" else ""
            write = sigmoid(np.tensordot(x[b, t], params[f"write{suffix}/w"], 1))
            write = write.reshape(HEADS, -1)
            erase = write
            if form == "erase_write":
                erase = sigmoid(np.tensordot(x[b, t], params["erase_channels/w"], 1))
            k, v = key[b, t], value[b, t]
            state = decay[..., None] * state
            gone = np.einsum("HE,HF->HEF", k, np.einsum("HE,HEF->HF", erase * k, state))
            state = state - gone + np.einsum("HE,HF->HEF", k, write * v)
            expected = np.einsum("HE,HEF->HF", query[b, t], state)
            np.testing.assert_allclose(read[b, t], expected, atol=1e-5)
        np.testing.assert_allclose(after.state_BHEF[b], state, atol=1e-5)
    assert after.label_B.tolist() == [5, 6]
