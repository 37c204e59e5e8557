from dataclasses import replace
from typing import Any

import jax
import pytest

from rtdlm.config import AGIConfig, UserError
from rtdlm.parallel.slices import Slice, parse_slice, slice_of
from rtdlm.training.planning.communication import expected_collectives
from rtdlm.training.planning.recommend import (
    CAUTION,
    Recommendation,
    decide_mesh,
    recommend_parallelism,
    recommendation_table,
)

CONFIG = AGIConfig.from_dict(
    {
        "vocab_size": 256, "max_seq_len": 32, "d_model": 64, "num_heads": 4, "num_kv_heads": 2,
        "num_layers": 2, "d_ff": 256, "batch_size": 16, "layer_unroll": 1,
    }
)  # fmt: skip


def with_memory(count: float) -> Slice:
    """Eight H100 with another memory [bytes]."""
    found = parse_slice("h100:8")
    return Slice(replace(found.accelerator, memory=count), found.shape)


def recommended(**fields: Any) -> Recommendation:
    return recommend_parallelism(CONFIG.replace(**fields), parse_slice("h100:8"))


def test_the_fastest_of_those_that_fit_is_chosen() -> None:
    found = recommended()
    fitting = [each for each in found.candidates if each.fits]
    assert found.choice.seconds == min(each.seconds for each in fitting)
    assert {each.mesh.strategy for each in found.candidates} >= {"data", "zero1", "zero2", "fsdp"}
    assert found.mesh == found.choice.mesh
    sizes = found.mesh
    assert sizes.data * sizes.fsdp * sizes.expert * sizes.context * sizes.tensor == 8
    # It can be set as it is.
    assert CONFIG.replace(mesh=vars(sizes)).mesh == sizes


def test_what_does_not_fit_is_not_chosen() -> None:
    roomy = recommended()
    by_memory = sorted(each.memory for each in roomy.candidates)
    limit = CAUTION * (by_memory[0] + by_memory[1]) / 2
    found = recommend_parallelism(CONFIG, with_memory(limit))
    assert found.choice.memory == by_memory[0]
    assert [each.fits for each in found.candidates].count(True) == 1
    assert any("do not fit" in reason for reason in found.reasons)
    assert "too big" in recommendation_table(found)


def test_too_little_memory_for_any_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"no arrangement of h100:8 fits: the least, .* needs"):
        recommend_parallelism(CONFIG, with_memory(1e5))


def test_a_batch_that_no_arrangement_takes_is_a_sentence() -> None:
    with pytest.raises(UserError, match="batch_size=3 .* does not split over 8 devices"):
        recommended(batch_size=3)


def test_the_runs_own_mesh_does_not_count() -> None:
    assert recommended(mesh={"strategy": "auto"}).choice == recommended().choice


def test_auto_is_decided_and_nothing_else() -> None:
    devices = parse_slice("h100:8")
    automatic, reasons = decide_mesh(CONFIG.replace(mesh={"strategy": "auto"}), devices)
    assert automatic.mesh == recommended().mesh
    assert reasons == recommended().reasons
    assert decide_mesh(CONFIG, devices) == (CONFIG, ())


def test_devices_that_are_here_are_a_slice_of_their_kind() -> None:
    found = slice_of(jax.devices())
    assert (str(found), found.accelerator.platform) == ("cpu:8", "cpu")


@pytest.mark.parametrize(("strategy", "times"), [("data", 2), ("zero1", 3), ("zero2", 2)])
def test_what_is_sent_is_the_papers_multiple_of_the_parameters(strategy: str, times: int) -> None:
    from rtdlm.models.cost import count_parameters

    config = CONFIG.replace(
        mesh={"strategy": strategy},
        precision={"compute": "float32"},
        optimizer={"name": "adamw"},
    )
    axis = "data" if strategy == "data" else "fsdp"
    axes = {"data": 1, "fsdp": 1, "expert": 1, "context": 1, "tensor": 1} | {axis: 8}
    sent = sum(row.sent for row in expected_collectives(config, axes))
    expected = times * count_parameters(config).total
    if strategy == "zero2":
        # Slopes of the tokens' rows, rows, and all tokens in place of a gradient of the embedding.
        looked_up = config.vocab_size * config.d_model
        tokens = config.batch_size * config.max_seq_len
        expected += 2 * tokens / 8 * config.d_model + tokens - looked_up
    assert sent == pytest.approx(7 / 8 * 4 * expected)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("tied", [False, True])
def test_fsdp_gathers_layers_twice_and_the_output_table_once(
    compute: str, remat: str, tied: bool
) -> None:
    from rtdlm.models.cost import count_parameters

    config = CONFIG.replace(
        mesh={"strategy": "fsdp"}, remat=remat, precision={"compute": compute},
        optimizer={"name": "adamw"}, tie_embeddings=tied,
    )  # fmt: skip
    axes = {"data": 1, "fsdp": 8, "expert": 1, "context": 1, "tensor": 1}
    sent = {row.kind: row.sent for row in expected_collectives(config, axes)}
    every, table = count_parameters(config).total, config.vocab_size * config.d_model
    layers = every - table * (1 if tied else 2)
    width = 4 if compute == "float32" else 2
    tokens = 4 * config.batch_size * config.max_seq_len
    gathered = width * (2 * layers + table) + tokens
    assert sent["all-gather"] == pytest.approx(7 / 8 * gathered)
    assert sent["reduce-scatter"] == pytest.approx(7 / 8 * 4 * (layers + table))
    # A device's rows of the embedding come in parts from all, and their gradients go back.
    rows = config.batch_size / 8 * config.max_seq_len * config.d_model * width
    assert sent["all-to-all"] == pytest.approx(2 * 7 / 8 * rows)


@pytest.mark.parametrize(
    ("axes", "ways"),
    [({"fsdp": 8}, 8), ({"fsdp": 4, "tensor": 2}, 8), ({"data": 4, "tensor": 2}, 2)],
    ids=str,
)
def test_muon_sends_a_devices_own_matrices_there_and_back(axes: dict[str, int], ways: int) -> None:
    def sent(**fields: Any) -> float:
        config = CONFIG.replace(mesh={"strategy": "fsdp"}, num_layers=4, **fields)
        sizes = dict.fromkeys(("data", "fsdp", "expert", "context", "tensor"), 1) | axes
        return sum(row.sent for row in expected_collectives(config, sizes))

    model, wide = CONFIG.d_model, CONFIG.d_ff
    kv = CONFIG.kv_heads * CONFIG.head_dim
    # Of four layers: queries and outputs, keys and values, and three of feed-forward.
    stacks = {model * model: 8, model * kv: 8, model * wide: 12}
    whole = sum(-(-count // ways) * size for size, count in stacks.items())
    extra = sent(optimizer={"name": "muon"}) - sent(optimizer={"name": "adamw"})
    assert extra == pytest.approx(2 * (ways - 1) / ways * 4 * whole)


def test_chunks_of_a_loss_send_nothing_more() -> None:
    axes = {"data": 1, "fsdp": 8, "expert": 1, "context": 1, "tensor": 1}
    once, often = (
        expected_collectives(CONFIG.replace(loss={"chunk_size": size}), axes) for size in (32, 8)
    )
    assert once == often
