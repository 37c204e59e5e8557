"""An episodic memory as a file of its own: one row's stores of all layers, in safetensors.

    bank = MemoryBank.from_stores(stores, row=0, tokenizer=tokenizer.hash)
    bank.save("ada.memory")
    stores = MemoryBank.load("ada.memory").into(stores, row=3)

A memory goes with a model: its keys mean something to the weights that made them and to no others.
The file says how many layers, slots, heads and features it is for, and which tokenizer its tokens
are of. Its arrays are checked against a SHA-256 when they are loaded. This loads no JAX.

Axes: L layers, M slots, H heads, E head features; a store has B, the batch, for L.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from rtdlm.checkpoint.tensors import read_described, write_tensors
from rtdlm.config.errors import UserError
from rtdlm.disk import replace_with

FORMAT, VERSION = "rtdlm memory", "1"
AnyStore = TypeVar("AnyStore", bound=NamedTuple)
_AXES = {"key": 4, "value": 4, "clock": 1}


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """The arrays of `rtdlm.modules.memory.Store`, layer by layer; see there."""

    key_LMHE: np.ndarray
    value_LMHE: np.ndarray
    label_LM: np.ndarray
    token_LM: np.ndarray
    born_LM: np.ndarray
    used_LM: np.ndarray
    surprise_LM: np.ndarray
    clock_L: np.ndarray
    tokenizer: str = ""
    """SHA-256 of the tokenizer; empty where nobody said."""

    @classmethod
    def from_stores(cls, stores: Sequence[Any], row: int, *, tokenizer: str = "") -> Self:
        """Row `row` of each layer's store."""
        taken = {
            name: np.stack([np.asarray(getattr(store, _in_store(name))[row]) for store in stores])
            for name in _ARRAYS
        }
        return cls(**taken, tokenizer=tokenizer)

    def into(self, stores: Sequence[AnyStore], row: int) -> list[AnyStore]:
        """The stores with this memory in row `row`; other rows stay.

        Args:
            stores: at least one; a memory of each layer.
            row: of the batch.

        Raises:
            UserError: the stores are of another shape or format.
        """
        like: Any = stores[0]
        self.require((len(stores), *like.key_BMHE.shape[1:]), like.key_BMHE.dtype)

        def put(store: Any, name: str, layer: int) -> Any:
            return getattr(store, _in_store(name)).at[row].set(getattr(self, name)[layer])

        return [
            store._replace(**{_in_store(name): put(store, name, layer) for name in _ARRAYS})
            for layer, store in enumerate(stores)
        ]

    def require(self, shape: Sequence[int], dtype: Any) -> None:
        """Raises UserError unless keys are `[L, M, H, E]` of this shape and type."""
        found, wanted = self.key_LMHE.shape, tuple(shape)
        if found != wanted or self.key_LMHE.dtype != dtype:
            raise UserError(
                f"the memory is {_told(found)} in {self.key_LMHE.dtype}, the model's "
                f"{_told(wanted)} in {dtype}; use it with the model that wrote it"
            )

    def require_tokenizer(self, tokenizer: str) -> None:
        """Raises UserError if the memory's tokens are of another tokenizer than this SHA-256's."""
        if self.tokenizer not in ("", tokenizer):
            raise UserError(
                f"the memory's tokens are of tokenizer {self.tokenizer[:12]}, this one is "
                f"{tokenizer[:12]}; give the tokenizer of the model that wrote it"
            )

    def save(self, path: str | Path) -> None:
        """Writes the file, which is whole at any moment.

        Raises:
            StorageError: the disk refused.
        """
        arrays = {_in_file(name): getattr(self, name) for name in _ARRAYS}
        about = {
            "format": FORMAT,
            "version": VERSION,
            "tokenizer": self.tokenizer,
            "sha256": _digest(arrays.values()),
        }
        replace_with(Path(path), lambda place: write_tensors(place, arrays, metadata=about))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote, bit for bit.

        Raises:
            UserError: there is no such file, it is no memory, damaged, or of a later version.
        """
        path = Path(path)
        try:
            arrays, about = read_described(path)
        except OSError as error:
            raise UserError(
                f"memory {path} cannot be read: {error.strerror}; give a file that a memory was "
                "saved to"
            ) from None
        if about.get("format") != FORMAT:
            raise UserError(f"{path} is not a memory; give a file that a memory was saved to")
        if about.get("version") != VERSION:
            raise UserError(
                f"{path} is a memory of version {about.get('version')}, this program reads "
                f"version {VERSION}; read it with the program that wrote it"
            )
        trouble = _trouble(arrays, about.get("sha256"))
        if trouble is not None:
            raise UserError(f"memory {path} is damaged: {trouble}; take it from a copy")
        copied = {name: np.array(arrays[_in_file(name)]) for name in _ARRAYS}
        return cls(**copied, tokenizer=about.get("tokenizer", ""))

    def forget(self, gone_LM: np.ndarray) -> "MemoryBank":
        """The memory with slots emptied, True in `gone_LM`, as if nothing was ever there."""
        changed = {}
        for name in _ARRAYS:
            array = getattr(self, name)
            if name != "clock_L":
                gone = gone_LM.reshape(gone_LM.shape + (1,) * (array.ndim - 2))
                array = np.where(gone, np.zeros((), array.dtype), array)
            changed[name] = array
        return replace(self, **changed)

    def rows(self, layer: int) -> list["Slot"]:
        """The filled slots of a layer in order of birth."""
        filled = np.flatnonzero(self.label_LM[layer] > 0)
        order = filled[np.argsort(self.born_LM[layer, filled], kind="stable")]
        return [
            Slot(
                slot=int(slot),
                label=int(self.label_LM[layer, slot]),
                token=int(self.token_LM[layer, slot]),
                born=int(self.born_LM[layer, slot]),
                age=int(self.clock_L[layer] - self.born_LM[layer, slot]),
                used=float(self.used_LM[layer, slot]),
                surprise=float(self.surprise_LM[layer, slot]),
            )
            for slot in order
        ]


class Slot(NamedTuple):
    """What a memory says of one of its tokens."""

    slot: int
    label: int
    """Its document."""
    token: int
    """Its id."""
    born: int
    """The clock when it was offered [tokens]."""
    age: int
    """Tokens offered since."""
    used: float
    """How much it was read [readings]."""
    surprise: float


_ARRAYS = tuple(item.name for item in fields(MemoryBank) if item.name != "tokenizer")


def _in_file(name: str) -> str:
    return name.partition("_")[0]


def _in_store(name: str) -> str:
    """Name of the same array in a store, which has a batch where a bank has layers."""
    return name.replace("_L", "_B")


def _trouble(arrays: dict[str, np.ndarray], digest: str | None) -> str | None:
    """What is wrong with a file's arrays."""
    names = {_in_file(name) for name in _ARRAYS}
    if set(arrays) != names:
        return f"it holds {', '.join(sorted(arrays)) or 'nothing'}, not {', '.join(sorted(names))}"
    shape = arrays["key"].shape
    if len(shape) != 4:
        return f"its keys have {len(shape)} axes, not layers, slots, heads and features"
    if arrays["key"].dtype.kind in "iub":
        return f"key is {arrays['key'].dtype}, not a float"
    kinds = {"key": arrays["key"].dtype, "value": arrays["key"].dtype}
    kinds |= {"used": np.dtype(np.float32), "surprise": np.dtype(np.float32)}
    for name in sorted(names):
        axes, kind = _AXES.get(name, 2), kinds.get(name, np.dtype(np.int32))
        if arrays[name].shape != shape[:axes]:
            return f"{name} has shape {arrays[name].shape}, not {shape[:axes]}"
        if arrays[name].dtype != kind:
            return f"{name} is {arrays[name].dtype}, not {kind}"
    if _digest(arrays[_in_file(name)] for name in _ARRAYS) != digest:
        return "its bytes are not those of its checksum"
    for name in ("token", "label", "born", "clock", "used"):
        if not (arrays[name] >= 0).all():
            return f"{name} is negative or no number somewhere"
    return None


def _digest(arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _told(shape: Sequence[int]) -> str:
    names = ("layers", "slots", "heads", "features")
    return " x ".join(f"{size} {name}" for size, name in zip(shape, names, strict=False))
