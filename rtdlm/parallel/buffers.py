"""The largest arrays that a compiled program writes to a device's memory."""

import re
from dataclasses import dataclass

from rtdlm.parallel.hlo import Program, array_bytes, arrays

# These make no array of their own.
_NAMES = {
    "parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
    "opt-barrier", "after-all",
}  # fmt: skip
# A layout of memory space 1 is on the chip of a TPU, not in its HBM.
_ON_CHIP = re.compile(r"S\(1\)")
_ARRAY_WITH_LAYOUT = re.compile(r"[a-z]\w*\[[\d,]*\](?:\{[^}]*\})?")


@dataclass(frozen=True)
class LargeArray:
    """Arrays of one shape, made in one place."""

    bytes: int
    """Of one."""
    count: int
    shape: str
    """As XLA writes it, for instance f32[8,512]."""
    made_by: str
    """The operation in the traced function, or the compiler's own."""


def largest_arrays(program: Program, *, count: int) -> list[LargeArray]:
    """The `count` largest arrays that are written to memory; those alike are one."""
    fused = _fused(program)
    found: dict[tuple[str, str], list[int]] = {}
    for computation in program.computations.values():
        if not computation.runs or computation.name in fused:
            continue
        for instruction in computation.instructions:
            if instruction.opcode in _NAMES:
                continue
            for text in _ARRAY_WITH_LAYOUT.findall(instruction.shape):
                if not _ON_CHIP.search(text):
                    for kind, dims in arrays(text):
                        shape = f"{kind}[{','.join(map(str, dims))}]"
                        place = _place(instruction.op_name) or instruction.opcode
                        size = array_bytes(kind, dims)
                        found.setdefault((shape, place), [size, 0])[1] += 1
    rows = [
        LargeArray(size, number, shape, place) for (shape, place), (size, number) in found.items()
    ]
    return sorted(rows, key=lambda row: (-row.bytes, row.made_by))[:count]


def _fused(program: Program) -> set[str]:
    names: set[str] = set()
    for instruction, _ in program.instructions():
        if instruction.opcode == "fusion":
            names |= set(re.findall(r"calls=%?([\w.\-]+)", instruction.line))
    return names


def _place(op_name: str) -> str:
    """The telling end of an operation's path: its module and what it does there."""
    parts = [
        part
        for part in op_name.split("/")
        if part
        not in ("while", "body", "closed_call", "cond", "checkpoint", "rematted_computation")
        and not re.fullmatch(r"(jit|branch_\d+)\(?.*", part)
    ]
    return "/".join(parts[-3:])
