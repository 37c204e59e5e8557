"""`python -m studies quantum_ising`: ground states of transverse-field Ising chains, known exactly.

The open chain H = -sum Z Z - sum X at its critical point, where entanglement is largest, has
E = 1 - 1 / sin(pi / (2 (2n + 1))) (Pfeuty, Annals of Physics 57, 79). It is found by sweeps over a
matrix product state in float64, from a random state that the seed says. Told is the relative error
against the closed form, and what it cost, the compilation left out.

The ring at its critical point is found by a variational circuit of n / 2 rounds, each a turn by
every term of H (arXiv 1411.4028 gives the form), whose 2 angles a round L-BFGS finds in float64.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from benchmarks.child import Timer
from benchmarks.runner import tell
from rtdlm.evaluation.results import Bar, Result
from rtdlm.modules.quantum import (
    MPS,
    energy,
    ground_state,
    ising_ansatz,
    ising_chain,
    ising_ground_energy,
    ising_ring,
    mps_canonical,
    zero_state,
)
from rtdlm.modules.quantum import run as run_circuit

DESCRIPTION = "ground states of Ising chains against their closed forms"
SEEDS = 3
BAR: Bar = ("<=", 1e-6)
RING_BAR: Bar = ("<=", 1e-10)


class Size(NamedTuple):
    """The chain, and the bonds that it is tried with."""

    num_qubits: int
    max_bonds: tuple[int, ...]
    num_sweeps: int
    rings: tuple[int, ...]
    """Qubits of each."""


WHOLE = Size(100, (8, 16, 32), num_sweeps=8, rings=(4, 8, 10))
SMOKE = Size(10, (4, 16), num_sweeps=3, rings=(4,))
BARRED_BOND = 16
"""Fewest bonds that are to pass the bar."""


class Ran(NamedTuple):
    """One search with one seed."""

    error: float
    """Of the energy, relative to the closed form."""
    discarded: float
    """Largest share of the norm that the last sweep cut off at a bond."""
    wall: float
    cpu: float


def add_flags(parser: ArgumentParser) -> None:
    """This study takes none of its own."""


def file_name(flags: Namespace) -> str | None:
    """Name of the result file."""
    return None if flags.smoke else "quantum_ising"


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every seed."""
    size = SMOKE if flags.smoke else WHOLE
    ran: dict[int, list[Ran]] = {max_bond: [] for max_bond in size.max_bonds}
    for seed in range(flags.seeds or (1 if flags.smoke else SEEDS)):
        for max_bond, found in ran.items():
            found.append(run(size, max_bond, seed))
            tell(f"bonds of {max_bond}, seed {seed}: relative error {found[-1].error:.2g}")
        yield chain_results(size, ran)
    rings: dict[int, list[float]] = {num_qubits: [] for num_qubits in size.rings}
    for seed in range(flags.seeds or (1 if flags.smoke else SEEDS)):
        for num_qubits, errors in rings.items():
            errors.append(ring_error(num_qubits, seed))
            tell(f"ring of {num_qubits}, seed {seed}: relative error {errors[-1]:.2g}")
        yield [*chain_results(size, ran), *ring_results(rings)]


def ring_error(num_qubits: int, seed: int) -> float:
    """Of the energy that VQE finds, relative to the closed form."""
    exact, ring = ising_ground_energy(num_qubits, field=1.0), ising_ring(num_qubits, field=1.0)
    begin, rounds = ising_ansatz(num_qubits, num_rounds=num_qubits // 2)
    with jax.enable_x64(True):
        plus = run_circuit(begin, state=zero_state(num_qubits, jnp.complex128))

        def value(params_LP: jax.Array) -> jax.Array:
            return energy(run_circuit(rounds, params_LP, state=plus), ring)

        both = jax.jit(jax.value_and_grad(value))

        def told(flat: np.ndarray) -> tuple[float, np.ndarray]:
            found, slope = both(jnp.asarray(flat.reshape(-1, rounds.num_params)))
            return float(found), np.asarray(slope).ravel()

        start = np.random.default_rng(seed).uniform(0, 1, num_qubits)
        options = {"ftol": 1e-16, "gtol": 1e-10}
        least = scipy.optimize.minimize(told, start, jac=True, method="L-BFGS-B", options=options)
    return abs(float(least.fun) - exact) / abs(exact)


def ring_results(rings: Mapping[int, list[float]]) -> list[Result]:
    """What is told of the rings."""
    return [
        Result.mean(f"ring, {n} qubits, variational/relative error", errors, "", bar=RING_BAR)
        for n, errors in rings.items()
        if errors
    ]


def open_chain_energy(num_qubits: int) -> float:
    """The critical open chain's ground energy, in units of the coupling."""
    return float(1 - 1 / np.sin(np.pi / (2 * (2 * num_qubits + 1))))


def run(size: Size, max_bond: int, seed: int) -> Ran:
    """Searches from a random state, once to compile and once for time."""
    with jax.enable_x64(True):
        shape = (size.num_qubits, max_bond, 2, max_bond)
        start = mps_canonical(MPS(jax.random.normal(jax.random.key(seed), shape, jnp.float64)))
        chain = ising_chain(size.num_qubits, field=1.0, dtype=jnp.float64)
        search = partial(ground_state, num_sweeps=size.num_sweeps)
        jax.block_until_ready(search(start, chain))
        timer = Timer()
        found = jax.block_until_ready(search(start, chain))
        took = timer.read()
        exact = open_chain_energy(size.num_qubits)
        error = abs(float(found.energy) - exact) / abs(exact)
        return Ran(error, float(found.discarded_E.max()), took.wall, took.cpu)


def chain_results(size: Size, ran: Mapping[int, list[Ran]]) -> list[Result]:
    """What is told of the open chain."""
    results = []
    for max_bond, runs in ran.items():
        name = f"open chain, {size.num_qubits} qubits, bonds of {max_bond}"
        bar = BAR if max_bond >= BARRED_BOND else None
        errors = [each.error for each in runs]
        results += [
            Result.mean(f"{name}/relative error", errors, "", bar=bar),
            Result.mean(f"{name}/discarded at a bond", [each.discarded for each in runs], ""),
            Result.mean(f"{name}/wall", [each.wall for each in runs], "s"),
            Result.mean(f"{name}/CPU", [each.cpu for each in runs], "s"),
        ]
    return results
