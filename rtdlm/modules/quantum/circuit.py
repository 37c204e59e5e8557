"""A circuit as a static, hashable description: which gates act on which qubits, in what order.

Numbers come in when it runs: an angle is

    fixed + scale * params[param] + (params[weight] or 1) * features[feature]

so that a parameter may be shared, and data may enter weighed (arXiv 1907.02085). A circuit is its
ops `num_rounds` times, each round with its own row of parameters and the same features; it compiles
as one round. Circuits follow one another by running one on the other's state.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rtdlm.config import UserError
from rtdlm.modules.quantum.gates import GATES, Complex, complex_of

Matrix = tuple[tuple[complex, ...], ...]
UNITARY = 1e-5
"""Largest entry of U U^+ - 1 that a given matrix may have."""


class Angle(NamedTuple):
    """Where an angle comes from, in radians; None is absent."""

    fixed: float = 0.0
    param: int | None = None
    scale: float = 1.0
    feature: int | None = None
    weight: int | None = None
    """The parameter that the feature is multiplied by; None is 1."""


class Op(NamedTuple):
    """One gate on some qubits, in the order that its matrix names them. See `op`."""

    gate: str | Matrix
    qubits: tuple[int, ...]
    angles: tuple[Angle, ...] = ()


@dataclass(frozen=True)
class Circuit:
    """Ops on `num_qubits` qubits, the first first, `num_rounds` times over.

    Raises:
        UserError: an op names a qubit that there is not, or there is no qubit or no round.
    """

    num_qubits: int
    ops: tuple[Op, ...]
    num_rounds: int = 1

    def __post_init__(self) -> None:
        for name in ("num_qubits", "num_rounds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected 1 or more")
        for each in self.ops:
            if not all(0 <= qubit < self.num_qubits for qubit in each.qubits):
                raise UserError(
                    f"{_name(each)} acts on qubits {each.qubits} of a circuit of "
                    f"{self.num_qubits}: name qubits from 0 to {self.num_qubits - 1}"
                )

    @property
    def num_params(self) -> int:
        """Parameters of a round."""
        return _count(index for angle in self._angles() for index in (angle.param, angle.weight))

    @property
    def num_features(self) -> int:
        """Features, the same in all rounds."""
        return _count(angle.feature for angle in self._angles())

    def _angles(self) -> Iterable[Angle]:
        return (angle for each in self.ops for angle in each.angles)


def op(gate: str | ArrayLike, *qubits: int, angles: Sequence[float | Angle] = ()) -> Op:
    """A gate of `GATES` by its name, or any unitary `[2^q, 2^q]`, on `qubits`.

    The first of `qubits` is the most significant bit of the matrix. A number in `angles` is fixed.

    Raises:
        UserError: no such gate, a matrix that is not unitary, too few or too many qubits or angles,
            or a qubit named twice.
    """
    found = Op(
        gate if isinstance(gate, str) else _matrix(gate),
        qubits,
        tuple(a if isinstance(a, Angle) else Angle(float(a)) for a in angles),
    )
    num_qubits, num_angles = _takes(found.gate)
    for what, given, expected in (
        ("qubits", len(qubits), num_qubits), ("angles", len(angles), num_angles),
    ):  # fmt: skip
        if given != expected:
            raise UserError(f"{_name(found)} is given {given} {what}: expected {expected}")
    if len(set(qubits)) != len(qubits):
        raise UserError(f"{_name(found)} acts on {qubits}: name different qubits")
    return found


def matrices(
    circuit: Circuit,
    params: jax.Array | None = None,
    features: jax.Array | None = None,
    *,
    dtype: Any = None,
) -> list[jax.Array]:
    """The matrices of each op, `[num_rounds, 2^q, 2^q]`, in order.

    Args:
        circuit: the circuit.
        params: `[num_rounds, num_params]`, or `[num_params]` for one round; None without any.
        features: `[num_features]`; None without any.
        dtype: complex64 or complex128; None is that of the params, or without them the features.

    Raises:
        UserError: params or features have another shape.
    """
    given = next((x.dtype for x in (params, features) if x is not None), np.float32)
    dtype = complex_of(given) if dtype is None else np.dtype(dtype)
    angles_RA = _angles(circuit, params, features, np.zeros(0, dtype).real.dtype)
    found: dict[int, jax.Array] = {}
    for gate, places in _places(circuit.ops).items():
        # All gates of a name at once: their sines cost one operation, not one each.
        columns = np.array([columns for _, columns in places], np.int64)
        made_RGDD = _made(gate, angles_RA[:, columns], dtype)
        found |= {number: made_RGDD[:, i] for i, (number, _) in enumerate(places)}
    return [found[number] for number in range(len(circuit.ops))]


def fixed_matrix(gate: str | Matrix) -> Complex:
    """The matrix of a gate without angles."""
    return np.asarray(GATES[gate].matrix() if isinstance(gate, str) else gate)


def _made(gate: str | Matrix, angles_RGA: jax.Array, dtype: Any) -> jax.Array:
    """`[R, G, D, D]`: a gate with G sets of angles, which may have none, in every round."""
    if _takes(gate)[1]:
        return jnp.asarray(GATES[str(gate)].matrix(*jnp.moveaxis(angles_RGA, -1, 0)), dtype)
    matrix = fixed_matrix(gate)
    return jnp.asarray(np.broadcast_to(matrix, (*angles_RGA.shape[:2], *matrix.shape)), dtype)


def _places(ops: Sequence[Op]) -> dict[str | Matrix, list[tuple[int, range]]]:
    """Gate -> the numbers of its ops, each with the columns of its angles."""
    found: dict[str | Matrix, list[tuple[int, range]]] = {}
    column = 0
    for number, each in enumerate(ops):
        columns = range(column, column + len(each.angles))
        found.setdefault(each.gate, []).append((number, columns))
        column = columns.stop
    return found


def _angles(
    circuit: Circuit, params: jax.Array | None, features: jax.Array | None, dtype: Any
) -> jax.Array:
    """Every angle of every op, round by round, `[R, A]`."""
    params_RP = jnp.zeros((circuit.num_rounds, 0)) if params is None else jnp.asarray(params)
    params_RP = params_RP[None] if params_RP.ndim == 1 else params_RP
    features_F = jnp.zeros(0) if features is None else features
    _check("params", params_RP.shape, (circuit.num_rounds, circuit.num_params))
    _check("features", features_F.shape, (circuit.num_features,))
    # Column 0 stands for what is absent.
    params_RP, features_F = params_RP.astype(dtype), features_F.astype(dtype)
    ones = jnp.ones((circuit.num_rounds, 1), dtype)
    shifts = jnp.concatenate([0 * ones, params_RP], 1)
    weights = jnp.concatenate([ones, params_RP], 1)
    data_F = jnp.concatenate([jnp.zeros(1, dtype), features_F])
    angles = [angle for each in circuit.ops for angle in each.angles]

    def column(name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        indices = [getattr(angle, name) for angle in angles]
        return np.array([0 if index is None else index + 1 for index in indices], np.int64)

    def constant(name: str) -> jax.Array:
        return jnp.asarray([[getattr(angle, name) for angle in angles]], dtype)

    data = weights[:, column("weight")] * data_F[column("feature")][None]
    return constant("fixed") + constant("scale") * shifts[:, column("param")] + data


def _check(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise UserError(f"{name} have shape {found}: this circuit takes {expected}")


def _matrix(given: ArrayLike) -> Matrix:
    matrix = np.asarray(given, np.complex128)
    size = len(matrix) if matrix.ndim else 0
    if matrix.shape != (size, size) or size < 2 or size & (size - 1):
        raise UserError(
            f"a gate's matrix has shape {matrix.shape}: expected [2^q, 2^q] for a gate on q qubits"
        )
    error = np.abs(matrix @ matrix.conj().T - np.eye(size)).max()
    if not error <= UNITARY:
        raise UserError(
            f"a gate's matrix U is not unitary: U U^+ is {error:.2g} off 1, expected at most "
            f"{UNITARY:g}; for what is not, see `rtdlm.modules.quantum.noise`"
        )
    return tuple(map(tuple, matrix.tolist()))


def _takes(gate: str | Matrix) -> tuple[int, int]:
    """Numbers of qubits and angles."""
    if not isinstance(gate, str):
        return len(gate).bit_length() - 1, 0
    if gate not in GATES:
        near = difflib.get_close_matches(gate.upper(), GATES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(GATES)}"
        raise UserError(f"there is no gate {gate!r}: {hint}")
    return GATES[gate].num_qubits, GATES[gate].num_angles


def _name(each: Op) -> str:
    return each.gate if isinstance(each.gate, str) else f"the {len(each.gate)}-row matrix"


def _count(indices: Iterable[int | None]) -> int:
    return 1 + max((index for index in indices if index is not None), default=-1)
