"""`python -m benchmarks quantum`: the state-vector simulator against those that people use.

Four layers of RY and RZ on every qubit and CNOTs around the ring, then Z of qubit 0: the value, and
the gradient by all angles, in single precision on one thread. The peers are PennyLane's
lightning.qubit (adjoint differentiation), Qiskit Aer (fusion; it has no gradient) and TensorCircuit
(the faster of jitted JAX and NumPy). All must find the same numbers. A deeper circuit, in which the
first rounds' savings (`rtdlm.modules.quantum.halves`) count for less, is run against the first two.

Ratios are of CPU seconds, which neighbours on a shared machine hardly change. Beside that, without
a peer, 100 qubits as a matrix product state.
"""

import importlib.util
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.child import Answer
from benchmarks.runner import Case, Plan, interleave, ratios, samples
from rtdlm.config.errors import UserError
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "quantum circuits against lightning, Aer and TensorCircuit, 12 to 20 qubits"
REPEATS = 3
SIZES, SMOKE_SIZES = (12, 16, 20), (4,)
LAYERS, DEEP = 4, 16
FORWARD_BARS = {12: 10.0, 16: 10.0, 20: 3.0}
GRADIENT_BARS = {12: 5.0, 16: 2.0, 20: 1.0}
COMPILE_BAR: Bar = ("<=", 10.0)
MPS_BAR: Bar = ("<=", 1.5)
AGREE = 1e-4
"""Largest difference between sides, all in single precision."""
PEERS = {
    "lightning": ("pennylane_lightning", "pennylane-lightning"),
    "aer": ("qiskit_aer", "qiskit-aer"),
    "tensorcircuit": ("tensorcircuit", "tensorcircuit-ng"),
}
"""Name -> the module to find, the package to install."""

ByName = Mapping[str, Sequence[Answer]]


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this benchmark takes."""
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="S",
        help="timed in every child process, after its compilation (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=list(PEERS),
        help="against whom (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--qubits", nargs="+", type=int, choices=SIZES, metavar="N",
        help="sizes: 12, 16 and 20 (default: all)",
    )  # fmt: skip


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of all sizes, on one thread.

    Raises:
        UserError: a peer is not installed.
    """
    for name in flags.peers:
        _require(name)
    results: list[Result] = []
    sizes = SMOKE_SIZES if plan.smoke else flags.qubits or SIZES
    circuits = [(n, LAYERS, gradient) for n in sizes for gradient in (False, True)]
    circuits += [(max(sizes), DEEP, gradient) for gradient in (False, True)]
    for num_qubits, num_layers, gradient in circuits:
        is_deep = num_layers == DEEP
        title = f"{num_qubits} qubits, {f'{DEEP} layers, ' if is_deep else ''}"
        title += "gradient" if gradient else "forward"
        spec = {
            "num_qubits": num_qubits,
            "num_layers": num_layers,
            "gradient": gradient,
            "seconds": 0.01 if plan.smoke else flags.seconds,
        }
        peers = [name for name in flags.peers if not (is_deep and name == "tensorcircuit")]
        answers = interleave(_cases(title, spec, peers), repeats=plan.repeats)
        _agree(answers)
        results += _results(title, answers, None if is_deep else num_qubits, gradient)
    return [*results, *_tensors(plan, flags.seconds)]


def _tensors(plan: Plan, seconds: float) -> list[Result]:
    """A brick wall of random gates on a matrix product state, on two threads."""
    qubits, max_bond = (10, 4) if plan.smoke else (100, 32)
    title = f"{qubits} qubits, bonds of {max_bond}, 4 layers/ours"
    spec = {"qubits": qubits, "depth": LAYERS, "max_bond": max_bond, "seconds": seconds}
    # LAPACK's threads gain nothing on matrices this small and stand in each other's way.
    case = Case("benchmarks.sides.our_mps", spec, 2, {"OPENBLAS_NUM_THREADS": "1"})
    found = interleave({title: case}, repeats=plan.repeats)[title]
    bar: Bar | None = None if plan.smoke else MPS_BAR
    return [
        Result.median(f"{title}/wall", samples(found, "wall"), "s", bar=bar),
        Result.median(f"{title}/CPU", samples(found, "cpu"), "s"),
        Result.median(f"{title}/fidelity, at least", samples(found, "fidelity_bound"), ""),
    ]


def _require(name: str) -> None:
    module, package = PEERS[name]
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{name}, one of the peers, is not installed; install it with `pip install {package}` "
            "or name the others with --peers"
        )


def _cases(title: str, spec: Mapping[str, object], peers: Sequence[str]) -> dict[str, Case]:
    # Compilation is timed too: it must not come out of a cache.
    fresh = {"JAX_ENABLE_COMPILATION_CACHE": "false", "OPENBLAS_NUM_THREADS": "1"}

    def case(side: str, **more: str) -> Case:
        return Case(f"benchmarks.sides.{side}", {**spec, **more}, environment=fresh)

    cases = {f"{title}/ours": case("our_quantum")}
    if "lightning" in peers:
        cases[f"{title}/lightning"] = case("quantum_lightning")
    if "aer" in peers and not spec["gradient"]:
        cases[f"{title}/aer"] = case("quantum_aer")
    if "tensorcircuit" in peers:
        for backend in ("jax",) if spec["gradient"] else ("jax", "numpy"):
            side = case("quantum_tensorcircuit", backend=backend)
            cases[f"{title}/tensorcircuit {backend}"] = side
    return cases


def _agree(answers: ByName) -> None:
    """All sides computed the same thing, or there is nothing to compare."""
    first, *others = [found[0] for found in answers.values()]
    for other in others:
        for key in ("value", "slopes"):
            assert np.allclose(first[key], other[key], atol=AGREE), (key, answers.keys())


def _results(title: str, answers: ByName, num_qubits: int | None, gradient: bool) -> list[Result]:
    """`num_qubits` decides the bars; None has none."""
    ours = answers[f"{title}/ours"]
    results = [
        Result.median(f"{name}/{label}", samples(found, clock, scale=scale), unit)
        for name, found in answers.items()
        for clock, label, scale, unit in (
            ("cpu", "CPU", 1e3, "ms"), ("wall", "wall", 1e3, "ms"), ("first_wall", "first", 1, "s"),
        )
    ]  # fmt: skip
    results.append(Result.median(f"{title}/ours/scratch", samples(ours, "held"), "states"))
    if num_qubits == max(SIZES):
        compiled = samples(ours, "first_wall")
        results.append(Result.median(f"{title}/ours/compile", compiled, "s", bar=COMPILE_BAR))
    bars = GRADIENT_BARS if gradient else FORWARD_BARS
    least = None if num_qubits is None else bars.get(num_qubits)
    for name, found in _fastest(answers).items():
        faster = ratios(samples(found, "cpu"), samples(ours, "cpu"))
        bar: Bar | None = None if least is None else (">=", least)
        results.append(Result.median(f"{title}/{name} over ours, CPU", faster, "x", bar=bar))
    return results


def _fastest(answers: ByName) -> dict[str, Sequence[Answer]]:
    """The answers of each peer, by its fastest side."""
    best: dict[str, Sequence[Answer]] = {}
    for side, found in answers.items():
        name = side.rpartition("/")[2].split()[0]
        if name not in best or sum(samples(found, "cpu")) < sum(samples(best[name], "cpu")):
            best[name] = found
    return {name: found for name, found in best.items() if name != "ours"}
