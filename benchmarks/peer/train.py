"""The peer's training script: `python -m benchmarks.peer.train --tokens tokens.bin --steps 100`.

Reads a flat file of 16-bit tokens through a memory map, as such scripts do, and prints each loss.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.peer.recipe import Recipe, Trainer, make_model
from benchmarks.peer.shape import Shape


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--shape", type=json.loads, default={})
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--compile", action="store_true")
    flags = parser.parse_args()
    shape = Shape(**flags.shape)
    tokens_N = np.memmap(flags.tokens, dtype=np.uint16, mode="r")
    recipe = Recipe(steps=flags.steps, batch_size=flags.batch_size)
    trainer = Trainer(make_model(shape), recipe, compiled=flags.compile)
    for number in range(flags.steps):
        starts = torch.randint(len(tokens_N) - shape.length, (flags.batch_size,)).tolist()
        rows = [tokens_N[start : start + shape.length + 1].astype(np.int64) for start in starts]
        rows_BT = torch.from_numpy(np.stack(rows))
        loss = trainer.step(rows_BT[:, :-1].contiguous(), rows_BT[:, 1:].contiguous())
        print(f"step {number + 1} loss {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
