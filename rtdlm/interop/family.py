"""What a family of foreign models has to say of itself."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from rtdlm.config import AGIConfig, UserError
from rtdlm.interop.slots import Slot

Json = Mapping[str, Any]


class Family(Protocol):
    """One architecture of Hugging Face's `transformers`."""

    @property
    def model_type(self) -> str:
        """In its config.json."""

    def from_foreign(self, config: Json) -> dict[str, Any]:
        """Overrides of `AGIConfig`; UserError names what cannot be expressed."""

    def to_foreign(self, config: AGIConfig) -> dict[str, Any] | None:
        """Its config.json without what all have; None if the model is not of this family."""

    def slots(self, config: AGIConfig) -> Iterator[Slot]:
        """All its tensors."""


def expect(config: Json, field: str, *values: Any, default: Any = None) -> Any:
    """The field, which must have one of `values`.

    Raises:
        UserError: it has another one, which our model cannot express.
    """
    found = config.get(field, default)
    if found not in values:
        wanted = " or ".join(map(repr, values))
        raise UserError(
            f"the checkpoint's {field}={found!r} cannot be expressed by AGIConfig, which knows "
            f"{wanted} here"
        )
    return found
