"""How much memory a traced function needs at one time, without compiling it.

Operations run as they are needed, depth first from the results: with layers compiled in a row the
gradients of all layers' weights come last, and what they are made of waits for them. Inside of a
loop or a branch they run in the order in which they were traced. What a compiler's fusion never
writes to memory is left out: an elementwise result, a reshape or a broadcast is made inside of
whoever reads it, unless that is a product, a loop, a sort or the like, which read from memory, or
a barrier stands between. Whatever such a chain starts from then has to stay until it is read.

    peak = max over operations of (what is in memory and still needed + what the operation makes)

Loops count their body's own peak once and their stacked results whole. This is XLA's policy in
outline; docs/scaling.md shows how far it is from XLA's own count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from rtdlm.training.planning.packing import Span, packed_size
from rtdlm.training.planning.trace import Flat, Operation, Value, flatten, inner_jaxpr

READ_FROM_MEMORY = {
    "dot_general", "scan", "while", "cond", "sort", "top_k", "scatter", "scatter-add",
    "scatter_add", "gather", "dynamic_update_slice", "conv_general_dilated", "cumsum", "cummax",
    "cumlogsumexp", "reduce_window_sum", "argmax", "argmin", "custom_call", "fft",
    "pallas_call",
}  # fmt: skip
WRITTEN = {
    "reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod", "pad",
    "concatenate",
}  # fmt: skip
IN_PLACE = {"while", "dynamic_update_slice", "scatter-add", "scatter"}
VIEWS = {"reshape", "squeeze", "expand_dims", "bitcast_convert_type", "optimization_barrier"}
SHOWN = 8
NEGLIGIBLE = 1e-4


class Buffer(NamedTuple):
    """Something in memory at the peak."""

    bytes: float
    shape: tuple[int, ...]
    made_by: str


@dataclass(frozen=True)
class Peak:
    """The most memory that is needed at one time."""

    bytes: float
    buffers: tuple[Buffer, ...] = ()
    """The largest of what it is made of."""


def peak_memory(
    jaxpr: Any, *, lazy: Sequence[float] | None = None, shares: Sequence[float] | None = None
) -> Peak:
    """The most that a function has in memory beside its arguments [bytes].

    Args:
        jaxpr: the traced function.
        lazy: of every argument, bytes that appear where it is first read from memory and go after
            its last use, such as those of gathered shards; None: none have any.
        shares: of every result, the share that is kept, as of a gradient that is scattered; None:
            all of all.
    """
    flat = flatten(jaxpr, as_needed=True)
    if shares is not None:
        _keep_shares(flat, shares)
    arrivals = {} if lazy is None else dict(zip(map(id, flat.inputs), lazy, strict=True))
    return _peak(flat, arrivals=arrivals, held=flat.outputs)


def _keep_shares(flat: Flat, shares: Sequence[float]) -> None:
    stacks = {id(op.outputs[0]): op for op in flat.operations if op.name == "stack"}
    given = {id(value) for value in flat.inputs}
    for value, share in zip(flat.outputs, shares, strict=True):
        rows = stacks[id(value)].inputs if id(value) in stacks else []
        for part in {id(part): part for part in (value, *rows) if id(part) not in given}.values():
            part.bytes *= share


def _peak(
    flat: Flat,
    *,
    arrivals: dict[int, float],
    held: Sequence[Value],
    owned: Sequence[Value] = (),
) -> Peak:
    """`arrivals` are as `lazy`; `held` stay to the end; `owned` are there from the beginning."""
    passing = _passing(flat.operations, arrivals)
    in_memory = _in_memory(flat, held) - passing.keys()
    last = _last_uses(flat.operations, in_memory, held)
    heap = _Heap(last)
    for value in owned:
        heap.add(value, "carry", time=0)
    for time, operation in enumerate(flat.operations):
        reads = operation.name in READ_FROM_MEMORY
        if reads:
            for value in _read_whole(operation):
                heap.arrive(value, arrivals.get(id(value), 0.0), time=time)
        made = [value for value in operation.outputs if id(value) in in_memory]
        for value in made:
            heap.add(value, operation.name, time=time, in_place=_in_place(operation, value))
        gathered = {id(value): passing.get(id(value)) for value in operation.inputs if reads}
        heap.pause(time, _inner(operation), beside=[row for row in gathered.values() if row])
    return heap.peak()


def _read_whole(operation: Operation) -> list[Value]:
    """What it reads, less the stacks of which a loop reads one row a turn."""
    if operation.name != "scan":
        return operation.inputs
    return operation.inputs[: operation.params["num_consts"] + operation.params["num_carry"]]


class _Heap:
    """What is in memory as time goes on."""

    def __init__(self, last: dict[int, float]) -> None:
        self._last = last
        self._live: dict[int, Buffer] = {}
        self._born: dict[int, float] = {}
        self._ends: dict[float, list[int]] = {}
        self._spans: list[Span] = []
        self._current = 0.0
        self._best, self._at = 0.0, tuple[Buffer, ...]()

    def add(self, value: Value, made_by: str, *, time: int, in_place: bool = False) -> None:
        """`value` is written, if it may be to memory that an operand of its size leaves."""
        born: float = time
        if in_place:
            for end in self._ends.get(time, ()):
                if end in self._live and self._live[end].bytes == value.bytes > 0:
                    born = self._born[end]
                    self._current -= self._live.pop(end).bytes
                    break
        self._put(value, Buffer(value.bytes, value.shape, made_by), born=born, time=time)

    def arrive(self, value: Value, size: float, *, time: int) -> None:
        """An argument that is first read now takes `size` bytes until it is last read."""
        if size and id(value) not in self._live:
            self._put(value, Buffer(size, value.shape, "gathered"), born=time, time=time)

    def pause(self, time: int, inner: Peak, *, beside: Sequence[Buffer]) -> None:
        """The operation at `time` runs, needs `inner` and what is there for it alone; then what it
        read last goes.
        """
        needed = inner.bytes + sum(buffer.bytes for buffer in beside)
        if self._current + needed > self._best:
            self._best = self._current + needed
            self._at = (*self._live.values(), *beside, *inner.buffers)
        if needed:
            self._spans.append(Span(time, time, needed))
        for end in self._ends.pop(time, ()):
            if end in self._live:
                buffer = self._live.pop(end)
                self._current -= buffer.bytes
                self._spans.append(Span(self._born[end], time, buffer.bytes))

    def peak(self) -> Peak:
        """What it came to."""
        rest = [Span(self._born[key], inf, buffer.bytes) for key, buffer in self._live.items()]
        largest = tuple(sorted(self._at, reverse=True)[:SHOWN])
        return Peak(max(self._best, _packed([*self._spans, *rest])), largest)

    def _put(self, value: Value, buffer: Buffer, *, born: float, time: int) -> None:
        key = id(value)
        self._live[key], self._born[key] = buffer, born
        self._current += buffer.bytes
        self._ends.setdefault(max(time, self._last.get(key, -1)), []).append(key)


def _in_place(operation: Operation, value: Value) -> bool:
    """Whether a result may lie where an operand of its size lay that nobody needs again."""
    if operation.name == "scan":  # what it carries; what it stacks is made while it reads
        return any(value is carry for carry in operation.outputs[: operation.params["num_carry"]])
    return operation.name not in READ_FROM_MEMORY or operation.name in IN_PLACE


def _packed(spans: Sequence[Span]) -> float:
    """As `packed_size`; buffers that together are next to nothing are only added up."""
    total = sum(span.bytes for span in spans)
    large = [span for span in spans if span.bytes > NEGLIGIBLE * total]
    # Small ones fill gaps: only their own peak counts, of which the large ones' gaps hold most.
    return packed_size(large)


def _passing(operations: Sequence[Operation], arrivals: dict[int, float]) -> dict[int, Buffer]:
    """By id: rows of gathered arguments, which are gathered anew for each operation."""
    found: dict[int, Buffer] = {}
    for operation in operations:
        source, made = operation.inputs[:1], operation.outputs[0]
        if operation.name == "row" and any(arrivals.get(id(value)) for value in source):
            found[id(made)] = Buffer(made.bytes, made.shape, "gathered")
        elif operation.name in VIEWS and id(source[0]) in found:
            found[id(made)] = found[id(source[0])]
    return found


def _in_memory(flat: Flat, held: Sequence[Value]) -> set[int]:
    """Ids of the values that are written to memory."""
    readers: dict[int, list[Operation]] = {}
    for operation in flat.operations:
        for value in operation.inputs:
            readers.setdefault(id(value), []).append(operation)
    kept = {id(value) for value in held}
    found: set[int] = set()
    for operation in reversed(flat.operations):
        for value in operation.outputs:
            needed = id(value) in found or id(value) in kept
            # What stands at a barrier is not made inside of what comes after it.
            needed |= operation.name == "optimization_barrier"
            needed |= any(r.name in READ_FROM_MEMORY for r in readers.get(id(value), ()))
            if operation.name in VIEWS:
                # A view is where its source is; what needs it in memory needs the source there.
                if needed:
                    found |= {id(source) for source in operation.inputs}
                found.discard(id(value))
            elif needed or operation.name in READ_FROM_MEMORY | WRITTEN:
                found.add(id(value))
    return found


def _last_uses(
    operations: Sequence[Operation], in_memory: set[int], held: Sequence[Value]
) -> dict[int, float]:
    """When each value is last read, also through others that are never written."""
    last: dict[int, float] = {id(value): inf for value in held}
    for time in reversed(range(len(operations))):
        operation = operations[time]
        made = [last.get(id(v), -1) for v in operation.outputs if id(v) not in in_memory]
        if any(id(value) in in_memory for value in operation.outputs):
            made.append(time)
        for value in operation.inputs:
            last[id(value)] = max(last.get(id(value), -1), *made)
    return last


def _inner(operation: Operation) -> Peak:
    """What an operation needs while it runs, beside what it reads and makes."""
    params = operation.params
    if operation.name == "cond":
        peaks = [_inside(branch) for branch in params["branches"]]
        return max(peaks, key=lambda peak: peak.bytes)
    if operation.name == "while":
        return _inside(params["body_jaxpr"])
    if operation.name != "scan":
        return Peak(0.0)
    flat = flatten(inner_jaxpr(params["jaxpr"]))
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    carried = flat.inputs[num_consts : num_consts + num_carry]
    # A row of a stacked argument is copied out where it is read; one that is made is written into
    # its stack at once.
    rows = {id(value): value.bytes for value in flat.inputs[num_consts + num_carry :]}
    found = _peak(flat, arrivals=rows, held=flat.outputs[:num_carry], owned=carried)
    # The carry lies where the loop's results will: counted there.
    carry = sum(value.bytes for value in carried)
    constant = _largest_constant(flat)
    largest = [buffer for buffer in (*found.buffers, constant) if buffer.bytes]
    return Peak(max(0.0, found.bytes - carry) + constant.bytes, tuple(largest))


def _inside(closed: Any) -> Peak:
    flat = flatten(inner_jaxpr(closed))
    return _peak(flat, arrivals={}, held=flat.outputs)


def _largest_constant(body: Flat) -> Buffer:
    """Of the arrays filled with a number, such as what a mask puts in, the one that takes most.

    XLA makes some before the loop and others where they are read, which no rule that was tried
    tells apart: here there is one at a time (docs/scaling.md shows what others came to).
    """
    known: set[int] = set()
    filled: set[int] = set()
    for operation in body.operations:
        if all(id(value) in known or not value.bytes for value in operation.inputs):
            known |= {id(value) for value in operation.outputs}
            if operation.name == "broadcast_in_dim":
                filled.add(id(operation.outputs[0]))
    read = [value for op in body.operations for value in op.inputs if id(value) in filled]
    largest = max(read, key=lambda value: value.bytes, default=Value(0.0))
    return Buffer(largest.bytes, largest.shape, "constant")
