"""`python -m studies quantum_text`: a quantum circuit in a language model, on real text.

The small model of `kinds`, and the same with a simulated circuit in its last layer: trained, frozen
with its first angles, and as attention by the overlap of states. As in `recipe`, all get the same
CPU time, and differences are paired by seed; a side of as many parameters, with a wider
feed-forward layer in place of the circuit, tells what of a gain is size.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from benchmarks.text import DEFAULT_TEXT, read_characters
from rtdlm.evaluation.results import Result
from studies import kinds, recipe
from studies.graph_text import as_wide
from studies.sides import add_only, whole_name
from studies.variants import Tree, Variant, merged

DESCRIPTION = "a quantum circuit in a language model at equal CPU time"
SEEDS = recipe.SEEDS


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "quantum_text")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side."""
    size = kinds.SIZES["smoke" if flags.smoke else "small"]
    read_characters(DEFAULT_TEXT)
    chosen = recipe.named_with(flags.only, variants(size.config))
    yield from recipe.compared(chosen, size, DEFAULT_TEXT, flags)


def variants(base: Tree) -> Iterator[Variant]:
    """Everything that is set beside `base`."""
    circuit: Tree = {"quantum_layers": 1}
    held: Tree = {"optimizer": {"learning_rate_rules": {"circuit/angles": 0.0}}}
    yield Variant("quantum: a circuit", circuit)
    yield Variant("quantum: a circuit, frozen", merged(circuit, held))
    yield Variant("no circuit: as many parameters", {"d_ff": as_wide(base, circuit)})
    overlap: Tree = {"quantum_layers": 1, "quantum": {"kind": "attention", "num_qubits": 4}}
    yield Variant("quantum: overlap of states", overlap)
    yield Variant("no overlap: as many parameters", {"d_ff": as_wide(base, overlap)})
