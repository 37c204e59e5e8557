"""Compiled programs, read: against programs whose answer is a closed form."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, PartitionSpec

from rtdlm.config import MeshConfig
from rtdlm.parallel import make_mesh
from rtdlm.parallel.buffers import largest_arrays
from rtdlm.parallel.collectives import Collective, read_collectives, ring_bytes
from rtdlm.parallel.flops import product_flops
from rtdlm.parallel.hlo import Program, parse_program

TURNS, SIZE = 7, 64
LITERAL = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (arg: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %arg = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%arg), index=1
  %i = s32[] get-tuple-element(%arg), index=0
  %r = f32[8,4]{1,0} all-reduce(%x), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %r)
}

%cond (arg: (s32[], f32[8,4])) -> pred[] {
  %arg = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %p = pred[] constant(false)
}

ENTRY %main (x: f32[8,4]) -> f32[16,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %t = (s32[], f32[8,4]{1,0}) tuple(%zero, %x)
  %w = (s32[], f32[8,4]{1,0}) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %y = f32[8,4]{1,0} get-tuple-element(%w), index=1
  %s = (f32[8,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%y), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
  ROOT %d = f32[16,4]{1,0} all-gather-done(%s)
}
"""  # noqa: E501


KERNEL = (
    '  %k = (f32[8,4]{1,0}) custom-call(%x), custom_call_target="tpu_custom_call", '
    "frontend_attributes={kernel_metadata={\n"
    '"xprof_metadata":"{\\"block_q\\": 512}"\n'
    '}}, metadata={op_name="attention/pallas_call"}\n'
)


def compiled(function: Callable[..., Any], mesh: Mesh, *, out: Any) -> Program:
    x = jax.ShapeDtypeStruct((8 * SIZE, SIZE), jnp.float32)
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=PartitionSpec(("data", "tensor")), out_specs=out,
        check_vma=False,
    )  # fmt: skip
    return parse_program(jax.jit(mapped).lower(x).compile().as_text())


@pytest.fixture
def mesh() -> Mesh:
    return make_mesh(MeshConfig(data=4, tensor=2))


def test_a_program_written_by_hand(mesh: Mesh) -> None:
    program = parse_program(LITERAL)
    assert program.unknown_trips == 0
    assert {name: found.runs for name, found in program.computations.items()} == {
        "main": 1, "body": 5, "cond": 5, "add": 5,
    }  # fmt: skip
    # [4, 2] <= [2, 4]T(1, 0): {0, 4}, {1, 5} ..., each of them a half of the four along data.
    assert read_collectives(program, mesh) == [
        Collective("all-reduce", ("data",), 2, 5, 5 * 128.0),
        Collective("all-gather", ("tensor",), 2, 1, 128.0),
    ]


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,2,4,6},{1,3,5,7}}", ("data",)),
        ("{{0,2},{1,3},{4,6},{5,7}}", ("data",)),
        ("{{0,1},{2,3},{4,5},{6,7}}", ("tensor",)),
        ("{{0,3},{1,2},{4,7},{5,6}}", ("data", "tensor")),
        ("{{0,1,2,3},{4,5,6,7}}", ("data", "tensor")),
    ],
)
def test_a_collective_along_part_of_an_axis_is_that_axis_s(
    groups: str, axes: tuple[str, ...], mesh: Mesh
) -> None:
    literal = LITERAL.replace("replica_groups=[4,2]<=[2,4]T(1,0)", f"replica_groups={groups}")
    assert literal != LITERAL
    [found, _] = read_collectives(parse_program(literal), mesh)
    assert (found.kind, found.axes) == ("all-reduce", axes)


@pytest.mark.parametrize(
    ("kind", "function", "out", "result"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "data"), PartitionSpec("tensor"), 1.0),
        (
            "all-gather",
            lambda x: jax.lax.all_gather(x, "data", tiled=True),
            PartitionSpec("tensor"),
            4.0,
        ),
        (
            "reduce-scatter",
            lambda x: jax.lax.psum_scatter(x, "data", tiled=True),
            PartitionSpec(("data", "tensor")),
            0.25,
        ),
    ],
)
def test_a_collectives_bytes_and_axis(
    mesh: Mesh, kind: str, function: Callable[..., Any], out: Any, result: float
) -> None:
    found = read_collectives(compiled(function, mesh, out=out), mesh)
    sent = ring_bytes(kind, result * SIZE * SIZE * 4, 4)
    assert found == [Collective(kind, ("data",), 4, 1, sent)]


def test_what_a_loop_does_counts_as_often_as_it_turns(mesh: Mesh) -> None:
    def function(x: jax.Array) -> jax.Array:
        turn = lambda x, _: (jax.lax.psum(x @ x, "tensor"), None)  # noqa: E731
        return jax.lax.scan(turn, x, None, length=TURNS)[0]

    program = compiled(function, mesh, out=PartitionSpec(("data", "tensor")))
    (found,) = read_collectives(program, mesh)
    assert (found.axes, found.count) == (("tensor",), TURNS)
    assert found.sent == TURNS * ring_bytes("all-reduce", SIZE * SIZE * 4, 2)
    assert product_flops(program) == TURNS * 2 * SIZE**3


def test_the_largest_array_is_named_by_what_made_it() -> None:
    # A result: what lies between products newer versions of XLA may never write.
    function = jax.jit(lambda x: (x @ x.T, jnp.sum(x)))
    text = function.lower(jax.ShapeDtypeStruct((512, 8), jnp.float32)).compile().as_text()
    largest = largest_arrays(parse_program(text), count=2)
    assert largest[0].bytes == 512 * 512 * 4
    assert largest[0].shape == "f32[512,512]"
    assert "dot_general" in largest[0].made_by


def test_a_tpus_program_names_axes_and_hides_its_turns_in_the_condition(mesh: Mesh) -> None:
    text = LITERAL.replace(', backend_config={"known_trip_count":{"n":"5"}}', "")
    assert parse_program(text).unknown_trips == 1
    text = text.replace(
        "ROOT %p = pred[] constant(false)",
        "%n = s32[]{:T(128)} constant(24)\n  ROOT %p = pred[] compare(%i, %n), direction=LT",
    ).replace("[4,2]<=[2,4]T(1,0)", "mesh['axis_0'=4,'axis_1'=2] {'axis_0'}")
    program = parse_program(text)
    assert program.unknown_trips == 0
    found = read_collectives(program, mesh)
    assert found[0] == Collective("all-reduce", ("data",), 4, 24, 24 * 2 * 3 / 4 * 128.0)


def test_an_all_reduce_fused_with_a_slice_is_a_reduce_scatter(mesh: Mesh) -> None:
    text = LITERAL.split("%body")[0] + (
        "%all-reduce-scatter (x: f32[16,4]) -> f32[2,4] {\n"
        "  %x = f32[16,4]{1,0} parameter(0)\n"
        "  %i = s32[] constant(0)\n"
        "  %r = f32[16,4]{1,0} all-reduce(%x), channel_id=2, "
        "replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add\n"
        "  ROOT %s = f32[2,4]{1,0} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={2,4}\n}\n\n"
        "ENTRY %main (y: f32[16,4]) -> f32[2,4] {\n"
        "  %y = f32[16,4]{1,0} parameter(0)\n"
        "  ROOT %f = f32[2,4]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter\n}\n"
    )
    (found,) = read_collectives(parse_program(text), mesh)
    assert (found.kind, found.count, found.sent) == ("reduce-scatter", 1, 7 * 2 * 4 * 4)


def test_a_collective_in_pieces_amid_products_counts_once(mesh: Mesh) -> None:
    def piece(number: int, channel: int, chain: int) -> str:
        return (
            f"%piece.{number} (x: bf16[8,4]) -> bf16[16,4] {{\n"
            "  %x = bf16[8,4]{1,0} parameter(0)\n"
            f"  ROOT %g.{number} = bf16[16,4]{{1,0}} all-gather(%x), channel_id={channel}, "
            "replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}, "
            f'frontend_attributes={{chain_id="{chain}"}}\n}}\n\n'
        )

    def of(name: str, pieces: range) -> str:
        return "".join(
            f"  %f.{name}.{number} = bf16[16,4]{{1,0}} fusion(%x), calls=%piece.{number}\n"
            for number in pieces
        )

    first = [(4, 0), (4, 0), (4, 0), (5, 1), (4, 2)]
    again = [(4, 0), (4, 0)]  # cloned into a loop of five turns
    text = "".join(piece(number, *call) for number, call in enumerate([*first, *again]))
    head = "(x: bf16[8,4]) -> bf16[8,4] {\n  %x = bf16[8,4]{1,0} parameter(0)\n"
    text += f"%body {head}{of('body', range(5, 7))}}}\n\n"
    text += f"ENTRY %main {head}{of('main', range(5))}"
    turns = 'backend_config={"known_trip_count":{"n":"5"}}'
    text += f"  %w = bf16[8,4]{{1,0}} while(%x), body=%body, {turns}\n}}\n"
    (found,) = read_collectives(parse_program(text), mesh)
    assert (found.count, found.sent) == (3 + 5, 8 * 16 * 4 * 2 / 2)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 150.0), ("all-gather", 75.0), ("reduce-scatter", 300.0),
        ("all-to-all", 75.0), ("collective-permute", 100.0),
    ],
)  # fmt: skip
def test_bytes_around_a_ring_of_four(kind: str, sent: float) -> None:
    assert ring_bytes(kind, 100.0, 4) == sent


def test_what_a_kernel_says_of_itself_does_not_end_a_computation() -> None:
    at = LITERAL.index("  %r = ")
    program = parse_program(LITERAL[:at] + KERNEL + LITERAL[at:])
    body = program.computations["body"].instructions
    assert [instruction.name for instruction in body] == ["arg", "x", "i", "k", "r", "t"]
    assert body[3].op_name == "attention/pallas_call"
