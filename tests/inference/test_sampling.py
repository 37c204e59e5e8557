"""Sampling against sorted NumPy references, literal tables and exact probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rtdlm.config.sampling import SamplingConfig
from rtdlm.inference.sampling import Sampler, keep_likely, keep_top, make_sampler, penalize, sample

OUT = -np.inf
draw, filtered = jax.jit(sample), jax.jit(keep_likely)


def sampler(rows: int, **options: object) -> Sampler:
    """`rows` rows, each with a key of its own."""
    return make_sampler(SamplingConfig(**options), [np.array([row]) for row in range(rows)])  # type: ignore[arg-type]


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max())
    return p / p.sum()


def reference(
    logits: np.ndarray, *, top_k: int | None, top_p: float | None, min_p: float | None
) -> np.ndarray:
    """One row without equal logits, by sorting."""
    kept = logits.astype(np.float64).copy()
    order = np.argsort(-kept)
    if top_k is not None:
        kept[order[top_k:]] = OUT
    if top_p is not None:
        p = softmax(kept)[order]
        before = np.cumsum(p) - p
        kept[order[before >= top_p]] = OUT
    if min_p is not None:
        p = softmax(kept)
        kept[p < min_p * p.max()] = OUT
    return kept


@pytest.mark.parametrize("top_k", [None, 1, 7, 500])
@pytest.mark.parametrize("top_p", [None, 0.03, 0.8])
@pytest.mark.parametrize("min_p", [None, 0.2])
def test_filters_equal_sorting(top_k: int | None, top_p: float | None, min_p: float | None) -> None:
    logits = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32) * 2
    options = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    kept = np.asarray(filtered(jnp.asarray(logits), sampler(6, **options)))
    for row in range(6):
        expected = reference(logits[row], top_k=top_k, top_p=top_p, min_p=min_p)
        np.testing.assert_array_equal(np.isfinite(kept[row]), np.isfinite(expected))
        np.testing.assert_array_equal(
            kept[row][np.isfinite(kept[row])], logits[row][np.isfinite(expected)]
        )


def test_filters_are_these_tables() -> None:
    p = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
    logits = jnp.log(jnp.asarray(p, jnp.float32))[None]

    def kept(**options: object) -> list[float]:
        found = filtered(logits, sampler(1, **options))[0]
        return np.where(np.isfinite(found), p, 0.0).tolist()

    assert kept(top_k=2) == [0, 0.4, 0, 0.25, 0]
    assert kept(top_p=0.39) == [0, 0.4, 0, 0, 0]
    assert kept(top_p=0.41) == [0, 0.4, 0, 0.25, 0]
    assert kept(top_p=0.9) == [0.1, 0.4, 0, 0.25, 0.2]
    assert kept(min_p=0.45) == [0, 0.4, 0, 0.25, 0.2]
    assert kept(min_p=1.0) == [0, 0.4, 0, 0, 0]
    # Top-p sees what top-k has left, scaled up: 0.4 / 0.65 is above 0.6.
    assert kept(top_k=2, top_p=0.6) == [0, 0.4, 0, 0, 0]
    assert kept() == p.tolist()


def test_equal_logits_stay_or_go_together() -> None:
    logits = jnp.array([[1.0, 3.0, 1.0, 2.0, 1.0]])
    kept = filtered(logits, sampler(1, top_k=3))
    assert kept.tolist() == [[1, 3, 1, 2, 1]]
    kept = filtered(logits, sampler(1, top_k=2))
    assert kept.tolist() == [[OUT, 3, OUT, 2, OUT]]


def test_the_threshold_is_found_among_numbers_of_all_signs_and_sizes() -> None:
    row = [-1e30, -2.0, -1e-30, 0.0, 1e-30, 0.5, 1e30]
    logits = jnp.asarray([row] * 7, jnp.float32)
    kept = keep_top(logits, jnp.ones_like(logits), jnp.arange(1.0, 8.0))
    for need in range(1, 8):
        expected = [OUT] * (7 - need) + np.float32(row[7 - need :]).tolist()
        assert kept[need - 1].tolist() == expected


def test_penalty_is_this_table() -> None:
    logits = jnp.array([[3.0, -3.0, 3.0, -3.0, 0.0], [3.0, -3.0, 3.0, -3.0, 1.0]])
    seen = jnp.array([[True, True, False, False, True]] * 2)
    found = penalize(logits, seen, jnp.array([1.5, 1.0]))
    assert found.tolist() == [[2, -4.5, 3, -3, 0], [3, -3, 3, -3, 1]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.05, 0.25, 0.2]),
        ({"temperature": 0.5}, np.square([0.1, 0.4, 0.05, 0.25, 0.2]) / 0.275),
        ({"top_k": 3}, np.array([0, 0.4, 0, 0.25, 0.2]) / 0.85),
        ({"top_p": 0.5, "temperature": 2.0}, None),
    ],
)
def test_draws_follow_the_exact_probabilities(options: dict, expected: np.ndarray | None) -> None:
    """A chi-square test of 40,000 draws, at 1 in 1000, with fixed keys."""
    p = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
    if expected is None:
        root = np.sqrt(p) / np.sqrt(p).sum()  # 0.15 0.30 0.11 0.24 0.21: the first two are 0.54
        expected = np.array([0, root[1], 0, root[3], 0]) / (root[1] + root[3])
    rows, positions = 40, 1000
    logits = jnp.tile(jnp.log(jnp.asarray(p, jnp.float32))[None], (rows * positions, 1))
    keys = sampler(rows, **options)
    many = Sampler(*(np.repeat(x, positions, axis=0) for x in keys))
    position_B = jnp.tile(jnp.arange(positions), rows)
    seen = jnp.zeros(logits.shape, bool)
    tokens = draw(logits, many, position_B=position_B, seen_BV=seen)
    counts, kept = np.bincount(tokens, minlength=5), np.asarray(expected) > 0
    assert not counts[~kept].any()
    frequencies = np.asarray(expected)[kept] * counts.sum()
    assert stats.chisquare(counts[kept], frequencies).pvalue > 1e-3


def test_a_rows_noise_is_its_own() -> None:
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(5, 30)), jnp.float32)
    all_rows, positions = sampler(5), jnp.arange(5)
    seen = jnp.zeros(logits.shape, bool)
    together = draw(logits, all_rows, position_B=positions, seen_BV=seen)
    for row in range(5):
        part = slice(row, row + 1)
        alone = Sampler(*(x[part] for x in all_rows))
        token = draw(logits[part], alone, position_B=positions[part], seen_BV=seen[part])
        assert token[0] == together[row]


def test_greedy_rows_and_drawn_rows_share_a_batch() -> None:
    logits = jnp.tile(jnp.array([[0.0, 1.0, 1.0, 0.5]]), (40, 1))
    rows = sampler(40)._replace(temperature_B=np.repeat(np.float32([0, 1]), 20))
    seen = jnp.zeros(logits.shape, bool)
    tokens = draw(logits, rows, position_B=jnp.arange(40), seen_BV=seen)
    assert set(tokens[:20].tolist()) == {1}, "the first of the likeliest"
    assert len(set(tokens[20:].tolist())) == 4


def test_keys_are_those_of_seed_prompt_and_repetition() -> None:
    a, b = np.array([7, 8], np.int32), np.array([7, 9], np.int64)

    def keys(seed: int, *prompts: np.ndarray) -> list[tuple[int, ...]]:
        return [tuple(key) for key in make_sampler(SamplingConfig(seed=seed), prompts).key_BW]

    assert keys(0, a, b, a) == [*keys(0, a), *keys(0, b), keys(0, a, a)[1]]
    assert len({*keys(0, a, a, a), *keys(0, b), *keys(1, a, b)}) == 6
    assert keys(2**63 - 1, a) == keys(2**63 - 1, a.astype(np.int64))
