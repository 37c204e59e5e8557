"""The whole forward pass against a float64 NumPy decoder written from the papers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.models import TMSModel
from tests.models.small import GPT, RICH, ROOMY, TIGHT, packed_batch, random_params, small_config
from tests.modules import reference

FORMS: dict[str, dict[str, Any]] = {
    "grouped, tied, capped": {"tie_embeddings": True, "logit_soft_cap": 2.0},
    "multi-head, no QK-norm": {
        "attention_type": "mha", "num_kv_heads": None, "qk_norm": False, "rope_base": 50.0,
    },
    "multi-query, no positions": {
        "attention_type": "mqa", "num_kv_heads": None, "position_encoding": "none",
    },
    "alibi": {"position_encoding": "alibi"},
    "experts with room": {"experts": ROOMY},
    "experts that drop": {"experts": TIGHT},
    "experts beside two that all share": {"experts": {**ROOMY, "shared": 2}},
    "the small GPT": GPT,
    "rich": RICH,
    "n-grams as wide as the model": {"ngram": {"orders": [2], "buckets": 4225}},
    "one expert a token": {"experts": {"num_experts": 3, "top_k": 1, "capacity_factor": 0.8}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_logits_equal_the_papers_in_numpy(form: str) -> None:
    config = small_config(**FORMS[form])
    model, batch = TMSModel(config), packed_batch(config, rows=3)
    params = random_params(model)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    positional = config.position_encoding == "rope"
    actual = jax.jit(model.logits)(
        params,
        jnp.asarray(batch.input_ids),
        positions_BT=jnp.asarray(batch.positions),
        segment_ids_BT=jnp.asarray(batch.segment_ids),
    )
    assert actual.dtype == jnp.float32
    sparse = config.experts.num_experts > 0
    for row in range(3):
        expected = reference.decoder(
            exact,
            batch.input_ids[row],
            segments=batch.segment_ids[row],
            positions=batch.positions[row],
            base=(config.rope_base or 10_000.0) if positional else None,
            alibi=config.position_encoding == "alibi",
            cap=config.logit_soft_cap,
            top_k=config.experts.choices if sparse else 0,
            capacity=config.experts.capacity(config.max_seq_len) if sparse else 0,
            norm=config.norm,
            feedforward=config.feedforward,
            value_residual=config.value_residual,
            orders=config.ngram.orders,
            buckets=config.ngram.rows,
        )
        np.testing.assert_allclose(actual[row], expected, atol=2e-5, rtol=2e-5)


def test_scores_are_the_statistics_of_the_logits() -> None:
    config = small_config(logit_soft_cap=3.0, loss={"chunk_size": 5})
    model, batch = TMSModel(config), packed_batch(config, rows=2)
    params = random_params(model)
    rows = {"positions_BT": batch.positions, "segment_ids_BT": batch.segment_ids}
    scores = jax.jit(model.scores)(params, batch.input_ids, batch.labels, **rows)
    logits = np.asarray(jax.jit(model.logits)(params, batch.input_ids, **rows), np.float64)
    assert scores.experts is None
    for row, t in np.ndindex(batch.labels.shape):
        expected = reference.token_statistics(logits[row, t], int(batch.labels[row, t]))
        for name, value in expected.items():
            got = float(getattr(scores.tokens, name)[row, t])
            assert got == pytest.approx(value, abs=2e-5), (name, row, t)
