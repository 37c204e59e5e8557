"""What every side of the quantum benchmark computes.

Spec: `num_qubits`, `num_layers`, `gradient`, `seconds`. `num_layers` times RY and RZ on every qubit
and CNOTs around the ring, in single precision, then Z of qubit 0; its derivatives by all angles if
`gradient`. Answer: that of `time_blocks`, and `value` and `slopes`, by which sides are compared.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.child import Answer, Spec


def angles(spec: Spec) -> Any:
    """`[num_layers, num_qubits, 2]` float32: RY's and RZ's of each qubit."""
    shape = (spec["num_layers"], spec["num_qubits"], 2)
    return np.random.default_rng(0).uniform(0, 2 * np.pi, shape).astype(np.float32)


def answer(times: Mapping[str, Any], value: Any, slopes: Any) -> Answer:
    """Times, and what was found, as plain numbers."""
    flat = [] if slopes is None else np.asarray(slopes).reshape(-1).tolist()
    return {**times, "value": float(value), "slopes": flat}
