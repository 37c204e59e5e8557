"""Memory across segments: what may reach a token, what is carried, and what is trained."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.config import MeshConfig, UserError
from rtdlm.models import TMSModel
from rtdlm.models.memory import MemoryState, load_memory, reset, save_memory
from rtdlm.models.tms import Params
from rtdlm.modules.head import LossTerms
from rtdlm.parallel import make_mesh, partition_spec, path_name
from rtdlm.training.planning.remembered import remembered
from tests.models.memory_forms import FORMS
from tests.models.small import (
    KINDS,
    assert_trees_close,
    assert_trees_equal,
    random_params,
    small_config,
)

LENGTH = 12


class Remembering:
    """One model with random parameters, its compiled functions and two random rows."""

    def __init__(self, **form: Any) -> None:
        self.model = TMSModel(small_config(**{"num_layers": 1} | form))
        self.params: Params = random_params(self.model)
        ids = np.random.default_rng(8).integers(64, size=(2, LENGTH), dtype=np.int32)
        self.ids_BT = jnp.asarray(ids)
        self.read, self.extend = jax.jit(self.model.read), jax.jit(self.model.extend)
        self.whole, self.after = self.read(self.params, self.ids_BT)


@cache
def remembering(form: str) -> Remembering:
    return Remembering(**FORMS[form])


TOGETHER = [form for form in FORMS if form.startswith("all")]


@pytest.fixture(scope="module", params=["segments alone", "recurrent", *TOGETHER])
def of_form(request: pytest.FixtureRequest) -> Remembering:
    return remembering(request.param)


@pytest.mark.parametrize("sizes", [(1,) * LENGTH, (6, 6)], ids=str)
def test_decoding_in_pieces_of_any_size_equals_the_forward_pass(
    of_form: Remembering, sizes: tuple[int, ...]
) -> None:
    cache, start = of_form.model.empty_cache(2, LENGTH), 0
    for size in sizes:
        positions = jnp.broadcast_to(jnp.arange(start, start + size)[None], (2, size))
        here = slice(start, start + size)
        scores, cache = of_form.extend(
            of_form.params, of_form.ids_BT[:, here], positions_BT=positions, cache=cache
        )
        np.testing.assert_allclose(scores, of_form.whole[:, here], atol=1e-5)
        start += size
    for own, wanted in zip(cache.loops, of_form.after.loops, strict=True):
        assert_trees_close(tuple(layer.memory for layer in own), wanted)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("gqa", "sliding")])
def test_any_kind_of_attention_reads_within_its_segment(kind: str) -> None:
    """In one pass as in pieces that begin and end inside of segments."""
    memory = {"segment": 4, "stm_window": 6, "tier_form": "attention"}
    subject = Remembering(**KINDS[kind], memory=memory)
    cache = subject.model.empty_cache(2, LENGTH)
    for start in (0, 6):
        here = slice(start, start + 6)
        positions = jnp.broadcast_to(jnp.arange(start, start + 6)[None], (2, 6))
        found, cache = subject.extend(
            subject.params, subject.ids_BT[:, here], positions_BT=positions, cache=cache
        )
        np.testing.assert_allclose(found, subject.whole[:, here], atol=1e-5)
    changed = subject.ids_BT.at[:, 7].add(1) % 64
    after, _ = subject.read(subject.params, changed)
    np.testing.assert_array_equal(after[:, :7], subject.whole[:, :7])
    assert not np.allclose(after[:, 8:], subject.whole[:, 8:]), "by short-term memory alone"


def test_rows_stand_still_and_go_on_at_their_own_steps(of_form: Remembering) -> None:
    """What is read in vain leaves no trace in any tier."""
    cache, at = of_form.model.empty_cache(2, LENGTH), np.array([6, 3])
    prompt = jnp.where(jnp.arange(6)[None] < at[:, None], of_form.ids_BT[:, :6], 63)
    positions = jnp.broadcast_to(jnp.arange(6)[None], (2, 6))
    _, cache = of_form.extend(
        of_form.params, prompt, positions_BT=positions, cache=cache, lengths_B=at.astype(np.int32)
    )
    for step in range(7):
        ids = jnp.take_along_axis(of_form.ids_BT, jnp.asarray(at)[:, None], axis=1)
        running = np.array([step % 3 != 0, step % 4 != 1], np.int32)
        scores, cache = of_form.extend(
            of_form.params, ids, positions_BT=jnp.asarray(at)[:, None], cache=cache,
            lengths_B=running,
        )  # fmt: skip
        wanted = of_form.whole[np.array([0, 1]), at]
        np.testing.assert_allclose(scores[running > 0, 0], wanted[running > 0], atol=1e-5)
        at = at + running
    assert at.tolist() == [10, 8]


def test_the_past_and_other_rows_do_not_depend_on_the_future(of_form: Remembering) -> None:
    rng, before = np.random.default_rng(3), np.asarray(of_form.whole)
    ids = np.asarray(of_form.ids_BT)
    other = (ids + rng.integers(1, 64, ids.shape)) % 64
    for t in range(1, LENGTH):
        changed = ids.copy()
        changed[0, t:] = other[0, t:]
        after = np.asarray(of_form.read(of_form.params, changed)[0])
        np.testing.assert_array_equal(after[0, :t], before[0, :t])
        np.testing.assert_array_equal(after[1], before[1])
        assert not np.array_equal(after[0, t], before[0, t])


@pytest.mark.parametrize("form", FORMS)
def test_only_memory_reaches_beyond_a_segment(form: str) -> None:
    of_form = remembering(form)
    changed = of_form.ids_BT.at[0, 0].add(1)
    after = np.asarray(of_form.read(of_form.params, changed)[0])
    is_same = np.array_equal(after[0, 4:], of_form.whole[0, 4:])
    assert is_same == (form == "segments alone")


def test_convolutions_of_memory_reach_beyond_a_segment() -> None:
    """With all tiers emptied, what was read last still changes what comes next, unless reset."""
    of_form = remembering("all, rich")
    [[was]] = of_form.after.loops
    assert was is not None
    kept = jax.tree.map(jnp.zeros_like, was)._replace(recent=was.recent)
    empty, ids = of_form.model.empty_memory(2), of_form.ids_BT
    read = [
        np.asarray(of_form.read(of_form.params, ids, memory=memory)[0])
        for memory in (empty, MemoryState(((kept,),)))
    ]
    assert not np.array_equal(read[0][:, :3], read[1][:, :3])
    for tier in ("stm", "ltm"):
        assert_trees_equal(reset(MemoryState(((kept,),)), (tier,)), empty)


def test_documents_of_a_row_do_not_see_each_other(of_form: Remembering) -> None:
    """Two documents with a boundary at a segment's end equal the documents alone."""
    ids = of_form.ids_BT
    segments = jnp.array([[1] * 4 + [2] * 8, [1] * 8 + [2] * 4], jnp.int32)
    positions = jnp.array([[*range(4), *range(8)], [*range(8), *range(4)]], jnp.int32)
    packed, _ = of_form.read(of_form.params, ids, segment_ids_BT=segments, positions_BT=positions)
    for first, second in ((slice(0, 4), slice(8, 12)), (slice(4, 12), slice(0, 8))):
        # What follows them does not matter, and a row of this length is compiled already.
        rows, length = jnp.stack([ids[0, first], ids[1, second]]), first.stop - first.start
        alone, _ = of_form.read(of_form.params, jnp.pad(rows, ((0, 0), (0, LENGTH - length))))
        found = np.stack([packed[0, first], packed[1, second]])
        np.testing.assert_allclose(found, alone[:, :length], atol=1e-5)


def test_a_document_that_begins_within_a_segment_is_alone_too(of_form: Remembering) -> None:
    segments = jnp.array([[1] * 6 + [2] * 6] * 2, jnp.int32)
    positions = jnp.array([[*range(6), *range(6)]] * 2, jnp.int32)
    given = {"segment_ids_BT": segments, "positions_BT": positions}
    before = np.asarray(of_form.read(of_form.params, of_form.ids_BT, **given)[0])
    changed = of_form.ids_BT.at[:, :6].add(1) % 64
    after = np.asarray(of_form.read(of_form.params, changed, **given)[0])
    np.testing.assert_array_equal(after[:, 6:], before[:, 6:])
    assert not np.array_equal(after[:, :6], before[:, :6])


ALL_BUT_STM = {
    "recurrent": {"recurrent": "gated_delta"},
    "episodic": {"episodic_slots": 8, "episodic_top_k": 3},
    "summaries": {"summary_slots": 3, "summary_chunk": 2},
    "meta-task": {"task_tokens": 2},
    "meta-task, in attention": {"task_tokens": 2, "task_form": "attention"},
}


@pytest.mark.parametrize("tier", ALL_BUT_STM)
def test_a_stream_of_documents_shares_what_it_is_told_to(tier: str) -> None:
    """Short-term memory stays within the document; each other goes on where its scope is wider."""
    segments = jnp.array([[1] * 4 + [2] * 8] * 2, jnp.int32)

    def reaches(**scopes: str) -> bool:
        memory = {"segment": 4, "stm_window": 6, **ALL_BUT_STM[tier], **scopes}
        model = TMSModel(small_config(memory=memory, num_layers=1))
        params, read = random_params(model), jax.jit(model.read)
        ids = remembering("recurrent").ids_BT
        before, _ = read(params, ids, segment_ids_BT=segments)
        after, _ = read(params, ids.at[:, :4].add(1) % 64, segment_ids_BT=segments)
        return not np.array_equal(after[:, 4:], before[:, 4:])

    assert not reaches()
    assert reaches(**{"mtm_scope" if tier.startswith("meta-task") else "ltm_scope": "stream"})


@pytest.mark.parametrize("scope", ["document", "stream"])
def test_a_token_is_new_among_what_it_is_read_with(scope: str) -> None:
    """Two documents of the same four tokens, whose keys are the same."""
    memory = {
        "segment": 4, "episodic_slots": 8, "forget": "surprise", "ltm_scope": scope,
        "short_conv": 0,
    }  # fmt: skip
    model = TMSModel(small_config(memory=memory, num_layers=1))
    ids = jnp.asarray([[3, 14, 15, 9] * 2], jnp.int32)
    segments = jnp.asarray([[1] * 4 + [2] * 4], jnp.int32)
    _, after = jax.jit(model.read)(random_params(model), ids, segment_ids_BT=segments)
    [[layer]] = after.loops
    assert layer is not None and layer.episodic is not None
    store = layer.episodic
    second = np.asarray(store.surprise_BM)[np.asarray(store.label_BM) == 2]
    assert second.shape == (4,)
    np.testing.assert_allclose(second.max(), 0.0 if scope == "stream" else 1.0, atol=1e-5)


def test_what_is_consolidated_is_read_from_the_matrix() -> None:
    """In the third segment: what was read in the second is told to the matrix at its end."""
    form = {"segment": 4, "recurrent": "gated_delta", "episodic_slots": 8, "short_conv": 0}
    plain, told = Remembering(memory=form), Remembering(memory=form | {"consolidate": 2})
    assert_trees_equal(plain.params, told.params)
    np.testing.assert_array_equal(told.whole[:, :8], plain.whole[:, :8])
    assert not np.allclose(told.whole[:, 8:], plain.whole[:, 8:], atol=1e-4)


def test_a_stream_in_parts_is_the_whole_stream_and_passes_through_a_file(
    of_form: Remembering, tmp_path: Path
) -> None:
    """Same state and tokens, same result, bitwise; so is what a file gives back."""
    # As users compile: the emitters of the tests' other programs round two lengths 1.2e-6 apart.
    flag = "xla_cpu_use_fusion_emitters"
    own = {flag: True} if flag in os.environ["XLA_FLAGS"] else {}
    read = jax.jit(of_form.model.read, compiler_options=own)
    empty = of_form.model.empty_memory(2)
    whole, after_whole = read(of_form.params, of_form.ids_BT, memory=empty)

    def part(start: int, memory: MemoryState) -> tuple[jax.Array, MemoryState]:
        scores, after = read(of_form.params, of_form.ids_BT[:, start : start + 4], memory=memory)
        return scores, after

    _, before = part(0, empty)
    first, after = part(4, before)
    again, after_again = part(4, before)
    np.testing.assert_array_equal(first, again)
    assert_trees_equal(after, after_again)
    last, after = part(8, after)
    np.testing.assert_allclose(jnp.concatenate([first, last], 1), whole[:, 4:], atol=1e-6)
    assert_trees_close(after, after_whole)
    file = tmp_path / "memory.safetensors"
    save_memory(before, file)
    loaded = load_memory(empty, file)
    assert_trees_equal(loaded, before)
    np.testing.assert_array_equal(part(4, loaded)[0], first)


def test_tiers_are_emptied_and_kept_apart(tmp_path: Path) -> None:
    of_form = remembering("all, rich")
    empty, file = of_form.model.empty_memory(2), tmp_path / "memory.safetensors"
    only_mtm = reset(of_form.after, ("stm", "ltm"))
    [[layer]] = only_mtm.loops
    [[was]] = of_form.after.loops
    assert layer is not None and was is not None
    assert_trees_equal(layer.mtm, was.mtm)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves((layer.stm, layer.episodic)))
    save_memory(of_form.after, file, ["mtm"])
    assert_trees_equal(load_memory(empty, file, ["mtm"]), only_mtm)
    with pytest.raises(UserError, match="holds no loop0.layer0.stm"):
        load_memory(empty, file)
    with pytest.raises(UserError, match="use the model and the number of rows that wrote it"):
        load_memory(of_form.model.empty_memory(3), file, ["mtm"])
    with pytest.raises(UserError, match="there is no memory file .*missing; check the path"):
        load_memory(empty, tmp_path / "missing")
    with pytest.raises(UserError, match="memory has no tier 'all'; tiers are stm, ltm, mtm"):
        reset(of_form.after, ["all"])


@pytest.mark.parametrize("form", TOGETHER)
def test_every_parameter_is_trained(form: str) -> None:
    """After one step, since an output that starts at zero lets nothing through in the first."""
    model = TMSModel(small_config(**{"num_layers": 1} | FORMS[form]))
    rng = np.random.default_rng(0)
    ids, labels = jnp.asarray(rng.integers(64, size=(2, 2, 16), dtype=np.int32))
    terms = LossTerms(
        jnp.ones((2, 16), jnp.float32), jnp.float32(0.0), jnp.float32(0.0), jnp.float32(1.0)
    )

    @jax.jit
    def step(params: Params) -> tuple[Any, Params]:
        def loss(params: Params) -> jax.Array:
            objective = model.scores(params, ids, labels, terms=terms).objective
            assert objective is not None
            return objective

        slopes = jax.grad(loss)(params)
        return slopes, jax.tree.map(lambda x, g: x - 0.003 * jnp.sign(g), params, slopes)

    _, params = step(jax.jit(model.init)(jax.random.key(0)))
    slopes, _ = step(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(slopes):
        slope = np.asarray(leaf)
        assert np.isfinite(slope).all(), path_name(path)
        by_layer = slope.reshape(slope.shape[0], -1)
        if "/layers" not in path_name(path):
            by_layer = slope.reshape(1, -1)
        assert np.abs(by_layer).max(axis=1).min() > 0, path_name(path)


def test_gradients_are_cut_after_the_segments_that_are_asked_for() -> None:
    """Token 5 stands in the first segment alone, 6 in the second; the loss is of the third."""
    ids = jnp.array([[5, 1, 1, 1, 6, 1, 1, 1] + [1] * 4], jnp.int32)
    weights = jnp.array([[0.0] * 8 + [1.0] * 4])
    zero = jnp.float32(0.0)

    def slopes(cut: int | None) -> np.ndarray:
        memory = {"segment": 4, "recurrent": "gated_delta", "backprop_segments": cut}
        model = TMSModel(small_config(memory=memory, num_layers=1))
        params = random_params(model)

        def loss(embedding: jax.Array) -> jax.Array:
            terms = LossTerms(weights, zero, zero, jnp.float32(1.0))
            own = params["decoder"] | {"embedding": embedding}
            objective = model.scores(params | {"decoder": own}, ids, ids, terms=terms).objective
            assert objective is not None
            return objective

        found = jax.jit(jax.grad(loss))(params["decoder"]["embedding"])
        return np.asarray(found[5:7])

    whole = slopes(None)
    assert np.abs(whole).max(axis=1).min() > 0
    # Segments are counted from the row's start: the first two are cut off together.
    assert not slopes(2).any()
    np.testing.assert_allclose(slopes(3), whole, atol=1e-6)


@pytest.mark.parametrize("rows", [4, 1])
def test_eight_devices_equal_one(rows: int) -> None:
    """Four rows lie on four devices with their stores; of one row the slots do."""
    of_form = Remembering(**FORMS["all, weighed against each other"])
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))

    def place(path: Any, x: jax.Array) -> jax.Array:
        spec = partition_spec(path_name(path), x.shape, mesh)
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    params = jax.tree_util.tree_map_with_path(place, of_form.params)
    own = np.arange(rows) % 2
    with jax.set_mesh(mesh):
        along = jax.sharding.PartitionSpec(("data", "fsdp") if rows > 1 else None)
        ids = jax.device_put(of_form.ids_BT[own], along)
        found, after = jax.jit(of_form.model.read)(params, ids)
    np.testing.assert_allclose(found, of_form.whole[own], atol=1e-5)
    wanted = jax.tree.map(lambda x_LB: x_LB[:, own], of_form.after)
    assert_trees_close(after, wanted, atol=1e-5)
    [[layer]] = after.loops
    assert layer is not None and layer.episodic is not None
    key_LBMHE = layer.episodic.key_BMHE
    [shard, *_] = key_LBMHE.addressable_shards
    # Of two heads each device has one.
    assert shard.data.shape[1:4] == ((1, 8, 1) if rows > 1 else (1, 2, 1))


def test_statistics_say_what_was_let_through_and_found() -> None:
    of_form = remembering("all, weighed against each other")
    scores = jax.jit(of_form.model.scores)
    told = scores(of_form.params, of_form.ids_BT, of_form.ids_BT).remembered
    assert told is not None
    for value_L in told:
        assert value_L is not None and value_L.shape == (1,)
    shares = {name: float(x) for name, [x] in told._asdict().items() if name != "episodic_age"}
    assert all(0 < share < 1 for share in shares.values())
    gates = [share for name, share in shares.items() if name.startswith("gate_")]
    assert len(gates) == 5 and sum(gates) == pytest.approx(1.0, abs=1e-5), "cross: a softmax"
    # Before its three segments the store of eight holds 0, 4 and 8 tokens.
    np.testing.assert_allclose(told.episodic_fill, 0.5, atol=1e-6)
    # Of ages 0 to 3 in the second, 0 to 7 in the third; nothing in the first.
    np.testing.assert_allclose(told.episodic_age, (0 + 1.5 + 3.5) / 3, atol=1e-6)


def test_gates_begin_at_their_priors_and_are_opened_and_closed_by_what_they_learn() -> None:
    form = {**FORMS["all, rich"]["memory"], "stm_weight": 0.2, "ltm_weight": 0.6}
    of_form = Remembering(memory=form)
    priors = {"stm": 0.2, "episodic": 0.6, "recurrent": 0.6, "mtm": 0.5}
    [name] = (path for path in of_form.params if path.endswith("memory/gates"))
    scores = jax.jit(of_form.model.scores)

    def gates(shift: float) -> dict[str, float]:
        own = jax.tree.map(jnp.zeros_like, of_form.params[name])
        params = of_form.params | {name: own | {"b": own["b"] + shift}}
        told = scores(params, of_form.ids_BT, of_form.ids_BT).remembered
        assert told is not None
        return {tier: float(told._asdict()[f"gate_{tier}"][0]) for tier in priors}

    assert gates(0.0) == pytest.approx(priors, abs=1e-6)
    assert min(gates(5.0).values()) > 0.95 and max(gates(-5.0).values()) < 0.05


def test_without_a_segment_there_is_no_memory_and_nothing_changes() -> None:
    model = TMSModel(small_config())
    params = random_params(model)
    ids = jnp.zeros((1, 4), jnp.int32)
    scores, memory = jax.jit(model.read)(params, ids)
    assert jax.tree.leaves(memory) == [] and not any("memory" in path for path in params)
    np.testing.assert_array_equal(scores, jax.jit(model.logits)(params, ids))
    assert jax.eval_shape(model.scores, params, ids, ids).memory is None
    programs = [jax.jit(f).lower(params, ids).compile() for f in (model.read, model.logits)]
    counted = [program.cost_analysis() for program in programs]
    assert counted[0] == counted[1] and programs[0].memory_analysis() is not None
    allocated = [program.memory_analysis().temp_size_in_bytes for program in programs]
    assert allocated[0] == allocated[1]


def test_a_plan_tells_how_much_is_remembered() -> None:
    """Two layers of four heads of four features: a window of 100 and a matrix, in float32."""
    memory = {"segment": 4, "stm_window": 100, "recurrent": "gated_delta"}
    model = TMSModel(small_config(memory=memory))
    window, matrix = 2 * 100 * 16 * 4 + 4 * 100, 4 * 4 * 4 * 4 + 4
    recent = 3 * 3 * 16 * 4 + 4 * 3
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model.empty_memory(1)))
    assert held == 2 * (window + matrix + recent) and remembered(model) == (
        "28.1 kB a row, in segments of 4 tokens: stm, recurrent"
    )
    wide = TMSModel(small_config(memory=memory | {"stm_window": 100_000}))
    assert remembered(wide).startswith("26.4 MB a row")
