"""Smaller steps at the start of a run: fewer rows a batch, or shorter rows.

    AGIConfig.from_preset("tiny", warmup={"seq_len": 64, "seq_len_steps": 100})

A loss of large steps is mostly that of their last ones, and early gradients need few tokens to
point the right way; so early steps can be small (batches: arXiv 1812.06162; rows: arXiv 2012.15832,
arXiv 2108.06084).
"""

from dataclasses import dataclass

from rtdlm.config.effect import require


@dataclass(frozen=True)
class WarmupConfig:
    """Steps that start small and double in size, at even distances, until they are whole."""

    batch_size: int | None = None
    """Rows of the first step's batch, `batch_size` halved a few times; None is `batch_size`
    [rows]."""
    batch_steps: int | None = None
    """Steps until batches are whole [steps]."""
    seq_len: int | None = None
    """Length of the first step's rows, `max_seq_len` halved a few times: rows are cut into as many
    shorter ones, so that a step keeps its number of tokens; None is `max_seq_len` [tokens]."""
    seq_len_steps: int | None = None
    """Steps until rows are whole [steps]."""

    def __post_init__(self) -> None:
        for size, steps in (("batch_size", "batch_steps"), ("seq_len", "seq_len_steps")):
            given = {name: getattr(self, name) for name in (size, steps)}
            missing = next((name for name, value in given.items() if value is None), None)
            other = next((name for name, value in given.items() if value is not None), None)
            require(
                missing is None or other is None,
                f"warmup.{other}={given.get(other or '')} has no effect without "
                f"warmup.{missing}; set both or neither",
            )
            for name, value in given.items():
                require(value is None or value >= 1, f"warmup.{name}={value} must be at least 1")

    def require_halves(self, *, batch_size: int, seq_len: int) -> None:
        """Raises UserError unless doubling the first sizes leads to the whole ones."""
        for name, whole, path in (
            ("batch_size", batch_size, "batch_size"),
            ("seq_len", seq_len, "max_seq_len"),
        ):
            first = getattr(self, name)
            require(
                first is None or doublings(first, whole) > 0,
                f"warmup.{name}={first} does not grow to {path}={whole} by doubling; use "
                f"{path} halved one or several times",
            )


def doublings(first: int, whole: int) -> int:
    """How often `first` is doubled to give `whole`; 0 where none or no number of times does."""
    times = max(0, (whole // first).bit_length() - 1)
    return times if first << times == whole else 0
