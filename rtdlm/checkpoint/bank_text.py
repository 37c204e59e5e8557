"""An episodic memory as text: what its tokens say, tables for a person, and slots found by text.

A memory keeps tokens, not sentences: what was offered one after the other, and is all still there,
is read as one text, and a search finds no words across a gap.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from rtdlm.checkpoint.bank import MemoryBank, Slot
from rtdlm.config.effect import require
from rtdlm.data import StreamDecoder, Tokenizer


def overview(bank: MemoryBank) -> str:
    """A line for each layer: how full it is, how old its tokens are and how much they are read."""
    layers, slots, heads, features = bank.key_LMHE.shape
    about = f"{layers} layers of {slots:,} slots, {heads} heads of {features} features"
    rows = [("layer", "filled", "share", "median age", "oldest", "read", "most read", "offered")]
    for layer in range(layers):
        filled = bank.label_LM[layer] > 0
        age = (bank.clock_L[layer] - bank.born_LM[layer])[filled]
        used = bank.used_LM[layer, filled]
        known = (f"{np.median(age):,.0f}", f"{age.max():,}") if age.size else ("-", "-")
        reads = (f"{(used > 0).mean():.0%}", f"{used.max():.1f}") if age.size else ("-", "-")
        count = (f"{filled.sum():,}", f"{filled.mean():.0%}")
        rows.append((str(layer), *count, *known, *reads, f"{bank.clock_L[layer]:,}"))
    return f"{about}, {bank.key_LMHE.dtype}\n{_table(rows)}"


def listing(bank: MemoryBank, layer: int, tokenizer: Tokenizer | None, *, text: str | None) -> str:
    """A line for each filled slot of a layer in order of birth; with `text` those that match it."""
    said = {} if tokenizer is None else pieces(bank, layer, tokenizer)
    wanted = chosen(bank, [layer], tokenizer, text=text)[layer]
    rows = [("slot", "document", "age", "read", "surprise", "token", "text")]
    for slot in bank.rows(layer):
        if wanted[slot.slot]:
            numbers = (f"{slot.age:,}", f"{slot.used:.2f}", f"{slot.surprise:.2f}", str(slot.token))
            shown = repr(said[slot.slot]) if slot.slot in said else ""
            rows.append((str(slot.slot), str(slot.label), *numbers, shown))
    return _table(rows)


def pieces(bank: MemoryBank, layer: int, tokenizer: Tokenizer) -> Mapping[int, str]:
    """Slot -> the text that its token completes; empty for the first bytes of a character."""
    return {slot.slot: text for run in _runs(bank, layer) for slot, text in _spoken(run, tokenizer)}


def matching(bank: MemoryBank, layer: int, tokenizer: Tokenizer, *, text: str) -> np.ndarray:
    """`[M]` bool: slots of the tokens that a text, as it stands in the memory, is made of."""
    found = np.zeros(bank.label_LM.shape[1], bool)
    for run in _runs(bank, layer):
        spoken = _spoken(run, tokenizer)
        whole = "".join(piece for _, piece in spoken)
        ends = np.cumsum([len(piece) for _, piece in spoken])
        starts = ends - [len(piece) for _, piece in spoken]
        place = whole.find(text)
        while place >= 0:
            # A token that has no text of its own belongs to what follows it.
            inside = (starts < place + len(text)) & ((ends > place) | (starts >= place))
            found[[slot.slot for (slot, _), hit in zip(spoken, inside, strict=True) if hit]] = True
            place = whole.find(text, place + 1)
    return found


def chosen(
    bank: MemoryBank,
    layers: Iterable[int],
    tokenizer: Tokenizer | None,
    *,
    text: str | None = None,
    slots: Sequence[int] | None = None,
    older_than: int | None = None,
) -> np.ndarray:
    """`[L, M]` bool: filled slots of these layers for which all that is given holds.

    Args:
        bank: the memory.
        layers: their numbers.
        tokenizer: needed with `text`.
        text: see `matching`; not empty.
        slots: numbers of slots.
        older_than: age that a slot is beyond [tokens].

    Raises:
        UserError: the text is empty, an age is negative or a slot is not there.
    """
    num_slots = bank.label_LM.shape[1]
    for slot in slots or ():
        require(0 <= slot < num_slots, f"slot {slot} is not there: slots are 0 to {num_slots - 1}")
    require(text != "", "an empty text is everywhere; give a text to look for")
    require(older_than is None or older_than >= 0, f"an age of {older_than} tokens is none; use 0")
    found = np.zeros(bank.label_LM.shape, bool)
    for layer in layers:
        found[layer] = bank.label_LM[layer] > 0
        if text is not None:
            assert tokenizer is not None
            found[layer] &= matching(bank, layer, tokenizer, text=text)
        if slots is not None:
            found[layer] &= np.isin(np.arange(num_slots), slots)
        if older_than is not None:
            found[layer] &= bank.clock_L[layer] - bank.born_LM[layer] > older_than
    return found


def _runs(bank: MemoryBank, layer: int) -> Iterator[list[Slot]]:
    """Tokens of one document that were offered one after the other."""
    run: list[Slot] = []
    for slot in bank.rows(layer):
        if run and (slot.born != run[-1].born + 1 or slot.label != run[-1].label):
            yield run
            run = []
        run.append(slot)
    if run:
        yield run


def _spoken(run: list[Slot], tokenizer: Tokenizer) -> list[tuple[Slot, str]]:
    decoder = StreamDecoder(tokenizer)
    said = [decoder.feed(slot.token) if slot.token < tokenizer.vocab_size else "" for slot in run]
    said[-1] += decoder.finish()
    return list(zip(run, said, strict=True))


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]))
    return "\n".join(lines)
