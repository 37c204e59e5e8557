"""The peer's side of the time-to-loss benchmark: the standard small GPT on characters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peer.gpt import GPT
from benchmarks.peer.llama import Llama
from benchmarks.peer.recipe import Recipe, Trainer, make_model
from benchmarks.peer.shape import Shape
from benchmarks.text import WINDOW, Windows, read_characters, windows
from benchmarks.timing import Timing, TrainingClock

EVALUATION_ROWS = 128


def train(
    text: Path,
    *,
    seed: int,
    target: float | None,
    recipe: Mapping[str, Any] | None = None,
    shape: Mapping[str, Any] | None = None,
    every: int = 25,
    compiled: bool = False,
    bfloat16: bool = False,
) -> Timing:
    """A `Side`.

    Args:
        text: characters to train on.
        seed: of weights and batches.
        target: held-out loss to stop at; None runs to the end and evaluates there.
        recipe: fields of `Recipe` that differ from the standard ones.
        shape: fields of `Shape` that differ from the standard ones.
        every: steps between evaluations in the second half, with a target.
        compiled: through `torch.compile`.
        bfloat16: with products in bfloat16; evaluation is in float32.
    """
    torch.manual_seed(seed)
    characters = read_characters(text)
    held_out = windows(characters.held_out_N, length=(shape or {}).get("length", WINDOW))
    train_N = torch.from_numpy(characters.train_N)
    clock = TrainingClock()
    sizes = Shape(**{"vocab_size": characters.vocab_size, **(shape or {})})
    how = Recipe(**(recipe or {}))
    with clock.compiling():  # what PyTorch loads on first use is not training either
        trainer = Trainer(make_model(sizes), how, compiled=compiled, bfloat16=bfloat16)
        _prepare(trainer, sizes, how)
    loss = float("inf")
    for step in range(1, how.steps + 1):
        trainer.step(*_batch(train_N, how.batch_size, sizes.length))
        # A planned decay reaches nothing in its first half, and judging takes as long as training.
        due = target is not None and step % every == 0 and 2 * step >= how.steps
        if step == how.steps or due:
            with clock.evaluating():
                loss = evaluate(trainer.model, held_out)
            if target is not None and loss <= target:
                break
    parameters = sum(weight.numel() for weight in trainer.model.parameters())
    reached = target is None or loss <= target
    return clock.timing(reached=reached, loss=loss, steps=trainer.done, parameters=parameters)


@torch.no_grad()
def evaluate(model: GPT | Llama, held_out: Windows) -> float:
    """Mean loss over all windows [nats a character]."""
    total, rows = 0.0, len(held_out.ids_BT)
    for start in range(0, rows, EVALUATION_ROWS):
        part = slice(start, start + EVALUATION_ROWS)
        ids_BT, labels_BT = (torch.from_numpy(array[part]) for array in held_out)
        total += model(ids_BT, labels_BT).item() * len(ids_BT)
    return total / rows


def _batch(train_N: Tensor, rows: int, length: int) -> tuple[Tensor, Tensor]:
    starts_B = torch.randint(len(train_N) - length, (rows,))
    place_BT = starts_B[:, None] + torch.arange(length)
    return train_N[place_BT], train_N[place_BT + 1]


def _prepare(trainer: Trainer, shape: Shape, recipe: Recipe) -> None:
    """Loss and gradient once, compiled where asked; the weights stay as they are."""
    ids_BT = torch.zeros((recipe.batch_size, shape.length), dtype=torch.long)
    trainer.loss(ids_BT, ids_BT).backward()
    trainer.optimizer.zero_grad(set_to_none=True)
