"""Decoding on a mesh: caches lie where the rule table says, and the text is that of one device."""

from math import prod
from typing import Any

import jax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rtdlm.config import AGIConfig, MeshConfig
from rtdlm.config.presets import PRESETS
from rtdlm.config.sampling import SamplingConfig
from rtdlm.data import byte_tokenizer
from rtdlm.inference import EarlyExit, Generator
from rtdlm.inference.layout import places, split_cache
from rtdlm.models import TMSModel
from rtdlm.models.tms import Params
from rtdlm.parallel import make_mesh, partition_spec, path_name
from tests.inference.writers import PROMPTS, letters_model
from tests.models.small import CALLED, GRAPH, KINDS, OVERLAP, RICH, TIERS, small_config

DRAWN = SamplingConfig(temperature=1.5, top_k=40, max_tokens=20)
FORMS: dict[str, dict[str, Any]] = {
    **KINDS,
    "rich": RICH,
    "half of the tokens": {"depths": {"capacity": 0.5}},
    "every tier": {"memory": TIERS},
    "attention's window": {
        **RICH,
        "memory": {
            "segment": 4, "stm_window": 6, "stm_form": "attention", "task_tokens": 2,
            "task_form": "attention",
        },
    },
    "graph that routes experts": {
        "experts": {"num_experts": 4}, "graph": {**GRAPH["graph"], "route_experts": True},
    },
    "overlap of states": OVERLAP,
    "controller that calls": CALLED,
}  # fmt: skip


def on_mesh(params: Params, **shape: int) -> Params:
    """`params` as a run on a mesh of this shape leaves them."""
    config = MeshConfig(**({"data": 1, "fsdp": 1} | shape))
    mesh = make_mesh(config, jax.devices()[: prod(shape.values())])

    def place(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        spec = partition_spec(path_name(path), x.shape, mesh)
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(place, params)


class Watched(Generator):
    """Keeps what each call that reads or writes left behind."""

    def _compiled(self, function: Any) -> Any:
        self.left: list[dict[str, jax.Array]] = getattr(self, "left", [])
        self.compiled: list[Any] = getattr(self, "compiled", [])
        inner = super()._compiled(function)
        self.compiled.append(inner)

        def call(*given: Any) -> Any:
            found = inner(*given)
            leaves = jax.tree_util.tree_leaves_with_path(found)
            self.left.append({path_name(path): leaf for path, leaf in leaves})
            return found

        return call


@pytest.mark.parametrize("form", ["gqa", "sliding", "every tier"])
def test_parameters_on_a_mesh_write_the_same_from_caches_on_it(form: str) -> None:
    """Rows over two devices and heads over two, as a run leaves the parameters."""
    model, params = letters_model(**FORMS[form])
    plain = Generator(model, params, byte_tokenizer()).generate(PROMPTS, DRAWN)
    generator = Watched(model, on_mesh(params, data=2, tensor=2), byte_tokenizer())
    assert generator.generate(PROMPTS, DRAWN) == plain
    heads = model.config.kv_heads // 2
    for left in generator.left:
        keys = [leaf for path, leaf in left.items() if path.endswith("key_BKES")]
        assert len(keys) == model.config.num_layers
        for key_BKES in keys:
            assert key_BKES.sharding.shard_shape(key_BKES.shape)[:2] == (2, heads)
    assert generator.compiled[-1]._cache_size() == 1


def test_a_row_alone_and_a_draft_have_their_caches_on_the_mesh() -> None:
    """One row does not divide over two devices, and is whole on both."""
    model, params = letters_model()
    sides = params, on_mesh(params, data=2, tensor=2)
    written = []
    for side in sides:
        generator = Watched(model, side, byte_tokenizer(), draft=EarlyExit(1))
        written.append(generator.generate(PROMPTS[:1], DRAWN))
    assert written[0] == written[1]
    assert generator.compiled[-1]._cache_size() == 1
    last = generator.left[-1]
    keys = {path: leaf for path, leaf in last.items() if path.endswith("key_BKES")}
    assert {path.split("/")[1] for path in keys} == {"target", "draft"}
    heads = model.config.kv_heads // 2
    assert {leaf.sharding.shard_shape(leaf.shape)[:2] for leaf in keys.values()} == {(1, heads)}


def test_a_memory_that_is_given_is_read_on_the_mesh() -> None:
    model, params = letters_model(**FORMS["every tier"])
    written = []
    for side in (params, on_mesh(params, data=2, tensor=2)):
        generator = Generator(model, side, byte_tokenizer())
        memory = generator.remember("or not to be")
        written.append(generator.generate(PROMPTS[:2], DRAWN, memory=memory))
        written.append(generator.generate(PROMPTS[:2], DRAWN))
    assert written[:2] == written[2:] and written[0] != written[1]


OF_HEADS = {
    **dict.fromkeys(("key_BKES", "value_BKSE", "key_BKSE", "key_BKME", "value_BKME"), 1),
    **dict.fromkeys(("sum_BKEF", "total_BKE", "count_BK", "state_BHEF"), 1),
    **dict.fromkeys(("key_BSHE", "value_BSHE", "key_BWHE", "value_BWHE"), 2),
    **dict.fromkeys(("key_BMHE", "value_BMHE"), 2),
    **dict.fromkeys(("query", "key", "value", "queries", "keys", "values"), 2),
}
"""Name of an array -> the axis of its heads, in whichever part of a cache; the others have none."""


@pytest.mark.parametrize("name", [*PRESETS, *FORMS])
def test_every_cache_has_a_rule(name: str) -> None:
    """Rows lie apart, and heads where there are any; a circuit's are whole."""
    own = AGIConfig.from_preset(name) if name in PRESETS else small_config(**FORMS[name])
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    model = TMSModel(own)
    cache = jax.eval_shape(lambda: split_cache(model.empty_cache(8, 16)))
    placed = jax.tree_util.tree_leaves_with_path(places(cache, NamedSharding(mesh, P())))
    leaves = jax.tree.leaves(cache)
    assert len(leaves) >= own.num_layers
    for (path, at), leaf in zip(placed, leaves, strict=True):
        of_circuit = "quantum" in path_name(path)
        axis = None if of_circuit else OF_HEADS.get(path_name(path[-1:]))
        split = axis is not None and leaf.shape[axis] % 2 == 0
        heads = [None] * (axis - 1) + ["tensor"] if axis is not None and split else []
        assert at.spec == P(("data", "fsdp"), *heads), path_name(path)
