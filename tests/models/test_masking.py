"""What a token may depend on: not the future, not another document, not padding, not other rows."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.data.batch import Batch, empty_batch, pad_rows
from rtdlm.models import TMSModel
from rtdlm.models.passing import Scores
from tests.models.small import (
    CALLED,
    CIRCUIT,
    CONTROLLED,
    DROPLESS,
    GRAPH,
    GRAPH_ATTENTION,
    HASHED,
    KEYS,
    OVERLAP,
    RICH,
    ROOMY,
    TIGHT,
    assert_trees_close,
    packed_batch,
    random_params,
    small_config,
)

FORMS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"attention_type": "mha", "num_kv_heads": None},
    "mqa": {"attention_type": "mqa", "num_kv_heads": None, "position_encoding": "none"},
    "ring": {"attention_type": "ring"},
    "sliding": {"attention_type": "sliding", "attention": {"window": 3}},
    "local and global": {
        "attention_type": "sliding", "attention": {"window": 3, "global_every": 2},
    },
    "sparse": {
        "attention_type": "sparse", "attention": {"window": 2, "block": 2, "chosen": 1},
    },
    "top keys": {
        "attention_type": "sparse",
        "attention": {"sparse_form": "topk", "window": 2, "chosen": 2, "global_tokens": 1},
    },
    "alibi": {"position_encoding": "alibi"},
    "sliding with sinks and alibi": {
        "attention_type": "sliding", "attention": {"window": 3, "sinks": 2},
        "position_encoding": "alibi",
    },
    "linear": {"attention_type": "linear"},
    "delta": {"attention_type": "delta", "num_kv_heads": None, "position_encoding": "none"},
    "spiking": {"attention_type": "spiking"},
    "half of the tokens": {"depths": {"capacity": 0.5}},
    "half of the tokens, rich": {**RICH, "depths": {"capacity": 0.5, "every": 1}},
    "bounded, biased, normalised": {
        "attention": {"soft_cap": 2.0, "head_dim": 6}, "biases": "all", "norm": "layer",
        "norm_outputs": True, "feedforward": "geglu",
    },
    "rich": RICH,
    "product keys": KEYS,
    "hashed memory": HASHED,
    "hashed memory, half of the tokens": {**HASHED, "depths": {"capacity": 0.5}},
    "graph": GRAPH,
    "attention along a graph's edges": GRAPH_ATTENTION,
    "controller that calls": CALLED,
    "controller, rich, alibi": {**RICH, **CONTROLLED, "position_encoding": "alibi"},
    "quantum circuit": CIRCUIT,
    "overlap of states": OVERLAP,
    "graph that routes experts": {
        "graph": {**GRAPH["graph"], "route_experts": True}, "experts": DROPLESS,
    },
    "experts with room": {"experts": ROOMY},
    "experts that drop": {"experts": TIGHT},
    "dropless experts": {"experts": DROPLESS},
}  # fmt: skip

ROWS = 6


@pytest.mark.parametrize("form", FORMS)
def test_the_past_does_not_depend_on_the_future_nor_on_other_rows(form: str) -> None:
    config = small_config(**FORMS[form])
    model = TMSModel(config)
    params, logits = random_params(model), jax.jit(model.logits)
    rng = np.random.default_rng(3)
    ids = rng.integers(config.vocab_size, size=(2, config.max_seq_len), dtype=np.int32)
    other = (ids + rng.integers(1, config.vocab_size, ids.shape)) % config.vocab_size
    before = np.asarray(logits(params, ids))
    for t in range(1, config.max_seq_len):
        changed = ids.copy()
        changed[0, t:] = other[0, t:]
        after = np.asarray(logits(params, changed))
        np.testing.assert_array_equal(after[0, :t], before[0, :t])
        np.testing.assert_array_equal(after[1], before[1])
        assert not np.array_equal(after[0, t], before[0, t])


class Result(NamedTuple):
    losses_BT: np.ndarray
    gradients: Any
    """None under a controller, which outside of training runs a loop that has none."""
    experts: Any


@cache
def measurement(form: str) -> Callable[[Batch], Result]:
    """Losses, gradients of their weighted sum and expert statistics; one shape, one compilation."""
    model = TMSModel(small_config(**FORMS[form]))

    def loss(params: Any, batch: Batch) -> tuple[jax.Array, Scores]:
        scores = model.scores(
            params,
            jnp.asarray(batch.input_ids),
            jnp.asarray(batch.labels),
            positions_BT=jnp.asarray(batch.positions),
            segment_ids_BT=jnp.asarray(batch.segment_ids),
        )
        aux = 0.0 if scores.experts is None else jnp.sum(scores.experts.balance + scores.experts.z)
        return jnp.sum(scores.tokens.nll * batch.weights) + aux, scores

    plain = model.config.use_compute_controller
    differentiate = jax.jit(loss if plain else jax.grad(loss, has_aux=True))

    def measure(batch: Batch) -> Result:
        gradients, scores = differentiate(random_params(model), pad_rows(batch, ROWS))
        gradients = None if plain else gradients
        return Result(np.asarray(scores.tokens.nll), gradients, scores.experts)

    return measure


# Experts with too little room drop by what else is in a batch.
@pytest.mark.parametrize("form", [form for form in FORMS if form != "experts that drop"])
def test_packed_documents_equal_separate_documents(form: str) -> None:
    packed = packed_batch(small_config(), rows=2, seed=4)
    places = [
        (row, np.flatnonzero(packed.segment_ids[row] == number))
        for row in range(2)
        for number in range(1, packed.segment_ids[row].max() + 1)
    ]
    assert len(places) == ROWS
    separate = empty_batch(ROWS, packed.labels.shape[1])
    for document, (row, where) in enumerate(places):
        for into, source in zip(separate, packed, strict=True):
            into[document, : len(where)] = source[row, where]
        separate.segment_ids[document, : len(where)] = 1
    together, apart = measurement(form)(packed), measurement(form)(separate)
    for document, (row, where) in enumerate(places):
        losses = apart.losses_BT[document, : len(where)]
        np.testing.assert_allclose(together.losses_BT[row, where], losses, atol=1e-5)
    # The delta rule solves a triangular system a chunk, which multiplies rounding: 1e-5 of its
    # largest slopes, which are nine.
    assert_trees_close(together.gradients, apart.gradients, atol=9e-5 if form == "delta" else 1e-5)


@pytest.mark.parametrize(
    "form", ["gqa", "rich", "product keys", "hashed memory", "experts that drop"]
)
def test_padding_contributes_nothing(form: str) -> None:
    """Whatever ids and labels it holds, at the end of rows and in rows of nothing else."""
    batch = pad_rows(packed_batch(small_config(), rows=3, seed=5), ROWS)
    padding = batch.segment_ids == 0
    assert padding[:3].any()

    def filled(ids: int, label: int) -> Batch:
        return batch._replace(
            input_ids=np.where(padding, np.int32(ids), batch.input_ids),
            labels=np.where(padding, np.int32(label), batch.labels),
        )

    clean, junk = measurement(form)(filled(0, 0)), measurement(form)(filled(7, 9))
    np.testing.assert_array_equal(junk.losses_BT[~padding], clean.losses_BT[~padding])
    assert_trees_close(junk.gradients, clean.gradients, atol=1e-6)
    if clean.experts is not None:
        assert_trees_close(junk.experts, clean.experts, atol=1e-6)
    embedding = clean.gradients["decoder"]["embedding"]
    unseen = set(range(64)) - set(batch.input_ids[~padding].tolist())
    assert unseen and not np.asarray(embedding)[sorted(unseen)].any()


def test_thresholds_are_trained_and_sparsity_is_told() -> None:
    """Every head's threshold has a slope, and the shares of each layer are shares."""
    config = small_config(**FORMS["spiking"])
    model, batch = TMSModel(config), packed_batch(config)
    slopes = measurement("spiking")(packed_batch(config, rows=ROWS)).gradients
    thresholds = np.asarray(slopes["decoder/layers/block/attention"]["threshold"])
    assert thresholds.shape == (2, 2) and thresholds.all()
    spikes = jax.jit(model.batch_scores)(random_params(model), batch).spikes
    assert spikes is not None
    for share_L in spikes:
        assert share_L.shape == (2,) and ((share_L > 0.0) & (share_L <= 1.0)).all()
    assert (spikes.rate < 1.0).all()
