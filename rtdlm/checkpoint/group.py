"""Who writes a checkpoint together: the processes of a run, or one alone."""

from typing import Any, Protocol


class Group(Protocol):
    """What a store needs of the processes of a run; every name is used once."""

    process: int
    count: int
    leads: bool

    def follow(self, name: str, value: Any) -> Any:
        """What the leader passes as `value`, in every process."""

    def gather(self, name: str, value: Any) -> list[Any]:
        """What every process passes as `value`, by number."""


class Alone:
    """A group of one."""

    process, count, leads = 0, 1, True

    def follow(self, name: str, value: Any) -> Any:
        """`value`."""
        return value

    def gather(self, name: str, value: Any) -> list[Any]:
        """`value` alone."""
        return [value]
