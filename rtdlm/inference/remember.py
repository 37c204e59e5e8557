"""Episodic memory that outlives a process: given to a generator from a file, and written to one.

    memory = read_memory(generator, "ada.memory")
    [completion] = generator.generate(["Who am I?"], sampling, memory=memory)
    keep_memory(generator, "Who am I?" + completion.text, memory, "ada.memory")

The file is a `MemoryBank`: the episodic stores of one row. Other tiers begin empty.
"""

from pathlib import Path

from rtdlm.checkpoint.bank import MemoryBank
from rtdlm.config.errors import UserError
from rtdlm.inference.generate import Generator
from rtdlm.models.memory import MemoryState, stores, with_stores


def no_memory(generator: Generator) -> MemoryState:
    """What one row remembers before it read anything.

    Raises:
        UserError: the model has no episodic memory.
    """
    memory = generator.model.empty_memory(1)
    if not stores(memory):
        raise UserError(
            "the checkpoint has no episodic memory to read from a file or keep in one; train it "
            "with memory.episodic_slots"
        )
    return memory


def read_memory(generator: Generator, file: str | Path) -> MemoryState:
    """What one row remembers that a memory was given to.

    Raises:
        UserError: the model has no episodic memory, or the file is no memory, or one of another
            tokenizer or of a model of another shape. A file does not say whose weights wrote it:
            to others of the same shape, or to the same long after, its keys mean less or nothing.
    """
    memory, bank = no_memory(generator), MemoryBank.load(file)
    bank.require_tokenizer(generator.tokenizer.hash)
    return with_stores(memory, bank.into(stores(memory), row=0))


def keep_memory(
    generator: Generator, text: str, memory: MemoryState | None, file: str | Path
) -> None:
    """Writes what a row that began with `memory` remembers after `text`.

    Raises:
        StorageError: the disk refused.
    """
    after = stores(generator.remember(text, memory))
    MemoryBank.from_stores(after, row=0, tokenizer=generator.tokenizer.hash).save(file)
