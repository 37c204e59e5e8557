"""The public class: what it accepts, what it makes, what its methods assume when told nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm import AGIConfig, TMSModel
from rtdlm.config import UserError
from tests.models.small import GPT, RICH, SMALL, random_params, small_config

MIXES = ("residual_mix", "attention/value_mix")


def test_keyword_arguments_are_fields_of_the_config() -> None:
    told = {"attention_type": "gqa", "num_kv_heads": 2, "position_encoding": "rope"}
    in_float32 = {"precision": {"compute": "float32"}}
    assert TMSModel(**told).config == AGIConfig(**told).replace(**in_float32)
    assert TMSModel().config == AGIConfig().replace(**in_float32)
    changed = TMSModel(small_config(), num_layers=5)
    assert changed.config == small_config(num_layers=5, **in_float32)


def test_a_format_that_is_left_open_is_the_fastest_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtdlm.models.tms.fastest_format", lambda: "bfloat16")
    assert TMSModel().config.precision.compute == "bfloat16"
    assert TMSModel(precision={"compute": "float16"}).dtype == jnp.float16


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown option 'num_layer'; did you mean 'num_layers'?"):
        TMSModel(num_layer=3)


def test_shapes_are_those_of_init_and_everything_is_float32() -> None:
    model = TMSModel(small_config(precision={"compute": "bfloat16"}))
    params = jax.jit(model.init)(jax.random.key(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, jnp.dtype("float32")), model.shapes
    )
    assert model.dtype == jnp.bfloat16
    logits = jax.jit(model.logits)(params, jnp.zeros((1, 3), jnp.int32))
    assert logits.dtype == jnp.float32


def test_without_positions_and_segments_a_row_is_one_document() -> None:
    model = TMSModel(small_config())
    params, ids = random_params(model), jnp.arange(24).reshape(2, 12)
    positions = jnp.broadcast_to(jnp.arange(12)[None], (2, 12))
    segments = jnp.ones((2, 12), jnp.int32)
    logits = jax.jit(model.logits)
    np.testing.assert_array_equal(
        logits(params, ids), logits(params, ids, positions_BT=positions, segment_ids_BT=segments)
    )


def test_initialisation_has_the_stated_spread_and_shrinks_with_depth() -> None:
    """1 / sqrt(fan in), and 1 / sqrt(2 L) of that where a block writes to the residual stream."""
    sizes = {"d_model": 64, "num_heads": 4, "d_ff": 96, "num_layers": 8, "vocab_size": 256}
    model = TMSModel(AGIConfig.from_dict(SMALL | sizes | {"layer_unroll": 1}))
    params = jax.jit(model.init)(jax.random.key(3))
    block = "decoder/layers/block"
    spread = {
        "attention/query": 64**-0.5,
        "attention/key": 64**-0.5,
        "attention/value": 64**-0.5,
        "attention/output": 64**-0.5 / 4,
        "feedforward/gate": 64**-0.5,
        "feedforward/up": 64**-0.5,
        "feedforward/down": 96**-0.5 / 4,
    }
    for path, expected in spread.items():
        w = np.asarray(params[f"{block}/{path}"]["w"])
        assert w.std() == pytest.approx(expected, rel=0.03), path
        assert abs(w).max() < 2.3 * expected, f"{path} is cut at two deviations of its normal"
        assert abs(np.corrcoef(w.reshape(8, -1)) - np.eye(8)).max() < 0.1, "no two layers alike"
    for name, table in params["decoder"].items():
        assert np.asarray(table).std() == pytest.approx(64**-0.5, rel=0.03), name
    for path, leaf in params.items():
        if path.endswith("_norm"):
            assert (np.asarray(leaf["scale"]) == 1).all(), path


def test_each_ingredient_starts_as_its_documentation_says() -> None:
    """What writes to the stream at zero, mixtures as told, the embedding as wide as asked."""
    config = small_config(**RICH, position_encoding="learned", zero_init_outputs=True)
    model = TMSModel(config, embedding_std=0.5, vocab_size=512)
    params = jax.jit(model.init)(jax.random.key(4))
    block = "decoder/layers/block"
    zeros = ["attention/output", "feedforward/down", "attention_conv", "attention/keys_conv"]
    for path in zeros:
        assert not np.asarray(next(iter(params[f"{block}/{path}"].values()))).any(), path
    assert not params["decoder/ngram"]["table"].any()
    mix = {name: params[f"{block}/{name}"]["weights"] for name in MIXES}
    assert mix["residual_mix"].tolist() == [[1.0, 0.0]] * 2
    assert mix["attention/value_mix"].tolist() == [[0.5, 0.5, 1.0]] * 2
    spread = {"embedding": 0.5, "output": 0.25, "value_embedding": 0.25}
    for name, expected in spread.items():
        assert np.asarray(params["decoder"][name]).std() == pytest.approx(expected, rel=0.04), name
    assert 0.4 < np.asarray(params["decoder"]["position"]).std() < 0.6
    # Blocks write nothing yet, so that only the token itself decides.
    logits = jax.jit(model.logits)
    ids = jnp.array([[5, 6, 7], [9, 6, 8]])
    params["decoder"]["position"] = jnp.zeros_like(params["decoder"]["position"])
    here = logits(params, ids)[:, 1]
    np.testing.assert_array_equal(here[0], here[1])


def test_learned_positions_end_with_the_context() -> None:
    model = TMSModel(small_config(**GPT))
    ids = jnp.zeros((1, 13), jnp.int32)
    with pytest.raises(UserError) as raised:
        model.logits(random_params(model), ids)
    assert str(raised.value) == (
        "rows of 13 tokens have no position_encoding='learned' beyond max_seq_len=12; shorten "
        "them or train with a longer max_seq_len"
    )


def test_overrides_change_only_what_they_name() -> None:
    config = AGIConfig.from_preset("tiny", loss={"z_loss": 1e-4})
    model = TMSModel(config, attention_type="mqa", loss={"chunk_size": 64})
    assert model.config.kv_heads == 1
    assert (model.config.loss.z_loss, model.config.loss.chunk_size) == (1e-4, 64)
