"""Simulated quantum circuits in the last layers: the section `quantum`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from rtdlm.config.effect import Reader, require, require_effect

QuantumKind = Literal["circuit", "attention"]
Ansatz = Literal["hardware_efficient", "strongly_entangling", "data_reuploading", "brick_wall"]
MOST_QUBITS = 16


@dataclass(frozen=True)
class QuantumConfig:
    """What the last `quantum_layers` layers have between attention and the feed-forward layer."""

    READERS: ClassVar = (
        Reader("ansatz", "form", ("circuit",)),
        Reader("heads", "form", ("attention",)),
    )

    kind: QuantumKind | None = None
    """`circuit` turns qubits by a token's features and reads what a trained circuit makes of them
    (arXiv 1907.02085 and others, see `ansatz`); `attention` reads earlier tokens by the overlap of
    their states with the token's own (arXiv 1803.07128); None is `circuit`."""
    num_qubits: int | None = None
    """Simulated exactly, 2**n amplitudes a token; None is 6 [qubits]."""
    num_rounds: int | None = None
    """Repetitions of the circuit, each with its own angles; None is 2 [rounds]."""
    ansatz: Ansatz | None = None
    """The trained circuit, see `rtdlm.modules.quantum.ansatz`; None is `hardware_efficient`.
    `attention` uploads its features in every round."""
    heads: int | None = None
    """States of its own that a token has for `attention`; None is 1 [heads]."""

    def __post_init__(self) -> None:
        require_effect(self, self.READERS, path="quantum.")
        require(
            1 <= self.qubits <= MOST_QUBITS,
            f"quantum.num_qubits={self.num_qubits} is outside 1 to {MOST_QUBITS}: every token has "
            "2**num_qubits amplitudes",
        )
        require(
            self.ansatz != "brick_wall" or self.qubits > 1,
            f"quantum.ansatz='brick_wall' acts on pairs, and quantum.num_qubits={self.qubits} has "
            "none; use 2 qubits or more",
        )
        for name in ("num_rounds", "heads"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"quantum.{name}={value} must be at least 1")

    @property
    def form(self) -> str:
        """`kind`, resolved."""
        return "circuit" if self.kind is None else self.kind

    @property
    def qubits(self) -> int:
        """Of each circuit."""
        return 6 if self.num_qubits is None else self.num_qubits

    @property
    def rounds(self) -> int:
        """Repetitions of the circuit."""
        return 2 if self.num_rounds is None else self.num_rounds

    @property
    def trained(self) -> str:
        """Name of the trained circuit."""
        return "hardware_efficient" if self.ansatz is None else self.ansatz

    @property
    def num_heads(self) -> int:
        """States that a token has."""
        return 1 if self.heads is None else self.heads

    @property
    def features(self) -> int:
        """Numbers that turn one circuit's qubits: one a qubit, or one an angle."""
        uploads = self.form == "attention" or self.trained == "data_reuploading"
        return self.qubits * (3 if uploads else 1)
