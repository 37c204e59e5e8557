"""Every strategy on eight devices: the same step as one device's, in the memory that it promises.

Bytes and exchanges are those of the compiled program.
"""

import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtdlm.parallel import fsdp
from rtdlm.parallel.collectives import read_collectives
from rtdlm.parallel.hlo import parse_program
from rtdlm.training.planning.communication import expected_collectives
from tests.models.small import TIGHT, assert_trees_close, small_config
from tests.training.runs import ONE, PLAIN, Run, Shape, flat

STRATEGIES = ("pmap", "data", "zero1", "zero2", "fsdp", "tensor", "combined")
FORMS: dict[str, dict[str, Any]] = {
    "gradient": {"optimizer": PLAIN},
    # With an epsilon that a gradient's last bit does not pass: Adam divides by its size.
    "adamw": {
        "optimizer": {
            "name": "adamw",
            "warmup_steps": 0,
            "learning_rate": 0.003,
            "epsilon": 1e-4,
        },
    },
    # The loss in three chunks, the last of them not full.
    "micro-batches": {
        "optimizer": PLAIN, "accumulate_steps": 2, "batch_size": 16, "loss": {"chunk_size": 5},
    },
    "experts": {"optimizer": PLAIN, "experts": TIGHT},
}  # fmt: skip
# Every dimension that is split is divided by eight, and vectors are few.
WIDE: dict[str, Any] = {
    "d_model": 64, "num_heads": 8, "num_kv_heads": 8, "d_ff": 256, "vocab_size": 512,
    "optimizer": {"name": "adamw", "warmup_steps": 0},
}  # fmt: skip
# A layer is split over as many devices as divide the key-value heads: two, so that four have rows.
FEW_HEADS = {"num_kv_heads": 2}
# Every strategy, with what it needs to be more than another one.
OPTIONS: dict[Shape, dict[str, Any]] = {"combined": FEW_HEADS}


def after_two_steps(form: str, shape: Shape) -> tuple[dict[str, np.ndarray], Any, Run]:
    run = Run(small_config(**FORMS[form]), shape)
    state = run.start()
    for seed in range(2):
        state, metrics = run.go(state, batch=run.batch(seed), fraction=seed / 2)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == run.shardings
    return flat(state.params), jax.device_get(metrics), run


@cache
def alone(form: str) -> tuple[dict[str, np.ndarray], Any]:
    return after_two_steps(form, ONE)[:2]


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        *(("gradient", strategy) for strategy in STRATEGIES),
        *(("micro-batches", strategy) for strategy in ("pmap", "zero2", "fsdp")),
        *(("adamw", strategy) for strategy in ("pmap", "zero1", "zero2")),
        # Devices along data, fsdp, tensor, context and expert.
        ("experts", (1, 1, 1, 1, 4)),
        ("experts", (1, 4, 1, 1, 2)),
        ("experts", (2, 1, 2, 1, 2)),
        ("experts", (1, 2, 2, 1, 2)),
    ],
    ids=str,
)
def test_every_strategy_equals_one_device(form: str, shape: Shape) -> None:
    params, told, run = after_two_steps(form, shape)
    expected, heard = alone(form)
    assert run.step.__wrapped__._cache_size() == 1, "compiled once"
    assert float(told.grad_norm) > 0.01 and not told.skipped
    assert_trees_close(told, heard, rtol=1e-5)
    for path, value in expected.items():
        np.testing.assert_allclose(params[path], value, atol=1e-5, rtol=1e-5, err_msg=path)


class Program:
    """A step's compiled program."""

    def __init__(self, shape: Shape, **options: Any) -> None:
        run = Run(small_config(**{**WIDE, **options}), shape)
        example = (run.shapes, run.batch(), run.knobs, jnp.float32(0))
        with jax.set_mesh(run.mesh):
            compiled = run.step.__wrapped__.lower(*example).compile()
        self.argument_bytes = compiled.memory_analysis().argument_size_in_bytes
        self.text, self.mesh = compiled.as_text(), run.mesh
        self.read = parse_program(self.text)
        self.params = sum(leaf.nbytes for leaf in jax.tree.leaves(sized(run.shapes.params)))
        self.batch = sum(leaf.nbytes for leaf in run.batch())

    def exchanged(self, kind: str) -> list[tuple[int, ...]]:
        """Shapes that exchanges of this kind give."""
        results = re.findall(rf"= (.*?) {kind}(?:-start)?\(", self.text)
        shapes = (shape for result in results for shape in re.findall(r"\w+\[([\d,]*)\]", result))
        return [tuple(int(size) for size in shape.split(",") if size) for shape in shapes]


def sized(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)


@cache
def program(shape: Shape) -> Program:
    return Program(shape, **OPTIONS.get(shape, {}))


@pytest.mark.parametrize(
    ("strategy", "params", "moments", "rows"),
    [
        ("pmap", 1, 2, 1 / 8),
        ("data", 1, 2, 1 / 8),
        ("zero1", 1, 2 / 8, 1 / 8),
        ("zero2", 1, 2 / 8, 1 / 8),
        ("fsdp", 1 / 8, 2 / 8, 1 / 8),
        ("tensor", 1 / 8, 2 / 8, 1),
        ("combined", 1 / 2, 2 / 2, 1 / 4),
    ],
)
def test_a_device_holds_what_the_strategy_promises(
    strategy: str, params: float, moments: float, rows: float
) -> None:
    found = program(strategy)
    promised = found.params * (params + moments) + found.batch * rows
    # Scales of single heads are repeated, over tensor all scales; and there are a few scalars.
    assert found.argument_bytes == pytest.approx(promised, rel=0.02 if rows == 1 else 0.005)


def weights(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Those as large as a layer's smallest matrix, less the layers' own axis."""
    return [shape for shape in shapes if np.prod(shape, dtype=int) >= 64 * 64]


@pytest.mark.parametrize("strategy", ["pmap", "data", "tensor", "combined"])
def test_whole_parameters_are_never_gathered(strategy: str) -> None:
    assert weights(program(strategy).exchanged("all-gather")) == []


@pytest.mark.parametrize(
    ("strategy", "params", "gradients", "embedding"),
    [
        ("data", 1, 1, 0),
        ("zero1", 1, 1, 0),
        # Of the embedding a device reads its own features alone.
        ("zero2", 1, 1 / 8, -7 / 8),
        # XLA gathers the other parts of the embedding once for all micro-batches.
        ("fsdp", 1 / 8, 1 / 8, 7 / 8),
    ],
)
def test_gradients_add_up_in_the_parts_that_the_strategy_promises(
    strategy: str, params: float, gradients: float, embedding: float
) -> None:
    """The loop over micro-batches carries parameters, the gradients so far, and rows."""
    # Layers in a loop of their own: of layers in a row XLA gathers all before the micro-batches.
    deep = {"num_layers": 8, "layer_unroll": 1}
    found = Program(strategy, accumulate_steps=2, batch_size=16, **deep)
    # The other loops, over layers, turn once a micro-batch.
    [carried] = [
        step.size
        for step, runs in found.read.instructions()
        if step.opcode == "while" and runs == 1 and step.size > found.params / 8
    ]
    promised = found.params * (params + gradients) + 512 * 64 * 4 * embedding
    assert carried == pytest.approx(promised, rel=0.01)


def test_combined_sums_gradients_over_rows_and_activations_over_a_layers_parts() -> None:
    found = program("combined")
    assert (found.mesh.shape["data"], found.mesh.shape["tensor"]) == (4, 2)
    exchanges = read_collectives(found.read, found.mesh)
    assert {each.kind for each in exchanges} == {"all-reduce"}
    sent = {each.axes: each.sent for each in exchanges}
    # Each device has a half of the gradients, of which a ring of four sends 2 x 3/4.
    assert sent[("data",)] == pytest.approx(2 * 3 / 4 * found.params / 2, rel=0.01)
    # Twice a layer and pass, two of the eight rows of twelve tokens; and up to ten times more at
    # both ends, of which compilers differ in what goes over all devices at once.
    activations = 2 * 12 * 64 * 4
    across = sum(amount for axes, amount in sent.items() if "tensor" in axes)
    assert 2 * 2 * 2 * activations <= sent[("tensor",)]
    assert across < (2 * 2 * 2 + 10) * activations


def test_split_moments_gather_each_updated_parameter_once() -> None:
    gathered = weights(program("zero1").exchanged("all-gather"))
    # Embedding and output, and seven matrices of all layers.
    assert len(gathered) == 9
    assert sum(np.prod(shape, dtype=int) for shape in gathered) * 4 == pytest.approx(
        program("zero1").params, rel=0.02
    )


@pytest.mark.parametrize(
    ("strategy", "options", "sides"),
    [
        ("zero1", {}, (2, 2, 2)),
        ("zero2", {}, (8,)),
        ("zero2", {"tie_embeddings": True}, (2, 2, 2)),
        ("fsdp", {}, (8,)),
        ("fsdp", {}, (2, 2, 2)),
        ("fsdp", {"tie_embeddings": True}, (4, 2)),
        ("fsdp", {"remat": "full"}, (8,)),
        # In a row, where XLA would else keep what it has gathered for the backward pass.
        ("fsdp", {"layer_unroll": 4}, (8,)),
        ("fsdp", {"remat": "named"}, (8,)),
        ("fsdp", {"remat": "dots"}, (8,)),
    ],
    ids=str,
)
def test_a_step_sends_what_the_formula_says(
    strategy: str,
    options: dict[str, Any],
    sides: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fsdp, "sides_of", lambda mesh, axis: sides)
    layers = {"num_layers": 4, "layer_unroll": 1, "precision": {"compute": "float32"}}
    options = {**layers, **options}
    config = small_config(**{**WIDE, **options}, mesh={"strategy": strategy})
    found = Program(strategy, **options)
    sent: dict[str, float] = {}
    for row in read_collectives(found.read, found.mesh):
        assert row.axes == ("fsdp",)
        sent[row.kind] = sent.get(row.kind, 0.0) + row.sent
    for row in expected_collectives(config, dict(found.mesh.shape)):
        assert sent.pop(row.kind) == pytest.approx(row.sent, rel=0.02), row.kind
    # Numbers, and gradients of vectors that no dimension splits.
    assert sum(sent.values()) < 0.01 * found.params


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "fsdp"])
def test_a_step_along_the_sides_of_a_cube_equals_one_device(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsdp, "sides_of", lambda mesh, axis: (2, 2, 2))
    params, told, _ = after_two_steps("gradient", strategy)
    expected, heard = alone("gradient")
    assert float(told.means.objective) == pytest.approx(float(heard.means.objective), abs=1e-6)
    assert_trees_close(params, expected, atol=1e-5)


def test_muon_gathers_and_sums_what_adamw_does() -> None:
    muon = Program("fsdp", optimizer={"name": "muon", "warmup_steps": 0})
    for kind in ("all-gather", "all-reduce", "reduce-scatter"):
        found, expected = (sorted(weights(of.exchanged(kind))) for of in (muon, program("fsdp")))
        assert found == expected, kind
    # Queries with outputs, keys and values, and the three of feed-forward: a stack each, both ways.
    assert len(muon.exchanged("all-to-all")) >= 2 * 2


def test_tokens_travel_to_their_experts_all_to_all() -> None:
    found = Program((1, 1, 1, 1, 4), experts=TIGHT)
    travels = found.exchanged("all-to-all")
    assert travels, "no exchange of all with all"
    assert weights(found.exchanged("all-gather")) == [], "rows stay, and so do experts"
