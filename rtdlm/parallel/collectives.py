"""What devices send each other in one step, read from the compiled program.

Bytes are what one device sends (and receives) when n devices form a ring, of a result of b bytes:

    all-reduce           2 (n - 1) / n  b         reduce-scatter then all-gather
    all-gather             (n - 1) / n  b         b: the gathered array
    reduce-scatter         (n - 1)      b         b: what is left, a share of 1 / n
    all-to-all             (n - 1) / n  b
    collective-permute                  b

(Thakur, Rabenseifner and Gropp, 2005, doi 10.1177/1094342005051521.) An asynchronous one counts
where it starts, one inside a loop as often as the loop turns. A TPU's compiler computes products
meanwhile by spreading a collective over several fused computations, each of which states it whole;
those of one channel, chain and caller are one. A reduce-scatter it writes as an all-reduce and a
slice in a fused computation, `all-reduce-scatter`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from math import prod

import numpy as np
from jax.sharding import Mesh

from rtdlm.parallel.hlo import Instruction, Program, array_bytes, arrays

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """The collectives of one kind over one group of devices, in one step."""

    kind: str
    axes: tuple[str, ...]
    """The fewest mesh axes that hold its groups, whole or in parts, as one side of a cube."""
    group: int
    """Devices that take part in each."""
    count: int
    """How many run in a step."""
    sent: float
    """By one device in a step [bytes]."""


def ring_bytes(kind: str, result: float, group: int) -> float:
    """What one of `group` devices sends for a collective with a result of `result` bytes."""
    share = (group - 1) / group
    return {
        "all-reduce": 2 * share * result,
        "all-gather": share * result,
        "reduce-scatter": (group - 1) * result,
        "all-to-all": share * result,
        "collective-permute": result,
    }[kind]


def read_collectives(program: Program, mesh: Mesh) -> list[Collective]:
    """Every collective of a step that joins more than one device, most bytes first."""
    known = _groups_of_axes(mesh)
    found: dict[tuple[str, tuple[str, ...], int], list[float]] = {}
    scattered = _scattered(program)
    for instruction, runs in _collectives(program):
        kind = instruction.opcode.removesuffix("-start")
        result = _result_bytes(instruction, kind)
        if instruction.name in scattered:
            kind, result = "reduce-scatter", scattered[instruction.name]
        groups = _groups(instruction, mesh.size)
        group = len(groups[0]) if groups else mesh.size
        if kind == "collective-permute":
            axes, group = _permuted_axes(instruction, mesh), 2
        else:
            axes = known.get(_canonical(groups)) or _axes_around(groups, known)
        if group < 2:
            continue
        total = found.setdefault((kind, axes, group), [0, 0.0])
        total[0] += runs
        total[1] += runs * ring_bytes(kind, result, group)
    rows = [
        Collective(kind, axes, group, int(count), sent)
        for (kind, axes, group), (count, sent) in found.items()
    ]
    return sorted(rows, key=lambda row: -row.sent)


def _collectives(program: Program) -> Iterator[tuple[Instruction, int]]:
    """Each collective that runs, and how often; of one in pieces, the first piece."""
    callers = {
        called[1]: computation.name
        for computation in program.computations.values()
        for instruction in computation.instructions
        if (called := re.search(r"\bcalls=%?([\w.\-]+)", instruction.line))
    }
    seen = set()
    for computation in program.computations.values():
        if not computation.runs:
            continue
        for instruction in computation.instructions:
            if instruction.opcode.removesuffix("-start") not in KINDS:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.line)
            if channel and (chain := re.search(r'chain_id="(\w+)"', instruction.line)):
                piece = (callers.get(computation.name), channel[1], chain[1])
                if piece in seen:
                    continue
                seen.add(piece)
            yield instruction, computation.runs


def _scattered(program: Program) -> dict[str, float]:
    """All-reduces that are fused with a slice of what they add up, and that slice's bytes."""
    found = {}
    for computation in program.computations.values():
        if computation.name.startswith("all-reduce-scatter"):
            end = computation.instructions[-1]
            for instruction in computation.instructions:
                if instruction.opcode == "all-reduce" and end.opcode == "dynamic-slice":
                    found[instruction.name] = float(end.size)
    return found


def _result_bytes(instruction: Instruction, kind: str) -> float:
    """Of what it leaves on one device; a `-start` also hands back its operands."""
    sizes = [array_bytes(*array) for array in arrays(instruction.shape)]
    if not instruction.opcode.endswith("-start") or kind == "all-reduce":
        return sum(sizes)
    operands = max(1, len(instruction.operands))
    return sum(sizes[operands : 2 * operands]) or sum(sizes)


def _groups(instruction: Instruction, size: int) -> list[tuple[int, ...]]:
    """Positions in the mesh of the devices of each group."""
    line = instruction.line
    if listed := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", line):
        return [
            tuple(int(place) for place in group.split(",") if place.strip())
            for group in re.findall(r"\{([\d, ]*)\}", listed[1])
        ]
    if tiled := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        shape, source = ([int(n) for n in tiled[part].split(",")] for part in (1, 2))
        places = np.arange(prod(source)).reshape(source)
        if tiled[3]:
            places = places.transpose([int(n) for n in tiled[3].split(",")])
        return [tuple(map(int, group)) for group in places.reshape(shape)]
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = {axis: int(count) for axis, count in re.findall(r"'(\w+)'=(\d+)", named[1])}
        chosen = [list(sizes).index(axis) for axis in re.findall(r"'(\w+)'", named[2])]
        places = np.arange(prod(sizes.values())).reshape(list(sizes.values()))
        rest = [axis for axis in range(places.ndim) if axis not in chosen]
        width = prod(places.shape[axis] for axis in chosen)
        return [
            tuple(map(int, group)) for group in places.transpose(*rest, *chosen).reshape(-1, width)
        ]
    return [tuple(range(size))]


def _permuted_axes(instruction: Instruction, mesh: Mesh) -> tuple[str, ...]:
    pairs = re.findall(r"\{(\d+),(\d+)\}", instruction.line.partition("source_target_pairs=")[2])
    shape = mesh.devices.shape
    moved = set()
    for source, target in pairs:
        if max(int(source), int(target)) < mesh.size:
            ends = np.array([np.unravel_index(int(place), shape) for place in (source, target)])
            moved |= {int(axis) for axis in np.flatnonzero(ends[0] != ends[1])}
    return tuple(mesh.axis_names[axis] for axis in sorted(moved))


def _groups_of_axes(mesh: Mesh) -> dict[frozenset[frozenset[int]], tuple[str, ...]]:
    """Groups that a collective over each set of mesh axes has -> those axes."""
    places = np.arange(mesh.size).reshape(mesh.devices.shape)
    wide = [axis for axis in range(places.ndim) if places.shape[axis] > 1]
    known = {}
    for count in range(1, len(wide) + 1):
        for chosen in combinations(wide, count):
            rest = [axis for axis in range(places.ndim) if axis not in chosen]
            size = prod(places.shape[axis] for axis in chosen)
            groups = places.transpose(*rest, *chosen).reshape(-1, size)
            known[_canonical(groups.tolist())] = tuple(mesh.axis_names[axis] for axis in chosen)
    return known


def _axes_around(
    groups: list[tuple[int, ...]], known: dict[frozenset[frozenset[int]], tuple[str, ...]]
) -> tuple[str, ...]:
    """The fewest axes whose groups hold these; () for a mesh of one device."""
    for wholes in sorted(known, key=lambda wholes: len(next(iter(wholes)))):
        if all(any(whole.issuperset(group) for whole in wholes) for group in groups):
            return known[wholes]
    return ()


def _canonical(groups: Iterable[Iterable[int]]) -> frozenset[frozenset[int]]:
    return frozenset(frozenset(group) for group in groups)
