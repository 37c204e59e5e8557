"""Tiers that go by attention's queries, keys and values: `memory.tier_form=attention`."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import MeshConfig, UserError
from rtdlm.config.memory import MemoryConfig
from rtdlm.models import TMSModel
from rtdlm.models.heads import remove_heads, silence_heads
from rtdlm.modules.memory import LayerMemory, MemoryHeads, MemoryLayer, MemoryOutput, Tokens
from rtdlm.modules.memory.fusion import left_of_attention
from rtdlm.parallel import make_mesh, partition_spec, path_name
from tests.models.small import SMALL, TIERS, random_params, small_config

MEMORY: dict[str, Any] = {**TIERS, "tier_form": "attention"}
ROWS, LENGTH, MODEL, HEADS, FEATURES = 2, 4, 6, 3, 4


def whole_segment() -> Tokens:
    return Tokens(
        label_BT=jnp.ones((ROWS, LENGTH), jnp.int32),
        place_BT=jnp.broadcast_to(jnp.arange(LENGTH)[None], (ROWS, LENGTH)),
        id_BT=jnp.zeros((ROWS, LENGTH), jnp.int32),
        counts_BT=jnp.ones((ROWS, LENGTH), bool),
    )


def layer_reads(x_BTD: jax.Array, heads: MemoryHeads | None) -> MemoryOutput:
    """A layer's second segment, read after the first one."""
    config = MemoryConfig(**{**TIERS, "task_slots": None, "short_conv": 0})
    layer = MemoryLayer(config, heads=HEADS, features=FEATURES, out_scale=1.0)
    memory = LayerMemory.empty(config, ROWS, heads=HEADS, features=FEATURES, dtype=jnp.float32)
    tokens = whole_segment()
    first = layer(x_BTD[:, :LENGTH], tokens, memory, None, _part(heads, 0))
    return layer(x_BTD[:, LENGTH:], tokens, first.memory, None, _part(heads, 1))


def _part(heads: MemoryHeads | None, number: int) -> MemoryHeads | None:
    here = slice(number * LENGTH, (number + 1) * LENGTH)
    return None if heads is None else MemoryHeads(*(x[:, here] for x in heads))


def test_a_layer_reads_by_given_heads_what_it_reads_by_its_own() -> None:
    """Where the heads given are those that it would make; and its output projection is not its."""
    rng = np.random.default_rng(4)
    x_BTD = jnp.asarray(rng.normal(size=(ROWS, 2 * LENGTH, MODEL)), jnp.float32)
    net = hk.without_apply_rng(hk.transform(layer_reads))
    params = net.init(jax.random.key(0), x_BTD, None)
    own = net.apply(params, x_BTD, None)
    heads = MemoryHeads(
        *(
            jnp.einsum("BTD,DHE->BTHE", x_BTD, params[f"memory/{name}"]["w"])
            for name in ("query", "key", "value")
        )
    )
    fewer = net.init(jax.random.key(0), x_BTD, heads)
    gone = {f"memory/{name}" for name in ("query", "key", "value", "output")}
    assert set(params) - set(fewer) == gone and set(fewer) < set(params)
    given = net.apply({name: params[name] for name in fewer}, x_BTD, heads)
    out_BTD = jnp.einsum("BTHE,HED->BTD", given.read_BTHE, params["memory/output"]["w"])
    assert own.out_BTD is not None and given.out_BTD is None
    np.testing.assert_allclose(out_BTD, own.out_BTD, atol=1e-5)
    assert float(jnp.abs(own.out_BTD).min()) > 1e-4, "something was remembered"


def test_attention_gives_way_to_what_a_store_finds_and_to_nothing_else() -> None:
    """In the first segment nothing is stored, and `mixed` reads what `gated` does."""
    memory = {"segment": 4, "episodic_slots": 8, "tier_form": "attention", "fusion": "gated"}
    models = [
        TMSModel(small_config(num_layers=1, memory={**memory, "fusion": fusion}))
        for fusion in ("gated", "mixed")
    ]
    params = random_params(models[0])
    ids = jnp.asarray(np.random.default_rng(3).integers(64, size=(2, 8)), jnp.int32)
    gated, mixed = (np.asarray(jax.jit(model.read)(params, ids)[0]) for model in models)
    np.testing.assert_array_equal(mixed[:, :4], gated[:, :4])
    assert np.abs(mixed[:, 4:] - gated[:, 4:]).max(axis=-1).min() > 1e-4
    share = jnp.asarray([[[[0.5, 0.25]]]])
    for found, wanted in (
        ((None, None), 0.5 * 0.75),
        ((jnp.full((1, 1, 1), 0.2), None), 0.9 * 0.75),
    ):
        assert float(left_of_attention(share, found)[0, 0, 0]) == pytest.approx(wanted)


def test_a_store_that_knows_of_age_reads_keys_at_their_distance() -> None:
    """Queries at their place in the segment, the eight tokens before it at -8 to -1."""
    config = MemoryConfig(
        LENGTH, episodic_slots=2 * LENGTH, episodic_recency=True, tier_form="attention"
    )
    asked: list[np.ndarray] = []

    def turn(x_BTHE: jax.Array, positions_BT: jax.Array) -> jax.Array:
        asked.append(np.asarray(positions_BT))
        return x_BTHE

    def read(x_BTD: jax.Array) -> None:
        layer = MemoryLayer(config, heads=HEADS, features=FEATURES, out_scale=1.0, turn=turn)
        shape = (ROWS, LENGTH, HEADS, FEATURES)
        rng = np.random.default_rng(2)
        heads = MemoryHeads(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)))
        memory = LayerMemory.empty(config, ROWS, heads=HEADS, features=FEATURES, dtype=jnp.float32)
        for _ in range(3):
            memory = layer(x_BTD, whole_segment(), memory, None, heads).memory

    net = hk.transform(read)
    x_BTD = jnp.ones((ROWS, LENGTH, MODEL))
    net.init(jax.random.key(0), x_BTD)
    queries, keys = asked[-2:]
    assert queries.tolist() == [list(range(LENGTH))] * ROWS
    assert sorted(keys[0].tolist()) == list(range(-2 * LENGTH, 0))


def test_grouped_heads_are_those_of_all_heads_with_equal_keys() -> None:
    """Two key-value heads against four, of which each two are the same."""
    few = TMSModel(small_config(memory=MEMORY))
    many = TMSModel(small_config(memory=MEMORY, attention_type="mha", num_kv_heads=None))
    groups, heads = few.config.kv_heads, many.config.kv_heads
    assert groups < heads
    params = random_params(few)
    wide = {module: dict(arrays) for module, arrays in params.items()}
    for name in ("key", "value"):
        arrays = wide[f"decoder/layers/block/attention/{name}"]
        arrays["w"] = jnp.repeat(arrays["w"], heads // groups, axis=2)
    ids = jnp.asarray(np.random.default_rng(1).integers(64, size=(2, 12), dtype=np.int32))
    (one, _), (other, _) = (
        jax.jit(model.read)(own, ids) for model, own in ((few, params), (many, wide))
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_parameters_and_state_lie_with_their_heads() -> None:
    model = TMSModel(small_config(memory=MEMORY))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    specs = {
        path_name(path): partition_spec(path_name(path), leaf.shape, mesh)
        for path, leaf in jax.tree_util.tree_leaves_with_path(model.shapes)
    }
    gates = [spec for path, spec in specs.items() if path.endswith("attention/memory/gates/w")]
    assert [tuple(spec) for spec in gates] == [(None, "fsdp", "tensor", None)]
    [[layer]] = jax.eval_shape(lambda: model.empty_memory(2)).loops
    assert layer is not None and layer.stm is not None
    assert layer.stm.key_BWHE.shape[3] == SMALL["num_heads"] and layer.recent is None


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({**MEMORY, "heads": 2}, "memory.heads=2 has no effect with memory.tier_form='attention'"),
        ({**MEMORY, "short_conv": 3}, "memory.short_conv=3 has no effect with memory.tier_form"),
        ({"segment": 4, "tier_form": "attention"}, "tier_form='attention' has no effect without"),
        (
            {"segment": 4, "stm_window": 4, "fusion": "mixed"},
            "memory.fusion='mixed' makes attention's own reading give way, and tiers have heads",
        ),
        (
            {"segment": 4, "stm_window": 4, "stm_form": "attention", "tier_form": "own_heads"},
            "tier_form='own_heads' has no effect with memory.stm_form='attention' and no other",
        ),
    ],
)
def test_what_has_no_effect_is_refused(memory: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_config(memory=memory)


def test_heads_of_attention_go_and_those_of_memory_stay() -> None:
    model = TMSModel(small_config(memory=TIERS))
    params, gone = random_params(model), [[0, 2]] * model.config.num_layers
    smaller = remove_heads(model.config, params, None, gone)
    assert smaller.config.memory_heads == model.config.num_heads > smaller.config.num_heads
    ids = jnp.asarray(np.random.default_rng(1).integers(64, size=(2, 12), dtype=np.int32))
    silenced = silence_heads(model.config, params, gone)
    wanted, _ = jax.jit(model.read)(silenced, ids)
    found, _ = jax.jit(TMSModel(smaller.config).read)(smaller.params, ids)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_heads_that_remember_cannot_be_removed() -> None:
    model = TMSModel(small_config(memory=MEMORY))
    weakest = [[0, 2]] * model.config.num_layers
    with pytest.raises(UserError, match=r"memory.tier_form='attention'"):
        remove_heads(model.config, random_params(model), None, weakest)
