"""A compiled program's text, read: its computations and how often each of them runs.

A loop's body stands once in the text; it runs as often as the loop's `known_trip_count`, which XLA
writes beside it, or else as the one number says that the loop's condition compares with. Shapes in
the text of a partitioned program are those of one device.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

DTYPE_BITS = {
    "pred": 8, "token": 0, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16,
    "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64, "f16": 16, "bf16": 16, "f32": 32,
    "f64": 64, "c64": 64, "c128": 128, "f8e4m3fn": 8, "f8e5m2": 8,
}  # fmt: skip

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*)$")
_CALLED = re.compile(
    r"(body|condition|to_apply|calls|branch_computations|true_computation|false_computation"
    r"|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
# What a Pallas kernel says of itself, in lines of its own amid an instruction.
_KERNEL = re.compile(r"kernel_metadata=\{\n.*?\n\}", re.DOTALL)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    """As written: an array, or a tuple of some."""
    opcode: str
    operands: tuple[str, ...]
    line: str

    @cached_property
    def size(self) -> int:
        """Of its result [bytes]."""
        return sum(array_bytes(kind, dims) for kind, dims in arrays(self.shape))

    @property
    def op_name(self) -> str:
        """Where in the traced function it comes from; empty where the compiler made it."""
        found = re.search(r'op_name="([^"]*)"', self.line)
        return found[1] if found else ""


@dataclass
class Computation:
    """A function of the program."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)
    runs: int = 0
    """How often one step runs it."""


@dataclass(frozen=True)
class Program:
    """A compiled program."""

    computations: dict[str, Computation]
    unknown_trips: int
    """Loops whose number of turns the text does not say; they count once."""

    def instructions(self) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that runs, and how often."""
        for computation in self.computations.values():
            if computation.runs:
                for instruction in computation.instructions:
                    yield instruction, computation.runs


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Formats and dimensions of the arrays in a written shape."""
    return [
        (kind, tuple(int(size) for size in dims.split(",") if size))
        for kind, dims in _ARRAY.findall(shape)
        if kind in DTYPE_BITS
    ]


def array_bytes(kind: str, dims: tuple[int, ...]) -> int:
    """Size of an array [bytes]."""
    return prod(dims) * DTYPE_BITS[kind] // 8


def parse_program(text: str) -> Program:
    """The program that `compiled.as_text()` wrote."""
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in _KERNEL.sub("kernel_metadata={}", text).splitlines():
        if head := _HEAD.match(line):
            current = computations.setdefault(head[2], Computation(head[2]))
            entry = current if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.instructions.append(_instruction(found[1], found[2], line))
    unknown = 0 if entry is None else _count_runs(computations, entry)
    return Program(computations, unknown)


def _instruction(name: str, rest: str, line: str) -> Instruction:
    end = _end_of_shape(rest)
    shape, call = rest[:end], rest[end:].lstrip()
    opcode, _, tail = call.partition("(")
    # Operands end where their bracket closes; they are names, or constants, whose text has none.
    depth, stop = 1, len(tail)
    for place, character in enumerate(tail):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            stop = place
            break
    return Instruction(
        name, shape, opcode.strip(), tuple(re.findall(r"%([\w.\-]+)", tail[:stop])), line
    )


def _end_of_shape(rest: str) -> int:
    """Where the shape at the head of `rest` ends: at the first space outside of brackets."""
    depth = 0
    for place, character in enumerate(rest):
        depth += (character in "({[") - (character in ")}]")
        if character == " " and depth == 0:
            return place
    return len(rest)


def _turns(computations: dict[str, Computation], loop: Instruction) -> int | None:
    """How often a loop turns; None where neither it nor its condition says."""
    if known := _TRIPS.search(loop.line):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    if condition is None or condition[1] not in computations:
        return None
    numbers = [
        int(number[1])
        for instruction in computations[condition[1]].instructions
        if (number := re.search(r"= s32\[\]\S* constant\((\d+)\)", instruction.line))
    ]
    # JAX counts from zero to a number; a condition with more in it is of another kind.
    return numbers[0] if len(numbers) == 1 else None


def _count_runs(computations: dict[str, Computation], entry: Computation) -> int:
    """Fills in `runs`, callers before the called; returns the loops of unknown length."""
    unknown = 0
    calls: dict[str, list[tuple[str, int]]] = {}
    for computation in computations.values():
        own = calls.setdefault(computation.name, [])
        for instruction in computation.instructions:
            trips = 1
            if instruction.opcode == "while":
                turns = _turns(computations, instruction)
                trips, unknown = (turns, unknown) if turns else (1, unknown + 1)
            for role, names in _CALLED.findall(instruction.line):
                for name in re.findall(r"[\w.\-]+", names):
                    if name in computations:
                        own.append((name, trips if role in ("body", "condition") else 1))
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        stack = [(name, iter(calls[name]))]
        seen.add(name)
        while stack:
            at, rest = stack[-1]
            following = next((called for called, _ in rest if called not in seen), None)
            if following is None:
                order.append(at)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(calls[following])))

    visit(entry.name)
    entry.runs = 1
    for name in reversed(order):
        for called, times in calls[name]:
            computations[called].runs += computations[name].runs * times
    return unknown
