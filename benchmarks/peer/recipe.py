"""How the peer trains: fused AdamW, gradient clipping, a warm-up and a cosine.

Matrices decay, vectors do not. The step is the standard one: zero the gradients, loss, backward,
clip, update.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from benchmarks.peer.gpt import GPT
from benchmarks.peer.llama import Llama
from benchmarks.peer.shape import Shape

Schedule = Literal["cosine", "linear"]


@dataclass(frozen=True)
class Recipe:
    """The standard recipe of a character model on a CPU."""

    steps: int = 2000
    """Steps of the run, which are the schedule's length."""
    batch_size: int = 12
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4
    warmup_steps: int = 100
    schedule: Schedule = "cosine"
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        spent = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        spent = min(spent, 1.0)
        left = 1.0 - spent if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * spent))
        return self.final_learning_rate + left * (self.learning_rate - self.final_learning_rate)


def make_model(shape: Shape) -> GPT | Llama:
    """A fresh model, in the architecture that `shape` names."""
    return GPT(shape) if shape.architecture == "gpt" else Llama(shape)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW in its fused form."""
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.dim() >= 2], "weight_decay": recipe.weight_decay},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (recipe.beta1, recipe.beta2)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=True)


class Trainer:
    """A model, its optimizer, and the step."""

    def __init__(
        self,
        model: GPT | Llama,
        recipe: Recipe,
        *,
        compiled: bool = False,
        bfloat16: bool = False,
    ) -> None:
        self.model, self.recipe = model, recipe
        self.optimizer = make_optimizer(model, recipe)
        self.done = 0
        self._bfloat16 = bfloat16
        # Compiling the loss compiles its backward pass too.
        self._loss = torch.compile(model) if compiled else model

    def step(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """One update; returns the loss of the batch before it, not waited for."""
        rate = self.recipe.rate(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(ids_BT, labels_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return loss.detach()

    def loss(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """The mean loss of a batch, compiled and in low precision if the trainer is."""
        low = torch.autocast("cpu", torch.bfloat16) if self._bfloat16 else nullcontext()
        with low:
            return cast(Tensor, self._loss(ids_BT, labels_BT))
