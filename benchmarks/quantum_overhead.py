"""`python -m benchmarks quantum-overhead`: what circuits were estimated to cost, and what they did.

`rtdlm.modules.quantum.estimate_quantum_overhead` against the compiler's count of operations, what
it allocates, and the clock, on one thread: a brick wall of 4 layers, as amplitudes, with its
gradient, and as a matrix product state, of which operations are compared for one cut: the compiler
does not count how often a loop turns.
"""

from argparse import ArgumentParser, Namespace
from typing import Any, NamedTuple

from benchmarks.runner import Case, Plan, interleave, ratios, samples
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "estimates of quantum circuits' cost against the compiler and the clock"
REPEATS = 3
LAYERS = 4


class Setting(NamedTuple):
    """One circuit in one mode."""

    mode: str
    num_qubits: int
    bond_dim: int | None = None
    small: bool = False
    """Matrices are no small part of it, and what is allocated is up to the compiler; see
    `rtdlm.modules.quantum.overhead`."""

    @property
    def title(self) -> str:
        """How results name it."""
        bonds = "" if self.bond_dim is None else f", bonds of {self.bond_dim}"
        return f"{self.mode}, {self.num_qubits} qubits{bonds}"


WHOLE = (
    Setting("statevector", 12, small=True), Setting("statevector", 16), Setting("statevector", 20),
    Setting("gradient", 16, small=True), Setting("gradient", 20),
    Setting("mps", 50, 16), Setting("mps", 100, 16), Setting("mps", 100, 32),
)  # fmt: skip
SMOKE = (Setting("statevector", 10, small=True), Setting("mps", 6, 4))


def add_flags(parser: ArgumentParser) -> None:
    """This benchmark takes none of its own."""


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """The results of all settings."""
    del flags
    layers = 2 if plan.smoke else LAYERS
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    settings = {f"{setting.title}, {layers} layers": setting for setting in chosen(plan)}
    cases = {}
    for name, setting in settings.items():
        spec: dict[str, Any] = {**setting._asdict(), "depth": layers}
        spec["seconds"] = 0.01 if plan.smoke else 1.0
        cases[name] = Case("benchmarks.sides.our_overhead", spec, environment=environment)
    answers = interleave(cases, repeats=plan.repeats)
    return [
        result
        for name, setting in settings.items()
        for result in _results(name, answers[name], small=setting.small)
    ]


def chosen(plan: Plan) -> tuple[Setting, ...]:
    """What is measured."""
    return SMOKE if plan.smoke else WHOLE


def _results(name: str, found: list[Any], *, small: bool) -> list[Result]:
    bars: dict[str, tuple[Bar, Bar] | None] = {
        "bytes": None if small else ((">=", 0.9), ("<=", 1.1)),
        "operations": ((">=", 0.9), ("<=", 1.1)),
        "seconds": None,
    }
    against = {"bytes": "allocated", "operations": "counted", "seconds": "measured"}
    results = []
    for what, real in against.items():
        told, seen = samples(found, f"{what}_told"), samples(found, what)
        unit = {"bytes": "MB", "operations": "", "seconds": "s"}[what]
        scale = 1e-6 if what == "bytes" else 1.0
        results.append(Result.median(f"{name}/{what}", [scale * x for x in seen], unit))
        quotient, bar = ratios(told, seen), bars[what]
        title = f"{name}/{what}, told over {real}"
        results.append(Result.median(title, quotient, "x", bar=None if bar is None else bar[1]))
        if bar is not None:
            results.append(Result(f"{title}, least", min(quotient), "x", bar=bar[0]))
    return results
