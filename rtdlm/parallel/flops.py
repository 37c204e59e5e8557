"""Operations of the matrix products of a compiled program, loops counted as often as they turn.

XLA's own `cost_analysis` counts a loop's body once. A product of [.., k] and [k, ..] is 2k
operations an element of the result; what is elementwise is not counted.
"""

import re
from math import prod

from rtdlm.parallel.hlo import Program, arrays


def product_flops(program: Program) -> int:
    """Of one device in one run of `program` [FLOP]; products that XLA wrote as `dot`."""
    total = 0
    for computation in program.computations.values():
        if not computation.runs:
            continue
        shapes = {instruction.name: instruction.shape for instruction in computation.instructions}
        for instruction in computation.instructions:
            if instruction.opcode != "dot":
                continue
            summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.line)
            left = arrays(shapes[instruction.operands[0]])[0][1]
            length = prod(left[int(dim)] for dim in summed[1].split(",") if dim) if summed else 1
            made = sum(prod(dims) for _, dims in arrays(instruction.shape))
            total += 2 * made * length * computation.runs
    return total
