"""Short-term memory that attention itself reads: attention over more than a segment."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rtdlm.config import MeshConfig, UserError
from rtdlm.inference.layout import join_cache, split_cache, with_memory
from rtdlm.models import TMSModel
from rtdlm.models.tms import Params
from rtdlm.modules.head import LossTerms
from rtdlm.parallel import make_mesh, path_name
from rtdlm.training.carried import carried_shapes, carried_shardings
from tests.models.small import HASHED, RICH, SMALL, assert_trees_close, random_params, small_config
from tests.models.test_memory import LENGTH, Remembering
from tests.training.test_carried import STILL, carrying, long_rows, two_steps

WINDOW: dict[str, Any] = {"segment": 4, "stm_window": 8, "stm_form": "attention"}
TASKS: dict[str, Any] = {"task_tokens": 2, "task_form": "attention"}
NO_WINDOW: dict[str, Any] = {"stm_window": 0, "stm_form": None}
FORMS: dict[str, dict[str, Any]] = {
    "rope": {},
    "alibi": {"position_encoding": "alibi"},
    "convolutions, n-grams and values of the first layer": RICH,
    "rows that n-grams choose": {**HASHED, "position_encoding": "none"},
}
ROW = {"ids": np.random.default_rng(4).integers(64, size=(2, LENGTH), dtype=np.int32)}


def loss_and_slopes(model: TMSModel, params: Params, **rows: Any) -> tuple[jax.Array, Params]:
    zero = jnp.float32(0.0)
    terms = LossTerms(jnp.ones((2, LENGTH)), zero, zero, jnp.float32(1.0))

    def loss(params: Params) -> jax.Array:
        labels = np.roll(ROW["ids"], -1, axis=1)
        found = model.scores(params, ROW["ids"], labels, terms=terms, **rows).objective
        assert found is not None
        return found

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("form", FORMS)
def test_a_window_as_long_as_the_row_is_attention_over_all_of_it(form: str) -> None:
    """The model without segments is the reference: its loss and every gradient."""
    plain = TMSModel(small_config(**FORMS[form]))
    model = TMSModel(small_config(**FORMS[form], memory=WINDOW))
    params = random_params(plain)
    assert jax.tree.structure(model.shapes) == jax.tree.structure(plain.shapes)
    packed = {
        "segment_ids_BT": jnp.array([[1] * LENGTH, [1] * 2 + [2] * 9 + [0]], jnp.int32),
        "positions_BT": jnp.array([[*range(LENGTH)], [0, 1, *range(9), 0]], jnp.int32),
    }
    wanted, found = (loss_and_slopes(one, params, **packed) for one in (plain, model))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    assert_trees_close(found[1], wanted[1], atol=1e-5)


def test_a_window_reaches_as_far_as_it_says() -> None:
    """In one layer: a token at place p of its segment reads p + W tokens back, and no further."""
    window = 5
    memory = {**WINDOW, "stm_window": window}
    subject = Remembering(memory=memory)
    before = np.asarray(subject.whole)
    for changed in range(LENGTH - 1):
        ids = subject.ids_BT.at[0, changed].add(1) % 64
        after = np.asarray(subject.read(subject.params, ids)[0])
        differs = (after[0] != before[0]).any(axis=-1)
        place = np.arange(LENGTH)
        reads = (place >= changed) & (place // 4 * 4 - window <= changed)
        np.testing.assert_array_equal(differs, reads)
        np.testing.assert_array_equal(after[1], before[1])


def test_decoding_goes_on_with_the_first_document_alone() -> None:
    """A memory whose last document is the second tells decoding nothing, nor does it `read`."""
    model = TMSModel(small_config(**RICH, memory=WINDOW))
    params, read = random_params(model), jax.jit(model.read)
    for last, differs in ((2, False), (1, True)):
        documents = jnp.array([[1] * 4 + [last] * 4], jnp.int32)
        found = []
        for changed in (0, 1):
            ids = jnp.asarray(ROW["ids"][:1, :8] + np.repeat([0, changed], 4), jnp.int32) % 64
            memory = read(params, ids, segment_ids_BT=documents)[1]
            wanted, _ = read(params, jnp.asarray(ROW["ids"][:1, 8:]), memory=memory)
            cache = join_cache(with_memory(split_cache(model.empty_cache(1, 4)), memory, 1))
            got, _ = jax.jit(model.extend)(
                params, ROW["ids"][:1, 8:], positions_BT=jnp.arange(4)[None], cache=cache
            )
            np.testing.assert_allclose(got, wanted, atol=1e-5)
            found.append(got)
        assert (not np.array_equal(*found)) == differs


def test_gradients_through_the_window_are_cut_where_they_are_asked_to_be() -> None:
    config = small_config(num_layers=1, memory={**WINDOW, "backprop_segments": 1})
    model, whole = TMSModel(config), TMSModel(config.replace(memory={"backprop_segments": None}))
    params = random_params(model)
    cut, through = (loss_and_slopes(one, params) for one in (model, whole))
    assert cut[0] == through[0]
    name = "decoder/layers/block/attention/key"
    assert not np.allclose(cut[1][name]["w"], through[1][name]["w"], atol=1e-6)


def test_what_attention_remembers_is_carried_from_step_to_step_on_a_mesh() -> None:
    """Two steps are one row of twice the length, the windows of two layers among it."""
    form = {"num_layers": 2, "memory": {"stm_form": "attention", "every": 2}}
    one, many = carrying(**form), carrying((1, 2, 2), **form)
    (state, losses), (apart, found) = (two_steps(run, **STILL) for run in (one, many))
    assert found == pytest.approx(losses, rel=1e-5)
    scores = jax.jit(one.model.batch_scores)(one.start().params, long_rows())
    wanted = scores.memory
    for got in (state, apart):
        assert_trees_close(jax.device_get(got.memory.memory), wanted, atol=1e-5)
    key_RBWHE = apart.memory.memory.loops[0][0].stm.key_BWHE
    held = key_RBWHE.sharding.shard_shape(key_RBWHE.shape)
    assert held[3] == SMALL["num_kv_heads"] // 2, "heads lie with the keys that they are"


def test_every_part_that_is_carried_has_a_rule() -> None:
    memory = {**WINDOW, "across_steps": True, "task_tokens": 2, "task_form": "attention"}
    model = TMSModel(small_config(**RICH, memory=memory))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    placed = carried_shardings(carried_shapes(model), mesh)
    specs = {path_name(path): at.spec for path, at in jax.tree_util.tree_leaves_with_path(placed)}
    rows = ("data", "fsdp", "expert")
    assert specs["memory/loops/0/0/convs/keys"] == P(None, rows, None, "tensor", None)
    assert specs["memory/loops/0/0/convs/feedforward"] == P(None, rows, None, None)
    assert specs["memory/input/cache/convs/input"] == P(None, rows, None, None)
    assert specs["memory/input/cache/recent_BJ"] == P(None, rows, None)
    assert specs["memory/input/label_BJ"] == P(None, rows, None)
    assert specs["memory/loops/0/0/mtm/key_BWHE"] == P(None, rows, None, "tensor", None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"attention_type": "sliding"}, "attention_type='sliding' cannot be combined with"),
        ({"position_encoding": "learned"}, "a position would be of a token's own segment only"),
        (
            {"memory": {"stm_window": 0}},
            "stm_form='attention' has no effect with memory.stm_window",
        ),
        ({"memory": {"every": 2}}, "memory.every=2 has no effect with memory.stm_form='attention'"),
        (
            {"memory": {"every": 2, **TASKS}},
            "with memory.stm_form='attention' and memory.task_form='attention' and no other tier",
        ),
        ({"memory": {**TASKS, "mtm_weight": 0.3}}, "mtm_weight=0.3 has no effect with memory.task"),
        (
            {"memory": {**TASKS, "task_slots": 3}},
            "task_slots=3 has no effect with memory.task_form",
        ),
        (
            {"memory": {"task_form": "attention"}},
            "task_form='attention' has no effect with memory.task_tokens=0",
        ),
        (
            {"memory": {"episodic_recency": True}},
            "episodic_recency=True has no effect with memory.episodic_slots=0",
        ),
        (
            {"memory": {"segment": 4, **NO_WINDOW, **TASKS}, "attention_type": "sliding"},
            "attention_type='sliding' cannot be combined with memory.task_form='attention' yet",
        ),
        ({"memory": {"stm_weight": 0.3}}, "stm_weight=0.3 has no effect with memory.stm_form"),
        (
            {"memory": {"fusion": "cross", "task_tokens": 2}},
            "weighs tiers against each other and there is only mtm",
        ),
    ],
    ids=str,
)
def test_what_does_not_go_with_it_is_refused(overrides: dict[str, Any], message: str) -> None:
    memory = {**WINDOW, **overrides.pop("memory", {})}
    with pytest.raises(UserError, match=message):
        small_config(**overrides, memory=memory)
