"""The peer's training step: forward, backward, clip, optimizer."""

import torch

from benchmarks.child import Answer, Spec, since_spawned, time_blocks
from benchmarks.peer.recipe import Recipe, Trainer, make_model
from benchmarks.peer.shape import Shape

BATCHES = 8


def measure(spec: Spec) -> Answer:
    """Spec: `shape`, `batch`, `precision`, `compiled`, `seconds`, `threads`.

    Answer: as `time_blocks`, `startup_wall` and `startup_cpu` up to the first step [seconds],
    `parameters`, `loss` of the last step.
    """
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    shape = Shape(**spec["shape"])
    model = make_model(shape)
    trainer = Trainer(
        model,
        Recipe(batch_size=spec["batch"]),
        compiled=spec["compiled"],
        bfloat16=spec["precision"] == "bfloat16",
    )
    rows = [
        torch.randint(shape.vocab_size, (spec["batch"], shape.length + 1)) for _ in range(BATCHES)
    ]
    batches = [(row[:, :-1].contiguous(), row[:, 1:].contiguous()) for row in rows]
    startup = since_spawned(spec)
    loss = torch.zeros(())

    def advance(count: int) -> None:
        nonlocal loss
        for number in range(count):
            loss = trainer.step(*batches[number % BATCHES])
        loss.item()

    times = time_blocks(advance, seconds=spec["seconds"])
    parameters = sum(weight.numel() for weight in model.parameters())
    return {
        **times,
        "startup_wall": startup,
        "parameters": parameters,
        "loss": loss.item(),
        "compute": spec["precision"],
    }
