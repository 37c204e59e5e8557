"""A traced function as a flat list of operations on values, before any compiler has seen it.

Calls are inlined, loops that are unrolled whole are written out, and operations whose results
nobody needs are left out. Values are anonymous: what counts is their size and who makes and reads
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from jax.extend import core

_IDENTITIES = {
    "copy", "copy_p", "sharding_constraint", "name", "layout_constraint", "pvary", "stop_gradient",
}  # fmt: skip
_LOOPS = {"scan", "while", "cond"}


@dataclass(eq=False)
class Value:
    """An array."""

    bytes: float
    shape: tuple[int, ...] = ()
    parts: tuple["Value", ...] = ()
    """Of an array that a loop, unrolled whole, stacked: its rows."""
    rows: list["Value | None"] = field(default_factory=list)
    """Of an array that such a loop reads: the rows that were cut out."""


@dataclass(eq=False)
class Operation:
    """Something that makes arrays of arrays."""

    name: str
    """The primitive's; `row` and `stack` where an unrolled loop cuts an array up or makes one."""
    inputs: list[Value]
    outputs: list[Value]
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Flat:
    """A function, flattened."""

    inputs: list[Value]
    operations: list[Operation]
    outputs: list[Value]


def flatten(jaxpr: Any, *, as_needed: bool = False) -> Flat:
    """The operations of a jaxpr that its results depend on, in its order or as they are needed."""
    inputs = [_value(variable) for variable in jaxpr.invars]
    operations: list[Operation] = []
    outputs = [_whole(out, operations) for out in _run(jaxpr, inputs, operations)]
    ordered = (_as_needed if as_needed else _needed)(operations, outputs)
    return Flat(inputs, ordered, outputs)


def inner_jaxpr(closed: Any) -> Any:
    """The jaxpr within a closed one, or itself."""
    return getattr(closed, "jaxpr", closed)


def _run(jaxpr: Any, inputs: Sequence[Value], operations: list[Operation]) -> list[Value]:
    known: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {variable: _value(variable) for variable in jaxpr.constvars}
    scalar = Value(0)

    def read(variable: Any) -> Value:
        return scalar if isinstance(variable, core.Literal) else known[variable]

    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, [read(variable) for variable in equation.invars]
        inner = None if name in _LOOPS else _called(equation)
        if inner is not None:
            made = _run(inner, given, operations)
        elif name in _IDENTITIES:
            made = given
        elif name == "optimization_barrier":
            made = [_behind_barrier(_whole(value, operations), operations) for value in given]
        elif name == "scan" and _unrolled(equation.params):
            made = _unroll(equation, given, operations)
        else:
            made = [_value(variable) for variable in equation.outvars]
            whole = [_whole(value, operations) for value in given]
            counts = _counts(equation) if name == "scan" else {}
            operations.append(Operation(name, whole, made, {**equation.params, **counts}))
        known |= dict(zip(equation.outvars, made, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _called(equation: Any) -> Any:
    """What a call calls; None for any other operation."""
    for role in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = inner_jaxpr(equation.params.get(role))
        if inner is not None and len(inner.invars) == len(equation.invars):
            return inner if len(inner.outvars) == len(equation.outvars) else None
    return None


def _unrolled(params: dict[str, Any]) -> bool:
    return bool(params["unroll"] >= params["length"])


def _unroll(equation: Any, given: Sequence[Value], operations: list[Operation]) -> list[Value]:
    params, body = equation.params, inner_jaxpr(equation.params["jaxpr"])
    counts, length = _counts(equation), params["length"]
    num_consts, num_carry = counts["num_consts"], counts["num_carry"]
    consts, carry = list(given[:num_consts]), list(given[num_consts : num_consts + num_carry])
    stacked = given[num_consts + num_carry :]
    rows: list[list[Value]] = [[] for _ in equation.outvars[num_carry:]]
    turns = reversed(range(length)) if params["reverse"] else range(length)
    for turn in turns:
        slices = [_row(value, turn, length, operations) for value in stacked]
        made = _run(body, [*consts, *carry, *slices], operations)
        carry = made[:num_carry]
        for row, value in zip(rows, made[num_carry:], strict=True):
            row.append(value)
    stacks = []
    for variable, row in zip(equation.outvars[num_carry:], rows, strict=True):
        parts = tuple(reversed(row)) if params["reverse"] else tuple(row)
        whole = _value(variable)
        stacks.append(Value(whole.bytes, whole.shape, parts))
    return [*carry, *stacks]


def _counts(loop: Any) -> dict[str, int]:
    """How many values a loop is handed whole, and how many it carries.

    By shapes: only some versions of JAX name the two, as is done here.
    """
    body = inner_jaxpr(loop.params["jaxpr"])
    carried = sum(map(_same_axes, loop.outvars, body.outvars))
    whole = sum(map(_same_axes, loop.invars, body.invars))
    return {"num_consts": whole - carried, "num_carry": carried}


def _same_axes(outer: Any, inner: Any) -> bool:
    """Whether a loop hands it over whole, not row by row."""
    return bool(outer.aval.ndim == inner.aval.ndim)


def _behind_barrier(value: Value, operations: list[Operation]) -> Value:
    behind = Value(value.bytes, value.shape)
    operations.append(Operation("optimization_barrier", [value], [behind]))
    return behind


def _row(value: Value, turn: int, length: int, operations: list[Operation]) -> Value:
    if value.parts:
        return value.parts[turn]
    if not value.rows:
        value.rows = [None] * length
    row = value.rows[turn]
    if row is None:  # the gradient reads the rows that the loss read
        row = value.rows[turn] = Value(value.bytes / length, value.shape[1:])
        operations.append(Operation("row", [value], [row]))
    return row


def _whole(value: Value, operations: list[Operation]) -> Value:
    """`value`, in one piece: rows that anything but another unrolled loop reads are stacked."""
    if not value.parts:
        return value
    parts = list(value.parts)
    value.parts = ()
    operations.append(Operation("stack", parts, [value]))
    return value


def _needed(operations: list[Operation], outputs: Sequence[Value]) -> list[Operation]:
    wanted = {id(value) for value in outputs}
    kept = []
    for operation in reversed(operations):
        if any(id(value) in wanted for value in operation.outputs):
            kept.append(operation)
            wanted |= {id(value) for value in operation.inputs}
    return kept[::-1]


def _as_needed(operations: Sequence[Operation], outputs: Sequence[Value]) -> list[Operation]:
    """What the results depend on, each operation where the first that reads it asks for it.

    So XLA's memory-ordered schedule goes through a program, depth first from its results. What
    needs nothing, such as a filled array, is made last of what an operation reads.
    """
    maker = {id(value): operation for operation in operations for value in operation.outputs}
    order: dict[int, Operation] = {}
    asked = [maker[id(value)] for value in reversed(outputs) if id(value) in maker]
    waiting: set[int] = set()
    while asked:
        operation = asked[-1]
        if id(operation) in order or id(operation) in waiting:
            asked.pop()
            order.setdefault(id(operation), operation)
            continue
        waiting.add(id(operation))
        makers = [maker[id(value)] for value in operation.inputs if id(value) in maker]
        makers.sort(key=lambda made_by: not any(value.bytes for value in made_by.inputs))
        asked += [made_by for made_by in reversed(makers) if id(made_by) not in order]
    return list(order.values())


def _value(variable: Any) -> Value:
    shape = tuple(getattr(variable.aval, "shape", ()))
    # Random keys are small and have no itemsize of their own.
    width = getattr(getattr(variable.aval, "dtype", None), "itemsize", 0)
    return Value(prod(shape) * width, shape)
